/// @file
/// PNG through libpng. Present where DM2_WITH_PNG is defined.
#pragma once

#ifdef DM2_WITH_PNG

#include <dm2/core/error.hpp>
#include <dm2/data/decode/format.hpp>
#include <dm2/data/decode/options.hpp>
#include <dm2/data/picture.hpp>

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <new>
#include <span>
#include <string>

#include <png.h>

namespace dm2 {
namespace detail {

/// libpng's state for one file in memory. As in jpeg_reader, errors leave libpng by longjmp to run(), and a step holds
/// no object with a destructor.
class png_reader {
 public:
  png_structp png = nullptr;
  png_infop info = nullptr;

  png_reader(std::span<std::byte const> file, std::filesystem::path const& name) : file_{file}, name_{name} {
    png = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, fail, [](png_structp, png_const_charp) {});
    info = png == nullptr ? nullptr : png_create_info_struct(png);
    if (info == nullptr) {
      png_destroy_read_struct(&png, nullptr, nullptr);
      throw std::bad_alloc{};
    }
    png_set_read_fn(png, this, read);
  }
  png_reader(png_reader const&) = delete;
  png_reader& operator=(png_reader const&) = delete;
  ~png_reader() { png_destroy_read_struct(&png, &info, nullptr); }

  /// Calls step(); throws file_error with libpng's message if libpng gives up inside.
  template <class Step>
  void run(Step const& step) {
    if (!completes(step)) throw file_error{name_, std::string{"PNG: "} + message_.data()};
  }

 private:
  template <class Step>
  bool completes(Step const& step) {
    if (setjmp(jump_) != 0) return false;
    step();
    return true;
  }

  [[noreturn]] static void fail(png_structp png, png_const_charp why) {
    auto& self = *static_cast<png_reader*>(png_get_error_ptr(png));
    std::snprintf(self.message_.data(), self.message_.size(), "%s", why);
    std::longjmp(self.jump_, 1);
  }

  static void read(png_structp png, png_bytep out, std::size_t n) {
    auto& self = *static_cast<png_reader*>(png_get_io_ptr(png));
    if (n > self.file_.size() - self.at_) png_error(png, "file is truncated");
    std::memcpy(out, self.file_.data() + self.at_, n);
    self.at_ += n;
  }

  std::span<std::byte const> file_;
  std::size_t at_ = 0;
  std::filesystem::path const& name_;
  std::jmp_buf jump_{};
  std::array<char, 256> message_{};
};

/// Reads the header and asks libpng for 8-bit RGB rows, or 16-bit grey ones. Returns the number of passes.
inline int open_png(png_reader& reader, png_header const& header) {
  int passes = 1;
  reader.run([&] {
    auto* const png = reader.png;
    png_set_user_limits(png, 0x7fffffff, 0x7fffffff);                       // read_png_header has checked the size
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);  // text, profiles, gamma: not even unpacked
    png_read_info(png, reader.info);
    bool const grey16 = header.colour == PNG_COLOR_TYPE_GRAY && header.depth == 16;
    if (header.colour == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
    if (header.colour == PNG_COLOR_TYPE_GRAY && header.depth < 8) png_set_expand_gray_1_2_4_to_8(png);
    if (!grey16) {
      png_set_strip_16(png);
      png_set_gray_to_rgb(png);
    }
    png_set_strip_alpha(png);
    passes = png_set_interlace_handling(png);
    png_read_update_info(png, reader.info);
  });
  return passes;
}

/// Widens a row of 16-bit big-endian grey at the front of `row` to RGB in place: values above 255 become 255, which is
/// what Pillow's conversion of its 16-bit grey modes to RGB does.
inline void widen_grey16(std::uint8_t* row, std::size_t columns) {
  for (std::size_t x = columns; x-- > 0;) {
    std::uint8_t const v = row[2 * x] != 0 ? std::uint8_t{255} : row[2 * x + 1];
    std::fill_n(row + 3 * x, 3, v);
  }
}

/// Reads all rows: in one pass band by band, interlaced pictures whole.
inline void read_png_rows(png_reader& reader, picture& out, int passes) {
  int const band = passes == 1 ? decode_band : out.height;
  for (int y = 0; y < out.height; y += band) {
    int const n = std::min(band, out.height - y);
    out.pixels.resize(static_cast<std::size_t>(y + n) * out.stride());
    reader.run([&] {
      for (int pass = 0; pass < passes; ++pass)
        for (int i = 0; i < n; ++i) png_read_row(reader.png, out.row(y + i), nullptr);
    });
  }
}

}  // namespace detail

/// Decodes a PNG: every colour type and bit depth, interlaced or not.
///
/// The result is that of Pillow's Image.open(...).convert("RGB"): alpha and transparent colours are dropped, not
/// blended; gamma and colour profiles are not applied; of 16-bit colour and grey with alpha the high byte is kept;
/// 16-bit grey without alpha is clamped to 255. Bytes after the last row, the end chunk's too, are not looked at.
///
/// Throws  file_error naming `name` and the reason: not a PNG, truncated, damaged (checksums are held), or larger than
///         the limits in `options`, which are checked before memory for pixels is taken.
[[nodiscard]] inline picture decode_png(std::span<std::byte const> file, std::filesystem::path const& name,
                                        decode_options const& options = {}) {
  if (sniff_format(file) != picture_format::png) throw file_error{name, "is not a PNG file"};
  detail::png_header const header = detail::read_png_header(file, name, options);
  detail::png_reader reader{file, name};
  int const passes = detail::open_png(reader, header);
  picture out;
  out.height = static_cast<int>(header.height);
  out.width = static_cast<int>(header.width);
  bool const grey16 = header.colour == PNG_COLOR_TYPE_GRAY && header.depth == 16;
  if (png_get_rowbytes(reader.png, reader.info) != (grey16 ? std::size_t{2} : std::size_t{3}) * header.width)
    throw file_error{name, "PNG: libpng announces rows of another length than the header"};
  out.pixels.reserve(detail::first_reservation(out.stride() * header.height, file.size()));
  detail::read_png_rows(reader, out, passes);
  if (grey16)
    for (int y = 0; y < out.height; ++y) detail::widen_grey16(out.row(y), header.width);
  return out;
}

}  // namespace dm2

#endif  // DM2_WITH_PNG
