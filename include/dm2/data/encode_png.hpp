/// @file
/// A picture as a PNG file: through libpng where DM2_WITH_PNG is defined, stb_image_write otherwise.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/picture.hpp>
#include <dm2/io/atomic_file.hpp>

#include <cstddef>
#include <filesystem>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#ifdef DM2_WITH_PNG
#include <png.h>
#else
#include <limits>

#include <stb_image_write.h>
#endif

namespace dm2 {

/// p as the bytes of an 8-bit RGB PNG file.
///
/// Throws shape_error if p has no pixel, std::bad_alloc or std::length_error if it is too large to encode.
[[nodiscard]] inline std::vector<std::byte> encode_png(picture const& p);

#ifdef DM2_WITH_PNG
inline std::vector<std::byte> encode_png(picture const& p) {
  require_picture("encode_png", p);
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(p.width);
  image.height = static_cast<png_uint_32>(p.height);
  image.format = PNG_FORMAT_RGB;
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(image);
  std::vector<std::byte> file(size);
  if (png_image_write_to_memory(&image, file.data(), &size, 0, p.pixels.data(), 0, nullptr) == 0)
    throw std::length_error{std::string{"encode_png: libpng: "} + image.message};
  file.resize(size);
  return file;
}
#else
inline std::vector<std::byte> encode_png(picture const& p) {
  require_picture("encode_png", p);
  std::vector<std::byte> file;
  auto const append = [](void* to, void* data, int size) {
    auto const* const bytes = static_cast<std::byte const*>(data);
    static_cast<std::vector<std::byte>*>(to)->assign(bytes, bytes + size);
  };
  if (p.pixels.size() > static_cast<std::size_t>(std::numeric_limits<int>::max() / 2))
    throw std::length_error{"encode_png: stb_image_write takes up to 1 GiB of pixels"};
  if (stbi_write_png_to_func(append, &file, p.width, p.height, 3, p.pixels.data(), 3 * p.width) == 0 || file.empty())
    throw std::bad_alloc{};
  return file;
}
#endif

/// Writes p as an 8-bit RGB PNG file: under a temporary name first, synced, then renamed, so that `path` holds the
/// whole picture or what was there before.
///
/// Throws as encode_png does, and file_error if the file cannot be written.
inline void write_png(std::filesystem::path const& path, picture const& p) {
  std::vector<std::byte> const bytes = encode_png(p);
  atomic_file file{path};
  file.write(bytes);
  file.commit();
}

}  // namespace dm2
