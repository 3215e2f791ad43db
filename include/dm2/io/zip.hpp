/// @file
/// Reads stored entries of a zip archive, ZIP64 included.
/// Source: PKWARE APPNOTE.TXT 6.3.10.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/bytes.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dm2 {

/// The table of contents of a zip archive held in memory. Names and entries are views of its bytes.
///
/// Checksums are not compared: torch can be told to leave them out.
///
/// Throws file_error for a damaged archive, and by name for an entry that is compressed, encrypted or given twice.
/// Memory taken is less than the archive's own size.
class zip_archive {
 public:
  /// One stored file of the archive.
  struct entry {
    std::string_view name;             ///< its whole path in the archive, as written there; not checked to be UTF-8
    std::span<std::byte const> bytes;  ///< its content
  };

  /// `path` is for messages only.
  zip_archive(std::span<std::byte const> bytes, std::filesystem::path path) : bytes_{bytes}, path_{std::move(path)} {
    read_directory(find_directory());
    std::sort(entries_.begin(), entries_.end(), [](entry const& a, entry const& b) { return a.name < b.name; });
    auto const twice = std::adjacent_find(entries_.begin(), entries_.end(),
                                          [](entry const& a, entry const& b) { return a.name == b.name; });
    if (twice != entries_.end()) fail("entry '" + std::string{twice->name} + "' is there twice");
  }

  /// Every entry, sorted by name.
  [[nodiscard]] std::span<entry const> entries() const noexcept { return entries_; }

  /// The bytes of the entry of that name, or nothing.
  [[nodiscard]] std::optional<std::span<std::byte const>> find(std::string_view name) const noexcept {
    auto const at = std::lower_bound(entries_.begin(), entries_.end(), name,
                                     [](entry const& e, std::string_view n) { return e.name < n; });
    if (at == entries_.end() || at->name != name) return std::nullopt;
    return at->bytes;
  }

 private:
  static constexpr std::uint32_t local_signature = 0x04034b50, central_signature = 0x02014b50,
                                 end_signature = 0x06054b50, end64_signature = 0x06064b50,
                                 locator_signature = 0x07064b50;
  static constexpr std::size_t local_size = 30, central_size = 46, end_size = 22, end64_size = 56, locator_size = 20;

  struct directory {
    std::uint64_t offset, size, count;
  };

  [[noreturn]] void fail(std::string const& reason) const { throw file_error{path_, "zip: " + reason}; }

  template <class T>
  [[nodiscard]] T at(std::uint64_t offset) const {
    if (!detail::in_range(offset, sizeof(T), bytes_.size()))
      fail("a record at byte " + std::to_string(offset) + " passes the end of the file (truncated?)");
    return detail::read_le<T>(bytes_.data() + offset);
  }

  /// The end record is the last thing in the file but for a comment of up to 65,535 bytes.
  [[nodiscard]] std::uint64_t find_end() const {
    if (bytes_.size() >= end_size) {
      std::size_t const last = bytes_.size() - end_size, first = last > 0xFFFF ? last - 0xFFFF : 0;
      for (std::size_t i = last + 1; i-- > first;)
        if (at<std::uint32_t>(i) == end_signature && at<std::uint16_t>(i + 20) == last - i) return i;
    }
    fail("no end of the table of contents: the file is truncated");
  }

  [[nodiscard]] directory find_directory() const {
    std::uint64_t const end = find_end();
    directory d{at<std::uint32_t>(end + 16), at<std::uint32_t>(end + 12), at<std::uint16_t>(end + 10)};
    if (end >= locator_size && at<std::uint32_t>(end - locator_size) == locator_signature) {
      auto const end64 = at<std::uint64_t>(end - locator_size + 8);
      if (!detail::in_range(end64, end64_size, bytes_.size()) || at<std::uint32_t>(end64) != end64_signature)
        fail("the ZIP64 end record is not where its locator says");
      d = {at<std::uint64_t>(end64 + 48), at<std::uint64_t>(end64 + 40), at<std::uint64_t>(end64 + 32)};
    }
    if (!detail::in_range(d.offset, d.size, bytes_.size()) || d.count > d.size / central_size)
      fail("the table of contents does not lie in the file");
    return d;
  }

  void read_directory(directory d) {
    entries_.reserve(static_cast<std::size_t>(d.count));
    std::uint64_t offset = d.offset;
    std::uint64_t const end = d.offset + d.size;
    for (std::uint64_t i = 0; i < d.count; ++i) {
      if (!detail::in_range(offset, central_size, end) || at<std::uint32_t>(offset) != central_signature)
        fail("the table of contents is damaged at byte " + std::to_string(offset));
      std::uint64_t const name = at<std::uint16_t>(offset + 28), extra = at<std::uint16_t>(offset + 30),
                          comment = at<std::uint16_t>(offset + 32);
      if (!detail::in_range(offset + central_size, name + extra + comment, end))
        fail("the table of contents is damaged at byte " + std::to_string(offset));
      entries_.push_back(read_entry(offset, name, extra));
      offset += central_size + name + extra + comment;
    }
  }

  [[nodiscard]] entry read_entry(std::uint64_t central, std::uint64_t name_size, std::uint64_t extra_size) const {
    entry e;
    e.name = detail::as_text(bytes_.subspan(central + central_size, name_size));
    if ((at<std::uint16_t>(central + 8) & 1u) != 0) fail("entry '" + std::string{e.name} + "' is encrypted");
    if (auto const method = at<std::uint16_t>(central + 10); method != 0)
      fail("entry '" + std::string{e.name} + "' is compressed (method " + std::to_string(method) +
           "); only stored entries are read");
    std::uint64_t packed = at<std::uint32_t>(central + 20), size = at<std::uint32_t>(central + 24),
                  local = at<std::uint32_t>(central + 42);
    read_zip64(e.name, central + central_size + name_size, extra_size, size, packed, local);
    if (packed != size) fail("entry '" + std::string{e.name} + "' is stored, but its two sizes differ");
    if (!detail::in_range(local, local_size, bytes_.size()) || at<std::uint32_t>(local) != local_signature)
      fail("entry '" + std::string{e.name} + "' is not where the table of contents says");
    std::uint64_t const data = local + local_size + at<std::uint16_t>(local + 26) + at<std::uint16_t>(local + 28);
    if (!detail::in_range(data, size, bytes_.size()))
      fail("entry '" + std::string{e.name} + "' of " + std::to_string(size) + " bytes passes the end of the file");
    e.bytes = bytes_.subspan(static_cast<std::size_t>(data), static_cast<std::size_t>(size));
    return e;
  }

  /// Replaces each field that reads 0xFFFFFFFF by its 64-bit form from the extra block 0x0001, in the fixed order.
  void read_zip64(std::string_view name, std::uint64_t extra, std::uint64_t extra_size, std::uint64_t& size,
                  std::uint64_t& packed, std::uint64_t& local) const {
    std::uint64_t const end = extra + extra_size;
    while (end - extra >= 4) {
      auto const id = at<std::uint16_t>(extra);
      std::uint64_t const block_end = extra + 4 + at<std::uint16_t>(extra + 2);
      if (block_end > end) break;
      std::uint64_t field = extra + 4;
      if (id == 1) {
        for (std::uint64_t* value : {&size, &packed, &local}) {
          if (*value != 0xFFFFFFFF) continue;
          if (block_end - field < 8) fail("entry '" + std::string{name} + "' has a damaged ZIP64 block");
          *value = at<std::uint64_t>(field);
          field += 8;
        }
        return;
      }
      extra = block_end;
    }
  }

  std::span<std::byte const> bytes_;
  std::filesystem::path path_;
  std::vector<entry> entries_;
};

}  // namespace dm2
