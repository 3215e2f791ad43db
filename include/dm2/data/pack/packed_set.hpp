/// @file
/// Reads packed picture sets: any record, in any order, from any number of threads.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/data/label_map_file.hpp>
#include <dm2/data/pack/format.hpp>
#include <dm2/data/pack/index.hpp>
#include <dm2/data/pack/packed_label_map.hpp>
#include <dm2/data/pack/shard.hpp>
#include <dm2/io/crc32c.hpp>
#include <dm2/io/mapped_file.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace dm2 {

/// Whether a folder is a packed set, a whole one: its index is there.
[[nodiscard]] inline bool is_packed_set(std::filesystem::path const& folder) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(folder / pack_index_name, ignored);
}

namespace detail {

/// A label map's name beside the picture of that name: the picture's up to its first dot, and ".pt".
[[nodiscard]] inline std::filesystem::path label_map_name(std::filesystem::path const& picture) {
  std::string const name = picture.filename().string();
  return picture.parent_path() / (name.substr(0, name.find('.')) + ".pt");
}

/// Asks the system to read these pages now, in one piece, rather than one after the other as they are touched.
inline void read_ahead([[maybe_unused]] std::span<std::byte const> bytes) {
#if defined(__unix__) || defined(__APPLE__)
  static std::uintptr_t const page = std::uintptr_t(::sysconf(_SC_PAGESIZE));
  std::size_t const before = reinterpret_cast<std::uintptr_t>(bytes.data()) % page;  // of the mapping, as its page is
  (void)::posix_madvise(const_cast<std::byte*>(bytes.data()) - before, bytes.size() + before, POSIX_MADV_WILLNEED);
#endif
}

}  // namespace detail

/// A packed set: pictures with their classes and label maps in a few large files, mapped into memory. Records are in
/// the order of the folder that they came from: by class, in natural order, then by path.
///
/// Opening it reads the index and the ends of the shards, and holds every field against the files' sizes. Pictures are
/// not read until they are asked for, and then held against their checksum. Another program that shortens a shard
/// meanwhile makes reading it fault, as with every mapped file.
///
/// Example
///     dm2::packed_set const set{"sets/train"};
///     dm2::picture const p = dm2::decode_image(set.picture(0), set.path_of(0));
class packed_set {
 public:
  /// Throws file_error naming the file, the field and both numbers, where a file is missing, shorter or longer than
  /// the index says, of another set, or no file of this version.
  explicit packed_set(std::filesystem::path root)
      : root_{std::move(root)}, file_{root_ / pack_index_name}, index_{file_.bytes(), file_.path()} {
    shards_.reserve(index_.shards());
    for (std::uint32_t s = 0; s < index_.shards(); ++s) {
      shards_.emplace_back(root_ / detail::pack_shard_name(s), 0);
      check_shard(s);
    }
  }

  /// The folder.
  [[nodiscard]] std::filesystem::path const& root() const noexcept { return root_; }
  /// Number of records.
  [[nodiscard]] std::size_t size() const noexcept { return index_.records(); }
  /// Number of classes, those without a picture included.
  [[nodiscard]] std::size_t classes() const noexcept { return index_.classes(); }
  /// Whether there are label maps.
  [[nodiscard]] bool has_label_maps() const noexcept { return index_.head().maps != 0; }
  /// Whether pictures have other pixels than the files that they came from: packed with a side or a quality.
  [[nodiscard]] bool pixels_changed() const noexcept { return index_.head().quality != 0; }
  /// The name of class c < classes().
  [[nodiscard]] std::string_view class_name(std::size_t c) const noexcept { return index_.class_name(c); }
  /// The first record of class c <= classes(), which is the end of the class before.
  [[nodiscard]] std::size_t first_of(std::size_t c) const noexcept { return index_.first_of(c); }
  /// The name of record i < size(), relative to its class's folder.
  [[nodiscard]] std::string_view name(std::size_t i) const noexcept { return index_.name(i); }
  /// The class of record i < size().
  [[nodiscard]] std::size_t class_of(std::size_t i) const noexcept {
    std::size_t low = 0, high = classes();  // first_of(low) <= i < first_of(high)
    while (high - low > 1) {
      std::size_t const middle = low + (high - low) / 2;
      (first_of(middle) <= i ? low : high) = middle;
    }
    return low;
  }
  /// How messages call record i < size(): the folder, its class, its name.
  [[nodiscard]] std::filesystem::path path_of(std::size_t i) const {
    return root_ / std::filesystem::path{class_name(class_of(i))} / std::filesystem::path{name(i)};
  }
  /// The size of record i < size()'s picture in pixels; 0 x 0 where it could not be decoded when it was packed.
  [[nodiscard]] image_extent extent(std::size_t i) const noexcept {
    detail::pack_record const r = index_.record(i);
    return {int(r.height), int(r.width)};
  }
  /// How record i < size()'s picture came from its file.
  [[nodiscard]] packed_form form(std::size_t i) const noexcept { return packed_form(index_.record(i).form); }

  /// The picture of record i < size(), a whole JPEG or PNG file, valid as long as the set.
  /// Throws  file_error naming path_of(i), where it does not have its checksum.
  [[nodiscard]] std::span<std::byte const> picture(std::size_t i) const {
    detail::pack_record const r = index_.record(i);
    auto const bytes = shards_[r.shard].bytes().subspan(std::size_t(r.offset), r.bytes);
    check(i, "picture", bytes, r.crc);
    return bytes;
  }
  /// The label map of record i < size(). Throws  file_error naming its place, path_of(i) with the ending .pt, where
  /// there is none, it does not have its checksum, or is none for that many classes (check_label_map_values).
  [[nodiscard]] label_map_data label_map(std::size_t i, int classes = 1 << 24) const {
    detail::pack_record const r = index_.record(i);
    if (r.map_bytes == 0)
      throw file_error{detail::label_map_name(path_of(i)),
                       "is not in the packed set: it was missing or damaged when that was made"};
    auto const bytes =
        shards_[r.shard].bytes().subspan(std::size_t(detail::pack_aligned(r.offset + r.bytes)), r.map_bytes);
    check(i, "label map", bytes, r.map_crc);
    return detail::unpack_label_map(bytes, classes, detail::label_map_name(path_of(i)));
  }

  /// The index.
  [[nodiscard]] detail::pack_index const& index() const noexcept { return index_; }
  /// The bytes of shard s < index().shards().
  [[nodiscard]] mapped_file const& shard(std::size_t s) const noexcept { return shards_[s]; }

 private:
  void check_shard(std::uint32_t s) const {
    mapped_file const& file = shards_[s];
    detail::pack_shard const want = index_.shard(s);
    detail::require_equal(file.path(), "size", file.bytes().size(), want.bytes);
    detail::pack_shard_tail const tail = detail::read_pack_tail(file.bytes(), file.path());
    detail::require_equal(file.path(), "identity of the set", tail.identity, index_.head().identity);
    detail::require_equal(file.path(), "number", tail.number, s);
    detail::require_equal(file.path(), "first record", tail.first, want.first);
    detail::require_equal(file.path(), "number of records", tail.records, index_.first_in(s + 1) - want.first);
    detail::require_equal(file.path(), "checksum of the table", tail.table_crc, want.table_crc);
  }
  void check(std::size_t i, char const* what, std::span<std::byte const> bytes, std::uint32_t crc) const {
    detail::read_ahead(bytes);
    if (std::uint32_t const got = detail::crc32c(bytes); got != crc)
      throw file_error{path_of(i), std::string{"is damaged in the packed set: the checksum of its "} + what + " is " +
                                       std::to_string(got) + ", expected " + std::to_string(crc) + " (" +
                                       detail::pack_shard_name(index_.record(i).shard) + ")"};
  }

  std::filesystem::path root_;
  mapped_file file_;
  detail::pack_index index_;
  std::vector<mapped_file> shards_;
};

}  // namespace dm2
