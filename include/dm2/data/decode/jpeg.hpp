/// @file
/// JPEG through libjpeg's API (libjpeg-turbo gives Pillow's pixels). Present where DM2_WITH_JPEG is defined.
#pragma once

#ifdef DM2_WITH_JPEG

#include <dm2/core/error.hpp>
#include <dm2/data/decode/options.hpp>
#include <dm2/data/picture.hpp>

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>  // jpeglib.h needs FILE
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include <jpeglib.h>
// after jpeglib.h: which message codes there are, and so their numbers, follows from jpeglib.h's configuration
#include <jerror.h>

namespace dm2 {
namespace detail {

/// libjpeg's state for one file in memory.
///
/// libjpeg reports errors by a callback that must not return. It leaves by longjmp to run(), which only jumps over
/// libjpeg's frames and the step's, so a step may hold no object with a destructor.
class jpeg_reader {
 public:
  jpeg_decompress_struct info{};

  jpeg_reader(std::span<std::byte const> file, std::filesystem::path const& name, int max_scans)
      : name_{name}, max_scans_{max_scans} {
    info.err = jpeg_std_error(&errors_);
    errors_.error_exit = fail;
    errors_.emit_message = notice;
    info.client_data = this;
    run([this] { jpeg_create_decompress(&info); });
    source_.init_source = [](j_decompress_ptr) {};
    source_.term_source = [](j_decompress_ptr) {};
    source_.fill_input_buffer = [](j_decompress_ptr) -> boolean { return FALSE; };  // the whole file is there already
    source_.skip_input_data = skip;
    source_.resync_to_restart = jpeg_resync_to_restart;
    source_.next_input_byte = reinterpret_cast<JOCTET const*>(file.data());
    source_.bytes_in_buffer = file.size();
    info.src = &source_;
    progress_.progress_monitor = limit_scans;
    info.progress = &progress_;
  }
  jpeg_reader(jpeg_reader const&) = delete;
  jpeg_reader& operator=(jpeg_reader const&) = delete;
  ~jpeg_reader() { jpeg_destroy_decompress(&info); }

  /// Calls step(); throws file_error with libjpeg's message if libjpeg gives up inside.
  template <class Step>
  void run(Step const& step) {
    if (!completes(step)) throw file_error{name_, std::string{"JPEG: "} + message_.data()};
  }

  /// From here on libjpeg is given end markers where data run out, and warns of them as damage: what skips rows cannot
  /// wait for data.
  void end_with_markers() { source_.fill_input_buffer = invent_end; }

  /// Whether libjpeg has warned of damage that costs pixels; message() tells which.
  [[nodiscard]] bool damaged() const noexcept { return damaged_; }
  [[nodiscard]] char const* message() const noexcept { return message_.data(); }

 private:
  // Apart from run(), so that this frame, which longjmp returns to, holds no object with a destructor.
  template <class Step>
  bool completes(Step const& step) {
    if (setjmp(jump_) != 0) return false;
    step();
    return true;
  }

  static jpeg_reader& self(j_common_ptr info) { return *static_cast<jpeg_reader*>(info->client_data); }

  [[noreturn]] static void fail(j_common_ptr info) {
    info->err->format_message(info, self(info).message_.data());
    std::longjmp(self(info).jump_, 1);
  }

  static void notice(j_common_ptr info, int level) {
    if (level >= 0 || self(info).damaged_) return;  // a trace message, or not the first
    constexpr std::array<int, 5> costs_pixels{JWRN_HIT_MARKER, JWRN_HUFF_BAD_CODE, JWRN_ARITH_BAD_CODE,
                                              JWRN_MUST_RESYNC, JWRN_JPEG_EOF};
    if (std::ranges::find(costs_pixels, info->err->msg_code) == costs_pixels.end()) return;
    self(info).damaged_ = true;
    info->err->format_message(info, self(info).message_.data());
  }

  static boolean invent_end(j_decompress_ptr info) {
    static constexpr std::array<JOCTET, 2> end{0xFF, JPEG_EOI};
    info->err->msg_code = JWRN_JPEG_EOF;
    info->err->emit_message(reinterpret_cast<j_common_ptr>(info), -1);
    info->src->next_input_byte = end.data();
    info->src->bytes_in_buffer = end.size();
    return TRUE;
  }

  static void skip(j_decompress_ptr info, long bytes) {
    if (bytes <= 0) return;
    std::size_t const n = std::min(static_cast<std::size_t>(bytes), info->src->bytes_in_buffer);
    info->src->next_input_byte += n;
    info->src->bytes_in_buffer -= n;
  }

  /// Called by libjpeg every now and then.
  static void limit_scans(j_common_ptr info) {
    auto const* const decoder = reinterpret_cast<j_decompress_ptr>(info);
    int const most = self(info).max_scans_;
    if (decoder->input_scan_number <= most) return;
    std::snprintf(self(info).message_.data(), self(info).message_.size(), "more than %d scans", most);
    std::longjmp(self(info).jump_, 1);
  }

  std::filesystem::path const& name_;
  int max_scans_;
  jpeg_error_mgr errors_{};
  jpeg_source_mgr source_{};
  jpeg_progress_mgr progress_{};
  std::jmp_buf jump_{};
  std::array<char, JMSG_LENGTH_MAX> message_{};
  bool damaged_ = false;
};

/// n pixels of CMYK as Adobe programs store it, inverted (255 = no ink), to RGB by Pillow's integer formula:
/// with c = 255 - C and w = K (255 - black), each channel is w - round(c * w / 255).
inline void cmyk_to_rgb(std::uint8_t const* cmyk, std::uint8_t* rgb, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    int const white = cmyk[4 * i + 3];
    for (std::size_t c = 0; c < 3; ++c) {
      int const t = (255 - cmyk[4 * i + c]) * white + 128;
      rgb[3 * i + c] = static_cast<std::uint8_t>(white - ((t >> 8) + t) / 256);
    }
  }
}

/// Reads up to n rows of `stride` bytes each to `out`; returns how many there were.
inline int read_jpeg_rows(jpeg_reader& reader, std::uint8_t* out, std::size_t stride, int n) {
  std::array<JSAMPROW, decode_band> rows{};
  for (int i = 0; i < n; ++i) rows[static_cast<std::size_t>(i)] = out + static_cast<std::size_t>(i) * stride;
  int done = 0;
  reader.run([&] {
    while (done < n) {
      JDIMENSION const got =
          jpeg_read_scanlines(&reader.info, &rows[static_cast<std::size_t>(done)], static_cast<JDIMENSION>(n - done));
      if (got == 0) return;  // the data ran out
      done += static_cast<int>(got);
    }
  });
  return done;
}

/// Reads the header and holds it against the limits. Throws file_error.
inline void read_jpeg_header(jpeg_reader& reader, std::size_t bytes, std::filesystem::path const& name,
                             decode_options const& options) {
  auto& info = reader.info;
  int status = 0;
  reader.run([&] { status = jpeg_read_header(&info, TRUE); });
  if (status != JPEG_HEADER_OK) throw file_error{name, "JPEG file is truncated inside its header"};
  check_jpeg_size(name, info.image_height, info.image_width, bytes, options);
  if (info.num_components != 1 && info.num_components != 3 && info.num_components != 4)
    throw file_error{name, "JPEG has " + std::to_string(info.num_components) + " components; 1, 3 or 4 can be read"};
}

/// Sets libjpeg up, after the header, to give RGB, or CMYK from four components. Throws file_error.
inline void start_jpeg(jpeg_reader& reader, std::filesystem::path const& name) {
  auto& info = reader.info;
  info.out_color_space = info.num_components == 4 ? JCS_CMYK : JCS_RGB;
  boolean started = FALSE;
  reader.run([&] { started = jpeg_start_decompress(&info); });
  if (started == FALSE) throw file_error{name, "JPEG file is truncated"};
}

[[noreturn]] inline void refuse_truncated(std::filesystem::path const& name, int rows, int height) {
  throw file_error{
      name, "JPEG file is truncated: " + std::to_string(rows) + " of " + std::to_string(height) + " rows are there"};
}

/// The whole picture of a JPEG of `bytes` that start_jpeg was called for. Throws file_error as decode_jpeg does.
inline picture read_jpeg_picture(jpeg_reader& reader, std::size_t bytes, std::filesystem::path const& name,
                                 decode_options const& options) {
  bool const cmyk = reader.info.out_color_space == JCS_CMYK;
  picture out;
  out.height = static_cast<int>(reader.info.output_height);
  out.width = static_cast<int>(reader.info.output_width);
  auto const columns = static_cast<std::size_t>(out.width);
  out.pixels.reserve(first_reservation(out.stride() * reader.info.output_height, bytes));
  std::vector<std::uint8_t> inks(cmyk ? 4 * columns * decode_band : 0);
  for (int y = 0; y < out.height; y += decode_band) {
    int const n = std::min(decode_band, out.height - y);
    out.pixels.resize(static_cast<std::size_t>(y + n) * out.stride());
    int const got = read_jpeg_rows(reader, cmyk ? inks.data() : out.row(y), (cmyk ? 4 : 3) * columns, n);
    if (got < n) refuse_truncated(name, y + got, out.height);
    if (cmyk) cmyk_to_rgb(inks.data(), out.row(y), columns * static_cast<std::size_t>(n));
  }
  if (reader.damaged() && !options.keep_damaged) throw file_error{name, std::string{"JPEG: "} + reader.message()};
  return out;
}

/// The same, where there is memory for it already: out [height, width, 3].
inline void read_jpeg_whole(jpeg_reader& reader, std::filesystem::path const& name, decode_options const& options,
                            std::uint8_t* out) {
  bool const cmyk = reader.info.out_color_space == JCS_CMYK;
  int const height = static_cast<int>(reader.info.output_height);
  std::size_t const columns = reader.info.output_width;
  std::vector<std::uint8_t> inks(cmyk ? 4 * columns * decode_band : 0);
  for (int y = 0; y < height; y += decode_band) {
    int const n = std::min(decode_band, height - y);
    std::uint8_t* const row = out + 3 * columns * static_cast<std::size_t>(y);
    int const got = read_jpeg_rows(reader, cmyk ? inks.data() : row, (cmyk ? 4 : 3) * columns, n);
    if (got < n) refuse_truncated(name, y + got, height);
    if (cmyk) cmyk_to_rgb(inks.data(), row, columns * static_cast<std::size_t>(n));
  }
  if (reader.damaged() && !options.keep_damaged) throw file_error{name, std::string{"JPEG: "} + reader.message()};
}

}  // namespace detail

/// Decodes a JPEG: baseline, extended or progressive, grey, YCbCr, RGB, CMYK or YCCK, any chroma layout.
///
/// The result is that of Pillow's Image.open(...).convert("RGB") with the same libjpeg: accurate integer DCT, smooth
/// chroma upsampling, four components taken as Adobe's inverted CMYK, EXIF orientation not applied. As there, libjpeg
/// is told to wait where data run out, not to invent them: a file that ends inside its last block, or whose end marker
/// libjpeg needed to finish it, is refused.
///
/// Throws  file_error naming `name` and the reason: not a JPEG, truncated, damaged (unless options.keep_damaged), or
///         larger or of more scans than the limits in `options`, which are checked before memory for pixels is taken.
[[nodiscard]] inline picture decode_jpeg(std::span<std::byte const> file, std::filesystem::path const& name,
                                         decode_options const& options = {}) {
  detail::jpeg_reader reader{file, name, options.max_scans};
  detail::read_jpeg_header(reader, file.size(), name, options);
  detail::start_jpeg(reader, name);
  return detail::read_jpeg_picture(reader, file.size(), name, options);
}

}  // namespace dm2

#endif  // DM2_WITH_JPEG
