/// @file
/// A reader of Python pickles that runs nothing.
///
/// A pickle is a program for a stack machine which may name any Python function and call it. This reader carries out
/// the opcodes that build plain data, in protocols 2 to 5, and writes down what else it meets:
///
/// * a global of the table in pickle/globals.hpp becomes a name, and its call a record of name and arguments;
/// * any other global becomes a `refused` value that carries its name, and so does whatever is made with it. Such
///   values may stand in parts of a file that nobody asks for (a path or a NumPy number among a trainer's callbacks);
///   whoever needs the value reports the name;
/// * any other opcode ends the reading with an error that names it.
///
/// Source: CPython Lib/pickletools.py, which defines each opcode.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/bytes.hpp>
#include <dm2/io/pickle/globals.hpp>
#include <dm2/io/pickle/stack.hpp>
#include <dm2/io/pickle/value.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dm2 {
namespace detail {

struct refused_opcode {
  unsigned code;
  std::string_view name;
};
/// The opcodes of protocols 0 to 5 that are refused: text forms, references by name, calls by class, out-of-band data.
inline constexpr std::array refused_opcodes{
    refused_opcode{'P', "PERSID"},      refused_opcode{'i', "INST"},         refused_opcode{'o', "OBJ"},
    refused_opcode{'I', "INT"},         refused_opcode{'L', "LONG"},         refused_opcode{'F', "FLOAT"},
    refused_opcode{'S', "STRING"},      refused_opcode{'V', "UNICODE"},      refused_opcode{'g', "GET"},
    refused_opcode{'p', "PUT"},         refused_opcode{'2', "DUP"},          refused_opcode{0x82, "EXT1"},
    refused_opcode{0x83, "EXT2"},       refused_opcode{0x84, "EXT4"},        refused_opcode{0x8b, "LONG4"},
    refused_opcode{0x96, "BYTEARRAY8"}, refused_opcode{0x97, "NEXT_BUFFER"}, refused_opcode{0x98, "READONLY_BUFFER"}};

constexpr std::string_view refused_opcode_name(unsigned code) noexcept {
  for (refused_opcode const& op : refused_opcodes)
    if (op.code == code) return op.name;
  return "unknown";
}

/// The stack machine. Every opcode takes at least a byte and makes at most one value of 16 bytes, one child vector, one
/// stack entry and one memo entry; nothing is ever copied out of a shared value. So memory is bounded by a small
/// multiple of the pickle's length, and nothing recurses.
class pickle_machine : pickle_stack {
 public:
  pickle_machine(std::span<std::byte const> source, std::filesystem::path const& path) : pickle_stack{source, path} {}

  /// Runs to the STOP opcode; `consumed` becomes the bytes read.
  pickle_data run(std::size_t& consumed) {
    for (;;) {
      auto const op = take<std::uint8_t>();
      if (op == '.') break;
      if (!scalar(op) && !text(op) && !container(op) && !memo(op) && !object(op))
        fail("opcode " + std::to_string(op) + " (" + std::string{refused_opcode_name(op)} + ") is refused");
    }
    if (stack_.size() != 1 || !marks_.empty())
      fail("STOP with " + std::to_string(stack_.size()) + " values on the stack");
    data_.root = stack_.back();
    consumed = at_;
    return std::move(data_);
  }

 private:
  // --- opcodes, by kind; each says whether it knew the opcode
  bool scalar(unsigned op) {
    switch (op) {
      case 'N':
        return push(none_);
      case 0x88:
        return push(true_);
      case 0x89:
        return push(false_);
      case 'J':
        return integer(take<std::int32_t>());
      case 'K':
        return integer(take<std::uint8_t>());
      case 'M':
        return integer(take<std::uint16_t>());
      case 0x8a:
        return long_integer();
      case 'G':
        return push_new(pickle_kind::floating, 0, big_endian(take<std::uint64_t>()));
      default:
        return false;
    }
  }
  bool integer(std::int64_t value) { return push_new(pickle_kind::integer, 0, static_cast<std::uint64_t>(value)); }
  bool long_integer() {  // little-endian two's complement of 0..255 bytes
    std::uint32_t const count = take<std::uint8_t>();
    std::size_t const first = skip(count);
    if (count > 8) return push_new(pickle_kind::big_integer, count, first);
    std::uint64_t value = 0;
    for (std::uint32_t i = 0; i < count; ++i) value |= std::to_integer<std::uint64_t>(data_.source[first + i]) << 8 * i;
    if (count > 0 && count < 8 && (value >> (8 * count - 1) & 1) != 0) value |= ~std::uint64_t{0} << 8 * count;
    return push_new(pickle_kind::integer, 0, value);
  }
  static std::uint64_t big_endian(std::uint64_t value) {
    std::uint64_t swapped = 0;
    for (int i = 0; i < 8; ++i, value >>= 8) swapped = swapped << 8 | (value & 0xFF);
    return swapped;
  }

  bool text(unsigned op) {
    switch (op) {
      case 'X':
        return view(pickle_kind::text, take<std::uint32_t>());
      case 0x8c:
        return view(pickle_kind::text, take<std::uint8_t>());
      case 0x8d:
        return view(pickle_kind::text, take<std::uint64_t>());
      case 'T':
        return view(pickle_kind::text, take<std::uint32_t>());  // Python 2's str
      case 'U':
        return view(pickle_kind::text, take<std::uint8_t>());
      case 'B':
        return view(pickle_kind::bytes, take<std::uint32_t>());
      case 'C':
        return view(pickle_kind::bytes, take<std::uint8_t>());
      case 0x8e:
        return view(pickle_kind::bytes, take<std::uint64_t>());
      default:
        return false;
    }
  }
  bool view(pickle_kind kind, std::uint64_t length) {
    std::size_t const first = skip(length);
    return push_new(kind, static_cast<std::uint32_t>(length), first);
  }

  bool container(unsigned op) {
    switch (op) {
      case '(':
        marks_.push_back(static_cast<std::uint32_t>(stack_.size()));
        return true;
      case '0':
        return pop(), true;
      case '1':
        return stack_.resize(pop_mark()), true;
      case ')':
        return push(empty_tuple_);
      case 't':
        return tuple(pop_mark());
      case 0x85:
        return tuple_of(1);
      case 0x86:
        return tuple_of(2);
      case 0x87:
        return tuple_of(3);
      case ']':
      case 0x8f:
        return push_new(pickle_kind::list);
      case '}':
        return push_new(pickle_kind::dict);
      case 'l':
      case 0x91:
        return collect(pickle_kind::list);
      case 'd':
        return collect(pickle_kind::dict);
      case 'a':
        return extend_by(1, pickle_kind::list);
      case 's':
        return extend_by(2, pickle_kind::dict);
      case 'e':
      case 0x90:
        return extend(pop_mark(), pickle_kind::list);
      case 'u':
        return extend(pop_mark(), pickle_kind::dict);
      default:
        return false;
    }
  }
  bool extend_by(std::size_t count, pickle_kind kind) {
    if (stack_.size() - floor() <= count) fail("takes a value from an empty stack");
    return extend(stack_.size() - count, kind);
  }
  bool collect(pickle_kind kind) {
    std::size_t const first = pop_mark();
    if (kind == pickle_kind::dict && (stack_.size() - first) % 2 != 0) fail("a dict has a key without a value");
    number const n = make(kind);
    adopt(n, first);
    return push(n);
  }

  bool memo(unsigned op) {
    switch (op) {
      case 'q':
        return put(take<std::uint8_t>());
      case 'r':
        return put(take<std::uint32_t>());
      case 0x94:
        return put(memo_.size());
      case 'h':
        return get(take<std::uint8_t>());
      case 'j':
        return get(take<std::uint32_t>());
      default:
        return false;
    }
  }
  bool put(std::size_t index) {
    // picklers number memo entries in order: none can be past the bytes read so far
    if (index >= at_) fail("memo entry " + std::to_string(index) + " is out of order");
    if (index >= memo_.size()) memo_.resize(index + 1, unset);
    memo_[index] = top();
    return true;
  }
  bool get(std::size_t index) {
    if (index >= memo_.size() || memo_[index] == unset) fail("memo entry " + std::to_string(index) + " was never set");
    return push(memo_[index]);
  }

  bool object(unsigned op) {
    switch (op) {
      case 0x80:
        if (auto const version = take<std::uint8_t>(); version < 2 || version > 5)
          fail("protocol " + std::to_string(version) + " is refused");
        return true;
      case 0x95:
        return take<std::uint64_t>(), true;  // FRAME: a hint for buffered readers
      case 'c':
        return global_lines();
      case 0x93:
        return global_pair();
      case 'R':
      case 0x81:
        return apply();
      case 0x92:
        return apply_with_keywords();
      case 'b':
        return build();
      case 'Q':
        return push_new(pickle_kind::storage, 0, pop());
      default:
        return false;
    }
  }
  bool global_lines() {
    number const module = take_line(), name = take_line();
    return global(module, name);
  }
  bool global_pair() {
    number const name = pop(), module = pop();
    if (node(name).kind != pickle_kind::text || node(module).kind != pickle_kind::text)
      fail("a global's name is not text");
    return global(module, name);
  }
  bool global(number module, number name) {
    auto const id = find_pickle_global(pickle_value{data_, module}.raw(), pickle_value{data_, name}.raw());
    return push_new(id ? pickle_kind::global : pickle_kind::refused, id.value_or(0), node_pair(module, name));
  }
  bool apply() {
    number const arguments = pop(), callable = pop();
    pickle_node const f = node(callable);
    if (f.kind == pickle_kind::refused) return push(callable);
    if (f.kind != pickle_kind::global) fail("calls " + pickle_value{data_, callable}.describe());
    if (node(arguments).kind != pickle_kind::tuple) fail("a call's arguments are no tuple");
    pickle_global const meaning = pickle_global_table[f.small].meaning;
    if (meaning == pickle_global::mapping || meaning == pickle_global::namespace_class) {
      // A mapping from a list of pairs would have to be copied, which shared lists could multiply without bound. Only
      // defaultdict has an argument otherwise, its factory, which does not matter.
      pickle_value const list{data_, arguments};
      bool const empty = list.size() == 0 || (list.size() == 1 && !list[0].is_sequence());
      if (!empty) return push_new(pickle_kind::refused, 0, f.wide);
      return push_new(pickle_kind::dict, 0, meaning == pickle_global::namespace_class ? is_namespace : 0);
    }
    return push_new(pickle_kind::call, 0, node_pair(callable, arguments));
  }
  bool apply_with_keywords() {
    bool const any = pickle_value{data_, pop()}.size() != 0;
    apply();
    if (any && node(top()).kind != pickle_kind::refused) fail("a known class has keyword arguments");
    return true;
  }
  /// An object's state. A Namespace's is its content, which it takes over by reference. Anything else's are attributes,
  /// such as a state dict's `_metadata`, and dropped.
  bool build() {
    number const state = pop(), target = top();
    if (node(target).wide == is_namespace && node(target).kind == pickle_kind::dict &&
        node(state).kind == pickle_kind::dict)
      node(target).small = node(state).small;
    return true;
  }

  static constexpr number unset = ~number{0};
  static constexpr std::uint64_t is_namespace = 1;  // in a dict's `wide`

  std::vector<number> memo_;
};

}  // namespace detail

/// Reads the pickle at the beginning of `bytes`, which must outlive the result; `path` is for messages only.
/// `consumed`, where given, becomes its length. Throws file_error naming the opcode that is refused, or where it is
/// damaged.
[[nodiscard]] inline pickle_document read_pickle(std::span<std::byte const> bytes, std::filesystem::path const& path,
                                                 std::size_t* consumed = nullptr) {
  std::size_t length = 0;
  pickle_document document{detail::pickle_machine{bytes, path}.run(length)};
  if (consumed != nullptr) *consumed = length;
  return document;
}

}  // namespace dm2
