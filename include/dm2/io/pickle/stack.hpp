/// @file
/// The state of a pickle's stack machine: input, values, stack and marks, every access checked.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/bytes.hpp>
#include <dm2/io/pickle/value.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace dm2::detail {

/// The stack that a pickle's opcodes work on. Its functions return true, so that an opcode is one return statement.
class pickle_stack {
 protected:
  using number = std::uint32_t;  // of a value

  pickle_stack(std::span<std::byte const> source, std::filesystem::path const& path) : path_{path} {
    // node numbers and text lengths have 32 bits
    if (source.size() > 0x7FFFFFFF) fail("longer than 2 GiB");
    data_.source = source;
    none_ = make(pickle_kind::none);
    false_ = make(pickle_kind::boolean, 0, 0);
    true_ = make(pickle_kind::boolean, 0, 1);
    empty_tuple_ = make(pickle_kind::tuple);
  }

  [[noreturn]] void fail(std::string const& reason) const {
    throw file_error{path_, "pickle, byte " + std::to_string(at_) + ": " + reason};
  }

  // --- input
  template <class T>
  T take() {
    if (sizeof(T) > data_.source.size() - at_) fail("ends inside an instruction (truncated?)");
    T const value = read_le<T>(data_.source.data() + at_);
    at_ += sizeof(T);
    return value;
  }
  std::size_t skip(std::uint64_t count) {
    if (count > data_.source.size() - at_) fail(std::to_string(count) + " bytes pass its end (truncated?)");
    return std::exchange(at_, at_ + static_cast<std::size_t>(count));
  }
  number take_line() {  // text up to a newline, which is consumed
    auto const rest = as_text(data_.source.subspan(at_));
    std::size_t const length = rest.find('\n');
    if (length == rest.npos) fail("a name has no end (truncated?)");
    number const text = make(pickle_kind::text, static_cast<number>(length), at_);
    at_ += length + 1;
    return text;
  }

  // --- values and the stack
  number make(pickle_kind kind, std::uint32_t word = 0, std::uint64_t wide = 0) {
    data_.nodes.push_back({kind, word, wide});
    return static_cast<number>(data_.nodes.size() - 1);
  }
  pickle_node& node(number n) { return data_.nodes[n]; }
  bool push(number n) {
    stack_.push_back(n);
    return true;
  }
  bool push_new(pickle_kind kind, std::uint32_t word = 0, std::uint64_t wide = 0) {
    return push(make(kind, word, wide));
  }
  number pop() {
    if (stack_.size() <= floor()) fail("takes a value from an empty stack");
    number const n = stack_.back();
    stack_.pop_back();
    return n;
  }
  number top() {
    number const n = pop();
    stack_.push_back(n);
    return n;
  }
  [[nodiscard]] std::size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  std::size_t pop_mark() {
    if (marks_.empty()) fail("has no mark");
    std::size_t const first = marks_.back();
    marks_.pop_back();
    return first;
  }
  std::vector<number>& children(number n) {
    if (node(n).word == 0) {
      data_.children.emplace_back();
      node(n).word = static_cast<number>(data_.children.size());
    }
    return data_.children[node(n).word - 1];
  }
  /// Moves the stack from `first` on to the end of n's children.
  void adopt(number n, std::size_t first) {
    if (first == stack_.size()) return;
    auto& list = children(n);
    list.insert(list.end(), stack_.begin() + static_cast<std::ptrdiff_t>(first), stack_.end());
    stack_.resize(first);
  }
  bool tuple(std::size_t first) {
    if (first == stack_.size()) return push(empty_tuple_);
    number const n = make(pickle_kind::tuple);
    adopt(n, first);
    return push(n);
  }
  bool tuple_of(std::size_t count) {
    if (stack_.size() - floor() < count) fail("takes a value from an empty stack");
    return tuple(stack_.size() - count);
  }
  /// Appends the stack from `first` on to the container below it; what is refused stays so, and drops them.
  bool extend(std::size_t first, pickle_kind kind) {
    if (first <= floor()) fail("extends nothing");
    number const target = stack_[first - 1];
    std::size_t const count = stack_.size() - first;
    if (node(target).kind == pickle_kind::refused) {
      stack_.resize(first);
    } else if (node(target).kind != kind || (kind == pickle_kind::dict && count % 2 != 0)) {
      fail("extends " + pickle_value{data_, target}.describe());
    } else {
      adopt(target, first);
    }
    return true;
  }

  std::filesystem::path const& path_;
  pickle_data data_;
  std::vector<number> stack_;
  std::vector<std::uint32_t> marks_;
  std::size_t at_ = 0;
  number none_ = 0, false_ = 0, true_ = 0, empty_tuple_ = 0;
};

}  // namespace dm2::detail
