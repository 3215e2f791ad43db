/// @file
/// Messages in the protocol buffers wire format.
#pragma once

#include <dm2/core/compiler.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace dm2::detail {

/// Builds one message, field by field, in the order of the calls
/// (https://protobuf.dev/programming-guides/encoding). The caller knows the message's definition: a number's or enum's
/// field is written with integer, a string's or bytes' with text or bytes.
class protobuf_writer {
 public:
  /// An int32, int64, uint32, uint64, bool or enum.
  void integer(std::uint32_t field, std::int64_t value) {
    key(field, 0);
    varint(static_cast<std::uint64_t>(value));
  }
  /// A double.
  void number(std::uint32_t field, double value) {
    key(field, 1);
    fixed(std::bit_cast<std::uint64_t>(value), 8);
  }
  /// A float.
  void number(std::uint32_t field, float value) {
    key(field, 5);
    fixed(std::bit_cast<std::uint32_t>(value), 4);
  }
  /// What stands before the bytes of a text, of bytes or of a message that follow elsewhere.
  void begin(std::uint32_t field, std::size_t count) {
    key(field, 2);
    varint(count);
  }
  void bytes(std::uint32_t field, std::span<std::byte const> value) {
    begin(field, value.size());
    out_.insert(out_.end(), value.begin(), value.end());
  }
  void text(std::uint32_t field, std::string_view value) { bytes(field, std::as_bytes(std::span{value})); }
  void message(std::uint32_t field, protobuf_writer const& value) { bytes(field, value.out_); }

  /// The message so far.
  [[nodiscard]] std::span<std::byte const> data() const noexcept { return out_; }

 private:
  void key(std::uint32_t field, std::uint32_t wire_type) { varint(std::uint64_t{field} << 3 | wire_type); }
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) out_.push_back(static_cast<std::byte>(value | 0x80));
    out_.push_back(static_cast<std::byte>(value));
  }
  void fixed(std::uint64_t value, int count) {
    for (int i = 0; i < count; ++i, value >>= 8) out_.push_back(static_cast<std::byte>(value));
  }
  std::vector<std::byte> out_;
};

}  // namespace dm2::detail
