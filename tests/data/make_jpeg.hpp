/// @file
/// JPEG files of unusual kinds, written by libjpeg for tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <vector>

#include <jpeglib.h>

namespace dm2::test {

/// What a test asks of a JPEG file. `components` bytes a pixel go in.
struct jpeg_recipe {
  int components = 3;
  J_COLOR_SPACE given = JCS_RGB;     ///< colour space of the bytes that go in
  J_COLOR_SPACE stored = JCS_YCbCr;  ///< colour space of the file
  int horizontal = 1, vertical = 1;  ///< sampling factors of the first component
  bool progressive = false, arithmetic = false, optimise = false;
  unsigned restart_interval = 0;  ///< in blocks, 0 for none
  int quality = 95;
};

/// Encodes height x width pixels. libjpeg's errors end the program: a recipe that libjpeg refuses is a broken test.
inline std::vector<std::byte> make_jpeg(std::span<std::uint8_t const> pixels, int height, int width, jpeg_recipe r) {
  jpeg_compress_struct c{};
  jpeg_error_mgr errors{};
  c.err = jpeg_std_error(&errors);
  jpeg_create_compress(&c);
  unsigned char* out = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&c, &out, &size);
  c.image_height = static_cast<JDIMENSION>(height);
  c.image_width = static_cast<JDIMENSION>(width);
  c.input_components = r.components;
  c.in_color_space = r.given;
  jpeg_set_defaults(&c);
  jpeg_set_colorspace(&c, r.stored);
  jpeg_set_quality(&c, r.quality, TRUE);
  if (r.components > 1) {
    for (int i = 0; i < c.num_components; ++i) c.comp_info[i].h_samp_factor = c.comp_info[i].v_samp_factor = 1;
    c.comp_info[0].h_samp_factor = r.horizontal;
    c.comp_info[0].v_samp_factor = r.vertical;
  }
  c.restart_interval = r.restart_interval;
  c.arith_code = r.arithmetic ? TRUE : FALSE;
  c.optimize_coding = r.optimise ? TRUE : FALSE;
  if (r.progressive) jpeg_simple_progression(&c);
  jpeg_start_compress(&c, TRUE);
  std::size_t const stride = static_cast<std::size_t>(width) * static_cast<std::size_t>(r.components);
  while (c.next_scanline < c.image_height) {
    JSAMPROW row = const_cast<JSAMPROW>(pixels.data() + c.next_scanline * stride);
    jpeg_write_scanlines(&c, &row, 1);
  }
  jpeg_finish_compress(&c);
  jpeg_destroy_compress(&c);
  auto const* const first = reinterpret_cast<std::byte const*>(out);
  std::vector<std::byte> file{first, first + size};
  std::free(out);
  return file;
}

}  // namespace dm2::test
