/// @file
/// A pickle's contents as plain data: nodes that refer to each other by number, and handles to read them with.
#pragma once

#include <dm2/core/compiler.hpp>
#include <dm2/core/utf8.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dm2 {

/// The kinds of a pickle's values.
enum class pickle_kind : std::uint8_t {
  none,
  boolean,
  integer,      ///< fits 64 bits
  big_integer,  ///< a longer one: its bytes, little-endian two's complement
  floating,
  text,  ///< not checked to be UTF-8
  bytes,
  tuple,
  list,     ///< or a set
  dict,     ///< keys and values in turn; also collections.OrderedDict and its like
  global,   ///< a name that the reader knows, by its number in the table of globals.hpp
  call,     ///< a known global applied to a tuple: never carried out, only written down
  storage,  ///< a persistent id: torch's reference to bytes outside the pickle
  refused   ///< an object of a global that the reader does not know
};

namespace detail {

/// A value in 16 bytes. `word` and `wide` depend on the kind: text: length and offset; containers: number of their
/// children's vector plus one (0: none yet); call, refused: two node numbers in `wide`; storage: one.
struct pickle_node {
  pickle_kind kind = pickle_kind::none;
  std::uint32_t word = 0;
  std::uint64_t wide = 0;
};

struct pickle_data {
  std::span<std::byte const> source;
  std::deque<pickle_node> nodes;                    // deques grow without copying: no moment of doubled memory
  std::deque<std::vector<std::uint32_t>> children;  // only containers that are not empty have one
  std::uint32_t root = 0;
};

constexpr std::uint64_t node_pair(std::uint32_t first, std::uint32_t second) noexcept {
  return std::uint64_t{first} << 32 | second;
}

}  // namespace detail

/// A handle to one value; cheap to copy, valid as long as its pickle_document and that one's bytes. Values may be
/// shared and may even contain themselves, so that whoever walks them has to bound depth and count.
class pickle_value {
 public:
  /// The value of that number in `data`, which must outlive the handle; the number is not checked.
  pickle_value(detail::pickle_data const& data, std::uint32_t number) noexcept : data_{&data}, number_{number} {}

  /// The kind, which decides which of the functions below mean something.
  [[nodiscard]] pickle_kind kind() const noexcept { return node().kind; }
  /// Whether the value is of that kind.
  [[nodiscard]] bool is(pickle_kind k) const noexcept { return kind() == k; }
  /// Whether it is a tuple, a list or a set.
  [[nodiscard]] bool is_sequence() const noexcept { return is(pickle_kind::tuple) || is(pickle_kind::list); }
  /// Equal for two handles to one shared value.
  [[nodiscard]] std::uint32_t number() const noexcept { return number_; }

  /// A boolean's value; nothing for any other kind, integers included.
  [[nodiscard]] std::optional<bool> as_boolean() const noexcept {
    if (!is(pickle_kind::boolean)) return std::nullopt;
    return node().wide != 0;
  }
  /// An integer's value; nothing for any other kind, and for integers that do not fit 64 bits.
  [[nodiscard]] std::optional<std::int64_t> as_integer() const noexcept {
    if (!is(pickle_kind::integer)) return std::nullopt;
    return static_cast<std::int64_t>(node().wide);
  }
  /// A floating-point number's value; nothing for any other kind, integers included.
  [[nodiscard]] std::optional<double> as_floating() const noexcept {
    if (!is(pickle_kind::floating)) return std::nullopt;
    return std::bit_cast<double>(node().wide);
  }
  /// A text's bytes, not checked to be UTF-8; nothing for any other kind. Valid as long as the pickle's bytes.
  [[nodiscard]] std::optional<std::string_view> as_text() const noexcept {
    if (!is(pickle_kind::text)) return std::nullopt;
    return raw();
  }
  /// The bytes of text, bytes or a big integer.
  [[nodiscard]] std::string_view raw() const noexcept {
    return {reinterpret_cast<char const*>(data_->source.data()) + node().wide, node().word};
  }
  /// Number of elements of a tuple or list, or of key-value pairs of a dict; 0 for anything else.
  [[nodiscard]] std::size_t size() const noexcept {
    return is(pickle_kind::dict) ? children().size() / 2 : children().size();
  }
  /// Element i < size() of a tuple or list.
  [[nodiscard]] pickle_value operator[](std::size_t i) const noexcept { return {*data_, children()[i]}; }
  /// Key and value i < size() of a dict.
  [[nodiscard]] std::pair<pickle_value, pickle_value> item(std::size_t i) const noexcept {
    return {{*data_, children()[2 * i]}, {*data_, children()[2 * i + 1]}};
  }
  /// The value that a dict has under that text, the last one where it was set several times.
  [[nodiscard]] std::optional<pickle_value> find(std::string_view key) const noexcept {
    if (!is(pickle_kind::dict)) return std::nullopt;
    for (std::size_t i = size(); i-- > 0;)
      if (auto const [name, value] = item(i); name.as_text() == key) return value;
    return std::nullopt;
  }
  /// Number of a global in the reader's table, also of the one that a call applies.
  [[nodiscard]] std::uint32_t global_id() const noexcept {
    return is(pickle_kind::call) ? pickle_value{*data_, static_cast<std::uint32_t>(node().wide >> 32)}.global_id()
                                 : node().word;
  }
  /// The tuple of a call's arguments, or a storage's persistent id.
  [[nodiscard]] pickle_value arguments() const noexcept { return {*data_, static_cast<std::uint32_t>(node().wide)}; }
  /// "module name" of a global or of a refused object, the first 200 bytes of each: many may share one long name. It
  /// is UTF-8 and printable: other bytes are "\xE9", controls '?'.
  [[nodiscard]] std::string global_name() const {
    pickle_value const module{*data_, static_cast<std::uint32_t>(node().wide >> 32)};
    return detail::printable(module.raw().substr(0, 200)) + " " + detail::printable(arguments().raw().substr(0, 200));
  }
  /// A description for messages: "a dict", "an object of the refused global builtins print".
  [[nodiscard]] std::string describe() const {
    static constexpr char const* names[] = {"None",     "a bool", "an integer", "a long integer", "a float",
                                            "a string", "bytes",  "a tuple",    "a list",         "a dict",
                                            "a global", "a call", "a storage"};
    if (is(pickle_kind::refused)) return "an object of the refused global " + global_name();
    return names[static_cast<std::size_t>(kind())];
  }

 private:
  [[nodiscard]] detail::pickle_node const& node() const noexcept { return data_->nodes[number_]; }
  [[nodiscard]] std::span<std::uint32_t const> children() const noexcept {
    bool const container = is_sequence() || is(pickle_kind::dict);
    if (!container || node().word == 0) return {};
    return data_->children[node().word - 1];
  }

  detail::pickle_data const* data_;
  std::uint32_t number_;
};

/// A pickle that has been read. Text stays where it was: the bytes that it was read from must outlive it.
class pickle_document {
 public:
  /// Takes the reader's nodes; the root must be one of them.
  explicit pickle_document(detail::pickle_data data) noexcept : data_{std::move(data)} {}

  /// The value that the pickle stands for.
  [[nodiscard]] pickle_value root() const noexcept { return {data_, data_.root}; }
  /// Number of values, each counted once however often it is shared.
  [[nodiscard]] std::size_t count() const noexcept { return data_.nodes.size(); }
  /// Value i < count(), in the order in which the pickle made them.
  [[nodiscard]] pickle_value value(std::size_t i) const noexcept { return {data_, static_cast<std::uint32_t>(i)}; }

 private:
  detail::pickle_data data_;
};

}  // namespace dm2
