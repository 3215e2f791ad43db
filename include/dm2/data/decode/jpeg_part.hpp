/// @file
/// Decodes a rectangle of a JPEG, with the whole picture's pixels. Present where DM2_WITH_JPEG is defined.
///
/// Most of decoding is the entropy-coded data, which have to be read up to the rectangle's last row; what is saved is
/// the rows below, and the transforms, upsampling and colours of all that is not asked for: 21 to 33 % of the time for
/// crops as training draws them (libjpeg-turbo 2.1.5, photographs of 341 x 256 to 500 x 375).
#pragma once

#ifdef DM2_WITH_JPEG

#include <dm2/core/error.hpp>
#include <dm2/data/decode/jpeg.hpp>
#include <dm2/data/picture.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#ifdef LIBJPEG_TURBO_VERSION_NUMBER  // older libraries have no such calls

namespace dm2::detail {

/// Columns decoded beside a rectangle: smooth upsampling looks one sample of chroma, two pixels, to each side.
inline constexpr int jpeg_part_margin = 2;

/// Whether the file ends with its end marker. Where it does not, the whole picture is decoded, so that a truncated file
/// is refused whatever part of it is asked for.
[[nodiscard]] inline bool ends_with_marker(std::span<std::byte const> file) noexcept {
  return file.size() >= 2 && file[file.size() - 2] == std::byte{0xFF} && file[file.size() - 1] == std::byte{JPEG_EOI};
}

/// Whether a part that libjpeg decodes alone has the whole picture's pixels: for the layouts that the tests try, and
/// where no scan is missing whose coefficients libjpeg would guess from the neighbours'. After start_jpeg.
[[nodiscard]] inline bool has_exact_parts(jpeg_decompress_struct const& info) noexcept {
  for (int i = 0; i < info.num_components; ++i) {
    jpeg_component_info const& c = info.comp_info[i];
    int const most = i == 0 && info.num_components == 3 ? 2 : 1;
    if (c.h_samp_factor > most || c.v_samp_factor > most) return false;
    if (info.coef_bits != nullptr &&
        !std::all_of(info.coef_bits[i], info.coef_bits[i] + DCTSIZE2, [](int bits) { return bits == 0; }))
      return false;
  }
  return true;
}

/// The rectangle's pixels, where has_exact_parts holds; after start_jpeg. Throws file_error naming `name`, where data
/// run out before its last row, or are damaged before it and options.keep_damaged is not set.
///
/// Writes   out [box.height, box.width, 3].
inline void read_jpeg_part(jpeg_reader& reader, pixel_box box, std::filesystem::path const& name,
                           decode_options const& options, std::uint8_t* out) {
  auto& info = reader.info;
  reader.end_with_markers();
  int const first = std::max(0, box.left - jpeg_part_margin);
  int const end = std::min(static_cast<int>(info.output_width), box.left + box.width + jpeg_part_margin);
  auto left = static_cast<JDIMENSION>(first), columns = static_cast<JDIMENSION>(end - first), skipped = JDIMENSION{0};
  auto const above = static_cast<JDIMENSION>(box.top);
  reader.run([&] {
    if (columns < info.output_width) jpeg_crop_scanline(&info, &left, &columns);
    if (above > 0) skipped = jpeg_skip_scanlines(&info, above);
  });
  bool const cmyk = info.out_color_space == JCS_CMYK;
  std::size_t const width = static_cast<std::size_t>(box.width), wide = columns;
  std::vector<std::uint8_t> rows((cmyk ? 4 : 3) * wide * decode_band), colours(cmyk ? 3 * wide * decode_band : 0);
  for (int y = 0; y < box.height && skipped == above; y += decode_band) {
    int const n = std::min(decode_band, box.height - y),
              got = read_jpeg_rows(reader, rows.data(), (cmyk ? 4 : 3) * wide, n);
    if (got < n) break;
    if (cmyk) cmyk_to_rgb(rows.data(), colours.data(), wide * static_cast<std::size_t>(n));
    std::uint8_t const* from = (cmyk ? colours : rows).data() + 3 * (static_cast<std::size_t>(box.left) - left);
    for (int i = 0; i < n; ++i, from += 3 * wide)
      std::copy_n(from, 3 * width, out + 3 * width * static_cast<std::size_t>(y + i));
  }
  if (info.output_scanline < above + static_cast<JDIMENSION>(box.height))
    throw file_error{name, "JPEG file is truncated before the rows that are asked for"};
  if (reader.damaged() && !options.keep_damaged) throw file_error{name, std::string{"JPEG: "} + reader.message()};
}
/// The same, as a picture.
[[nodiscard]] inline picture read_jpeg_part(jpeg_reader& reader, pixel_box box, std::filesystem::path const& name,
                                            decode_options const& options) {
  picture out{box.height, box.width};
  read_jpeg_part(reader, box, name, options, out.row(0));
  return out;
}

}  // namespace dm2::detail

#endif  // LIBJPEG_TURBO_VERSION_NUMBER
#endif  // DM2_WITH_JPEG
