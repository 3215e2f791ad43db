/// @file
/// A reader of protocol buffers' wire format for tests, written from its definition.
#pragma once

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dm2::test {

/// A message's fields, in the file's order.
class protobuf_message {
 public:
  explicit protobuf_message(std::string_view bytes) {
    while (!bytes.empty()) {
      std::uint64_t const key = varint(bytes);
      field f{std::uint32_t(key >> 3), 0, {}};
      if ((key & 7) == 0) {
        f.number = varint(bytes);
      } else {
        REQUIRE((key & 7) == 2);
        std::uint64_t const length = varint(bytes);
        REQUIRE(length <= bytes.size());
        f.bytes = bytes.substr(0, length);
        bytes.remove_prefix(length);
      }
      fields_.push_back(std::move(f));
    }
  }

  [[nodiscard]] std::vector<std::string_view> texts(std::uint32_t number) const {
    std::vector<std::string_view> out;
    for (field const& f : fields_)
      if (f.id == number) out.push_back(f.bytes);
    return out;
  }
  [[nodiscard]] std::string_view text(std::uint32_t number) const {
    auto const all = texts(number);
    return all.empty() ? std::string_view{} : all.back();
  }
  [[nodiscard]] std::vector<protobuf_message> messages(std::uint32_t number) const {
    std::vector<protobuf_message> out;
    for (std::string_view const t : texts(number)) out.emplace_back(t);
    return out;
  }
  [[nodiscard]] protobuf_message message(std::uint32_t number) const { return protobuf_message{text(number)}; }
  [[nodiscard]] std::vector<std::int64_t> numbers(std::uint32_t number) const {
    std::vector<std::int64_t> out;
    for (field const& f : fields_)
      if (f.id == number) out.push_back(std::int64_t(f.number));
    return out;
  }
  [[nodiscard]] std::int64_t number(std::uint32_t id) const {
    auto const all = numbers(id);
    return all.empty() ? 0 : all.back();
  }

 private:
  struct field {
    std::uint32_t id;
    std::uint64_t number;
    std::string_view bytes;
  };

  static std::uint64_t varint(std::string_view& bytes) {
    std::uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      REQUIRE(!bytes.empty());
      REQUIRE(shift < 64);
      auto const byte = static_cast<unsigned char>(bytes.front());
      bytes.remove_prefix(1);
      value |= std::uint64_t(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
  }

  std::vector<field> fields_;
};

}  // namespace dm2::test
