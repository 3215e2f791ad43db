/// @file
/// Writing zip archives of stored (not compressed) entries.
/// Source: PKWARE APPNOTE.TXT 6.3.10.
#pragma once

#include <dm2/core/compiler.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dm2 {
namespace detail {

/// The remainders of every byte by the polynomial 0xEDB88320 (reflected), zip's.
inline constexpr auto crc32_table = [] {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t v = i;
    for (int bit = 0; bit < 8; ++bit) v = (v >> 1) ^ ((v & 1u) != 0 ? 0xEDB88320u : 0u);
    table[i] = v;
  }
  return table;
}();

}  // namespace detail

/// The checksum of zip and PNG.
[[nodiscard]] constexpr std::uint32_t crc32(std::span<std::byte const> bytes) noexcept {
  std::uint32_t v = ~0u;
  for (std::byte b : bytes) v = (v >> 8) ^ detail::crc32_table[(v ^ std::uint32_t(b)) & 0xFFu];
  return ~v;
}

/// An archive that is built in memory. Each entry's data begin at a multiple of 64 bytes, as torch.save has them, so
/// that tensors can be read in place.
///
/// Throws std::length_error from add() and finish() where the archive would pass 4 GiB or 65,535 entries, which takes
/// the ZIP64 form.
class zip_builder {
 public:
  /// Appends an entry. Names are not checked for being there twice.
  void add(std::string_view name, std::span<std::byte const> content) {
    if (name.size() > 0xFFFF || ++count_ > 0xFFFF) throw std::length_error{"zip_builder: too many entries"};
    std::size_t const at = bytes_.size();
    // an extra block needs 4 bytes for its own id and length, then the padding
    std::size_t const data = (at + 30 + name.size() + 4 + 63) / 64 * 64, padding = data - (at + 30 + name.size() + 4);
    if (content.size() > 0xFFFFFFFF || data + content.size() > 0xFFFFFFFF)
      throw std::length_error{"zip_builder: an archive over 4 GiB"};
    std::uint32_t const sum = crc32(content), size = std::uint32_t(content.size());
    number(bytes_, 0x04034b50u);
    describe(bytes_, sum, size, name, padding + 4);
    text(bytes_, name);
    number(bytes_, padding_id);
    number(bytes_, std::uint16_t(padding));
    bytes_.resize(data, std::byte{'Z'});
    bytes_.insert(bytes_.end(), content.begin(), content.end());
    number(directory_, 0x02014b50u);
    number(directory_, std::uint16_t{0});
    describe(directory_, sum, size, name, 0);
    number(directory_, std::uint16_t{0});  // comment
    number(directory_, std::uint16_t{0});  // disk
    number(directory_, std::uint16_t{0});  // attributes
    number(directory_, std::uint32_t{0});
    number(directory_, std::uint32_t(at));
    text(directory_, name);
  }

  /// The whole archive; the builder is empty then.
  [[nodiscard]] std::vector<std::byte> finish() {
    std::size_t const start = bytes_.size();
    if (start + directory_.size() > 0xFFFFFFFF) throw std::length_error{"zip_builder: an archive over 4 GiB"};
    std::vector<std::byte> out = std::move(bytes_);
    out.insert(out.end(), directory_.begin(), directory_.end());
    number(out, 0x06054b50u);
    number(out, std::uint32_t{0});  // disks
    number(out, std::uint16_t(count_));
    number(out, std::uint16_t(count_));
    number(out, std::uint32_t(directory_.size()));
    number(out, std::uint32_t(start));
    number(out, std::uint16_t{0});  // comment
    *this = {};
    return out;
  }

 private:
  static constexpr std::uint16_t padding_id = 0x4246;  ///< "FB", torch's

  template <class T>
  static void number(std::vector<std::byte>& to, T value) {
    for (std::size_t i = 0; i < sizeof(T); ++i) to.push_back(std::byte(value >> (8 * i) & 0xFFu));
  }
  static void text(std::vector<std::byte>& to, std::string_view characters) {
    for (char c : characters) to.push_back(std::byte(c));
  }
  /// The part that an entry's two headers share. The time is 1980-01-01, so that equal contents are equal files.
  static void describe(std::vector<std::byte>& to, std::uint32_t sum, std::uint32_t size, std::string_view name,
                       std::size_t extra) {
    number(to, std::uint16_t{20});      // version of the format
    number(to, std::uint16_t{0x0800});  // names are UTF-8
    number(to, std::uint16_t{0});       // stored
    number(to, std::uint16_t{0});       // time
    number(to, std::uint16_t{0x0021});  // date
    number(to, sum);
    number(to, size);
    number(to, size);
    number(to, std::uint16_t(name.size()));
    number(to, std::uint16_t(extra));
  }

  std::vector<std::byte> bytes_, directory_;
  std::size_t count_ = 0;
};

}  // namespace dm2
