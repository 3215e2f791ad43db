/// @file
/// Files written by torch.save: the zip format, and the one before it (magic number, pickles, storages).
/// Source: PyTorch torch/serialization.py, torch/_utils.py.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/bytes.hpp>
#include <dm2/io/pickle.hpp>
#include <dm2/io/tensor.hpp>
#include <dm2/io/zip.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dm2 {

/// Whether `bytes` begin as a zip archive.
[[nodiscard]] inline bool looks_like_zip(std::span<std::byte const> bytes) noexcept {
  return bytes.size() >= 4 && detail::as_text(bytes.first(4)) == std::string_view{"PK\3\4", 4};
}

/// Whether `bytes` begin as a pickle of protocol 2 to 5, as torch's older format does.
[[nodiscard]] inline bool looks_like_pickle(std::span<std::byte const> bytes) noexcept {
  return bytes.size() >= 2 && bytes[0] == std::byte{0x80} && bytes[1] >= std::byte{2} && bytes[1] <= std::byte{5};
}

/// A file of torch.save, read in place: the tree of values, and its tensors as views.
///
/// Throws file_error, from the constructor for a damaged file, a big-endian one, or one whose top value is an object of
/// a refused global; from tensor() where a view does not fit its storage.
class torch_file {
 public:
  /// `bytes` is the whole file and must outlive this and every view; `path` is for messages.
  torch_file(std::span<std::byte const> bytes, std::filesystem::path path) : path_{std::move(path)} {
    zip_format_ = looks_like_zip(bytes);
    if (zip_format_)
      read_zip(bytes);
    else
      read_legacy(bytes);
    if (root().is(pickle_kind::refused))
      fail("holds " + root().describe() + "; nothing was run, and there is nothing else to read");
  }

  /// The path that messages name, as the constructor was given it.
  [[nodiscard]] std::filesystem::path const& path() const noexcept { return path_; }
  /// Whether it is a zip archive, not the older format.
  [[nodiscard]] bool is_zip() const noexcept { return zip_format_; }
  /// Length of the pickle, in bytes.
  [[nodiscard]] std::size_t pickle_size() const noexcept { return pickle_size_; }
  /// The value that was saved; handles live as long as this.
  [[nodiscard]] pickle_value root() const noexcept { return document_->root(); }

  /// Whether `v` stands for a tensor or a parameter.
  [[nodiscard]] static bool is_tensor(pickle_value v) { return rebuild_arguments(v).has_value(); }

  /// The elements of a tensor whose type dm2::dtype does not have, such as a complex one; nothing for any other.
  [[nodiscard]] static std::optional<std::string> foreign_elements(pickle_value v) {
    auto const arguments = rebuild_arguments(v);
    if (!arguments || arguments->size() == 0 || !(*arguments)[0].is(pickle_kind::storage)) return std::nullopt;
    pickle_value const id = (*arguments)[0].arguments();
    if (!id.is(pickle_kind::tuple) || id.size() < 2 || !id[1].is(pickle_kind::refused)) return std::nullopt;
    return id[1].describe();
  }

  /// The tensor that `v` stands for, under `name`; its view was held against its storage.
  [[nodiscard]] stored_tensor tensor(pickle_value v, std::string name) const {
    auto const arguments = rebuild_arguments(v);
    if (!arguments) fail("'" + name + "' is " + v.describe() + ", not a tensor");
    stored_tensor t;
    t.name = std::move(name);
    if (arguments->size() < 4 || !(*arguments)[0].is(pickle_kind::storage))
      fail("tensor '" + t.name + "' has no storage");
    auto const offset = (*arguments)[1].as_integer();
    t.shape = sizes((*arguments)[2], t.name);
    t.strides = sizes((*arguments)[3], t.name);
    if (!offset || *offset < 0 || t.shape.size() != t.strides.size())
      fail("tensor '" + t.name + "' has a damaged offset, shape or strides");
    place(t, static_cast<std::uint64_t>(*offset), storage_of((*arguments)[0], t.name));
    return t;
  }

 private:
  struct storage {
    dtype type;
    std::uint64_t count;  // elements
    std::span<std::byte const> bytes;
  };
  struct storage_id {
    dtype type;
    std::string_view key;
    std::uint64_t count;
  };

  [[noreturn]] void fail(std::string const& reason) const { throw file_error{path_, reason}; }

  // --- values

  /// Arguments of the call that rebuilds a tensor, seen through the parameter (one level) and attribute (one level)
  /// around it; nothing where `v` is no tensor.
  static std::optional<pickle_value> rebuild_arguments(pickle_value v) {
    for (int level = 0; level < 3; ++level) {
      if (!v.is(pickle_kind::call)) return std::nullopt;
      pickle_value const arguments = v.arguments();
      switch (detail::pickle_global_table[v.global_id()].meaning) {
        case pickle_global::rebuild_tensor:
          return arguments;
        case pickle_global::rebuild_parameter:
          if (arguments.size() == 0) return std::nullopt;
          v = arguments[0];
          break;
        case pickle_global::rebuild_attributed: {
          if (arguments.size() < 3 || !arguments[0].is(pickle_kind::global) || !arguments[2].is(pickle_kind::tuple))
            return std::nullopt;
          auto const inner = detail::pickle_global_table[arguments[0].global_id()].meaning;
          if (inner == pickle_global::rebuild_tensor) return arguments[2];
          if (inner != pickle_global::rebuild_parameter || arguments[2].size() == 0) return std::nullopt;
          v = arguments[2][0];
          break;
        }
        default:
          return std::nullopt;
      }
    }
    return std::nullopt;
  }

  std::vector<std::int64_t> sizes(pickle_value v, std::string const& name) const {
    if (!v.is_sequence() || v.size() > max_stored_rank)
      fail("tensor '" + name + "': a shape or stride is " + v.describe() + " of " + std::to_string(v.size()) +
           " values");
    std::vector<std::int64_t> out(v.size());
    for (std::size_t i = 0; i < out.size(); ++i) {
      auto const n = v[i].as_integer();
      if (!n || *n < 0) fail("tensor '" + name + "': a shape or stride is not a number of 0 or more");
      out[i] = *n;
    }
    return out;
  }

  /// ("storage", its class, key, device, number of elements[, None])
  storage_id identify(pickle_value reference) const {
    pickle_value const id = reference.arguments();
    bool const known = id.is(pickle_kind::tuple) && id.size() >= 5 && id[0].as_text() == "storage" && id[2].as_text() &&
                       id[2].raw().size() <= 200;  // many may share one long text
    auto const count = known ? id[4].as_integer() : std::nullopt;
    if (!count || *count < 0) fail("a storage's id is damaged");
    if (!id[1].is(pickle_kind::global) ||
        detail::pickle_global_table[id[1].global_id()].meaning != pickle_global::storage_class)
      fail("storage '" + std::string{*id[2].as_text()} + "' has elements of " + id[1].describe());
    if (id.size() > 5 && !id[5].is(pickle_kind::none))
      fail("storage '" + std::string{*id[2].as_text()} + "' is a view of another, which is refused");
    return {detail::pickle_global_table[id[1].global_id()].type, *id[2].as_text(), static_cast<std::uint64_t>(*count)};
  }

  storage storage_of(pickle_value reference, std::string const& name) const {
    auto const [type, key, count] = identify(reference);
    auto const bytes = zip_format_ ? archive_->find(prefix_ + "/data/" + std::string{key}) : find_legacy(key);
    if (!bytes) fail("tensor '" + name + "': storage '" + std::string{key} + "' is not in the file");
    auto const needed = detail::checked_product(count, size_of(type));
    if (!needed || *needed > bytes->size())
      fail("tensor '" + name + "': storage '" + std::string{key} + "' of " + std::to_string(count) + " " +
           std::string{name_of(type)} + " has " + std::to_string(bytes->size()) + " bytes");
    return {type, count, *bytes};
  }

  /// Points t into its storage, after checking that every element lies there. There may not be more elements than the
  /// storage has: a stride of 0 could name 2^60 of them in a file of 1 KB.
  void place(stored_tensor& t, std::uint64_t offset, storage const& s) const {
    auto const count = detail::element_count(t.shape);
    bool fits = count && *count <= s.count && offset <= s.count;
    if (fits && *count > 0) {
      std::uint64_t last = offset;
      for (std::size_t axis = 0; fits && axis < t.shape.size(); ++axis) {
        auto const step = detail::checked_product(static_cast<std::uint64_t>(t.shape[axis] - 1),
                                                  static_cast<std::uint64_t>(t.strides[axis]));
        fits = step && *step < s.count && last + *step < s.count;
        if (fits) last += *step;
      }
      fits = fits && last < s.count;
    }
    if (!fits)
      fail("tensor '" + t.name + "': shape " + shape_text(t.shape) + ", strides " + shape_text(t.strides) +
           ", offset " + std::to_string(offset) + " do not fit a storage of " + std::to_string(s.count) + " elements");
    for (std::size_t axis = 0; axis < t.shape.size(); ++axis)  // no step is ever made there, so it may be any number
      if (*count == 0 || t.shape[axis] == 1) t.strides[axis] = 0;
    t.type = s.type;
    t.data = s.bytes.data() + offset * size_of(s.type);
  }

  // --- the zip format

  /// ", but NumPy's (.npz)": whose archive it is, where that is known.
  static std::string zip_kind(zip_archive const& archive) {
    static constexpr std::array<std::pair<std::string_view, char const*>, 4> kinds{
        {{".npy", ", but NumPy's (.npz)"},
         {"model.weights.h5", ", but Keras's (.keras)"},
         {"[Content_Types].xml", ", but an Office document"},
         {"META-INF/MANIFEST.MF", ", but a Java archive"}}};
    for (auto const& [end, kind] : kinds)
      for (auto const& entry : archive.entries())
        if (entry.name.ends_with(end)) return kind;
    return {};
  }

  void read_zip(std::span<std::byte const> bytes) {
    archive_.emplace(bytes, path_);
    static constexpr std::string_view suffix = "/data.pkl";
    for (auto const& entry : archive_->entries()) {
      if (!entry.name.ends_with(suffix)) continue;
      if (document_) fail("zip: more than one entry is called data.pkl");
      prefix_ = entry.name.substr(0, entry.name.size() - suffix.size());
      if (prefix_.size() > 1000) fail("zip: the folder of data.pkl has a name of over 1000 bytes");  // copied each time
      document_ = std::make_unique<pickle_document>(read_pickle(entry.bytes, path_));
      pickle_size_ = entry.bytes.size();
    }
    if (!document_) fail("zip: no entry is called data.pkl; not a torch file" + zip_kind(*archive_));
    if (auto const order = archive_->find(prefix_ + "/byteorder"); order && detail::as_text(*order) != "little")
      fail("byteorder is '" + std::string{detail::as_text(order->first(std::min<std::size_t>(order->size(), 16)))} +
           "'; only little-endian files are read");
  }

  // --- the older format

  void read_legacy(std::span<std::byte const> bytes) {
    // 0x1950a86a20f9469cfc6c
    static constexpr std::string_view magic = "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
    std::size_t at = 0;
    auto const next = [&] {
      std::size_t length = 0;
      auto document = std::make_unique<pickle_document>(read_pickle(bytes.subspan(at), path_, &length));
      at += length;
      return document;
    };
    if (auto const first = next(); !first->root().is(pickle_kind::big_integer) || first->root().raw() != magic)
      fail("a pickle, but not one that torch.save wrote: torch's magic number is missing, it holds " +
           first->root().describe());
    if (auto const version = next(); version->root().as_integer() != 1001)
      fail("torch's older format in a version other than 1001");
    auto const system = next();
    auto const little = system->root().find("little_endian");
    if (!little || little->as_boolean() != true) fail("little_endian is not True; only little-endian files are read");
    document_ = next();
    pickle_size_ = at;
    auto const keys = next();
    read_storages(bytes, *keys, at);
  }

  /// After a pickle of keys: for each key its number of elements (i64) and its bytes. Widths come from the main pickle.
  void read_storages(std::span<std::byte const> bytes, pickle_document const& keys, std::size_t at) {
    std::map<std::string_view, storage_id> known;
    for (std::size_t i = 0; i < document_->count(); ++i)
      if (auto const v = document_->value(i); v.is(pickle_kind::storage)) {
        storage_id const id = identify(v);
        known.emplace(id.key, id);
      }
    for (std::size_t i = 0; i < keys.root().size(); ++i) {
      auto const key = keys.root()[i].as_text();
      auto const id = key ? known.find(*key) : known.end();
      if (id == known.end()) fail("a storage that no tensor refers to has no known width");
      if (!detail::in_range(at, 8, bytes.size())) fail("ends before storage '" + std::string{*key} + "' (truncated?)");
      auto const count = detail::read_le<std::uint64_t>(bytes.data() + at);
      at += 8;
      auto const size = detail::checked_product(count, size_of(id->second.type));
      if (!size || !detail::in_range(at, *size, bytes.size()))
        fail("storage '" + std::string{*key} + "' of " + std::to_string(count) +
             " elements passes the end of the file");
      legacy_.emplace(id->first, bytes.subspan(at, static_cast<std::size_t>(*size)));
      at += static_cast<std::size_t>(*size);
    }
  }

  std::optional<std::span<std::byte const>> find_legacy(std::string_view key) const {
    auto const at = legacy_.find(key);
    if (at == legacy_.end()) return std::nullopt;
    return at->second;
  }

  std::filesystem::path path_;
  bool zip_format_ = false;
  std::optional<zip_archive> archive_;
  std::string prefix_;
  std::map<std::string_view, std::span<std::byte const>> legacy_;  // keys point into the file
  std::unique_ptr<pickle_document> document_;                      // its handles must survive a move of this
  std::size_t pickle_size_ = 0;
};

}  // namespace dm2
