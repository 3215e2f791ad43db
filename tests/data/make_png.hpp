/// @file
/// PNG files of every kind, written by libpng for tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <vector>

#include <png.h>

namespace dm2::test {

/// What a test asks of a PNG file. Rows are packed as PNG stores them.
struct png_recipe {
  int depth = 8, colour = PNG_COLOR_TYPE_RGB;
  bool interlaced = false;
  std::vector<png_color> palette{};
  std::vector<png_byte> palette_alpha{};
  bool transparent_colour = false;  ///< marks sample value 1 (in each channel) as transparent
};

/// Encodes height rows of packed samples, `stride` bytes each. libpng's errors end the program.
inline std::vector<std::byte> make_png(std::span<std::uint8_t const> rows, int height, int width, std::size_t stride,
                                       png_recipe const& r) {
  std::vector<std::byte> file;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  if (setjmp(png_jmpbuf(png)) != 0) std::abort();
  png_set_write_fn(
      png, &file,
      [](png_structp p, png_bytep data, png_size_t n) {
        auto& out = *static_cast<std::vector<std::byte>*>(png_get_io_ptr(p));
        auto const* const first = reinterpret_cast<std::byte const*>(data);
        out.insert(out.end(), first, first + n);
      },
      nullptr);
  png_set_IHDR(png, info, static_cast<png_uint_32>(width), static_cast<png_uint_32>(height), r.depth, r.colour,
               r.interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
               PNG_FILTER_TYPE_DEFAULT);
  if (!r.palette.empty()) png_set_PLTE(png, info, r.palette.data(), static_cast<int>(r.palette.size()));
  png_color_16 const one{1, 1, 1, 1, 1};
  if (!r.palette_alpha.empty())
    png_set_tRNS(png, info, r.palette_alpha.data(), static_cast<int>(r.palette_alpha.size()), nullptr);
  else if (r.transparent_colour)
    png_set_tRNS(png, info, nullptr, 0, &one);
  png_set_gAMA(png, info, 0.2);  // which decoding must not apply
  png_write_info(png, info);
  std::vector<png_bytep> pointers;
  for (int y = 0; y < height; ++y)
    pointers.push_back(const_cast<png_bytep>(rows.data() + static_cast<std::size_t>(y) * stride));
  png_write_image(png, pointers.data());
  png_write_end(png, info);
  png_destroy_write_struct(&png, &info);
  return file;
}

}  // namespace dm2::test
