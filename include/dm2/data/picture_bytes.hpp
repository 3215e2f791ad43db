/// @file
/// The bytes of one encoded picture: a file's, or a packed set's record's.
#pragma once

#include <dm2/data/decode.hpp>
#include <dm2/data/pack/packed_set.hpp>
#include <dm2/io/mapped_file.hpp>

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <utility>

namespace dm2 {

/// A picture as it is stored, held in memory. Its packed set lives as long as this, where it is a record of one.
class picture_bytes {
 public:
  /// A file, read. Throws file_error where it cannot be.
  explicit picture_bytes(std::filesystem::path path)
      : name_{std::move(path)}, file_{std::in_place, name_, detail::most_picture_bytes}, bytes_{file_->bytes()} {}
  /// Record i < set->size(). Throws file_error where it is damaged.
  picture_bytes(std::shared_ptr<packed_set const> set, std::size_t i)
      : name_{set->path_of(i)}, set_{std::move(set)}, bytes_{set_->picture(i)} {}

  /// The encoded picture.
  [[nodiscard]] std::span<std::byte const> bytes() const noexcept { return bytes_; }
  /// How messages call it.
  [[nodiscard]] std::filesystem::path const& name() const noexcept { return name_; }

 private:
  std::filesystem::path name_;
  std::shared_ptr<packed_set const> set_;
  std::optional<mapped_file> file_;
  std::span<std::byte const> bytes_;
};

}  // namespace dm2
