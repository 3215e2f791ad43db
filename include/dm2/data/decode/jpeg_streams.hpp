/// @file
/// A baseline JPEG, prepared for a device that decodes it.
///
/// Headers are libjpeg's to read and judge; what is left for the device is said in jpeg_record.
#pragma once

#include <dm2/data/decode/jpeg_record.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>

#ifdef DM2_WITH_JPEG
#include <dm2/data/decode/jpeg.hpp>
#endif

namespace dm2 {

/// A JPEG that a device can decode.
struct device_jpeg {
  jpeg_record header;               ///< what it says
  std::span<std::byte const> data;  ///< what stands behind the header; valid as long as the file's bytes
};

namespace detail {

/// Bytes of the longest interval that a device is given: one thread decodes it, and the batch's others wait for it. A
/// photograph of 500 x 375 at quality 96 takes 110 KB where it has no restarts, and 5 KiB an interval where each row of
/// blocks is one.
inline constexpr std::size_t most_interval_bytes = std::size_t{128} << 10;

/// Bytes that write_streams writes at most.
[[nodiscard]] inline std::size_t streams_extent(jpeg_record const& jpeg, std::size_t data) noexcept {
  return std::size_t(jpeg.intervals) * (sizeof(jpeg_interval) + 4) + (data + 3) / 4 * 4;
}

/// Whether there can be as many intervals: each is a byte and a marker at least.
[[nodiscard]] inline bool has_room_for_intervals(jpeg_record const& jpeg, std::size_t data) noexcept {
  return data / 3 >= std::size_t(jpeg.intervals);
}

/// Whether no interval need be too long: an escape makes two bytes of one, and a marker has two.
[[nodiscard]] inline bool may_have_short_intervals(jpeg_record const& jpeg, std::size_t data) noexcept {
  return data / 2 <= std::size_t(jpeg.intervals) * (most_interval_bytes + 1);
}

/// Writes a picture's list of intervals and behind it their data, each from a multiple of 4 on, without the zeros that
/// escape FF and without markers. Returns the bytes written, 0 where the data are not what the header says (a marker
/// that is none of the next restart, an interval too many or too few, no end marker, fill bytes) or an interval is too
/// long: libjpeg is to judge then.
///
/// Shapes   data: the bytes behind the scan's header. out: streams_extent bytes, a multiple of 4 from its memory's
///          begin; has_room_for_intervals holds.
[[nodiscard]] inline std::size_t write_streams(jpeg_record const& jpeg, std::span<std::byte const> data,
                                               std::byte* out) {
  std::size_t const list = std::size_t(jpeg.intervals) * sizeof(jpeg_interval);
  std::size_t first = list, at = list;  // of the interval's bytes, and behind the last of them
  int number = 0;
  for (auto const *from = data.data(), *end = from + data.size(); from != end;) {
    auto const* const mark = static_cast<std::byte const*>(std::memchr(from, 0xFF, std::size_t(end - from)));
    if (mark == nullptr || end - mark < 2) return 0;
    std::size_t const plain = std::size_t(mark - from);
    std::memcpy(out + at, from, plain);
    at += plain;
    from = mark + 2;
    unsigned const code = std::to_integer<unsigned>(mark[1]);
    if (code == 0) {
      out[at++] = std::byte{0xFF};
      continue;
    }
    if (at - first > most_interval_bytes) return 0;
    jpeg_interval const here{std::uint32_t(first / 4), std::uint32_t(at - first)};
    std::memcpy(out + std::size_t(number) * sizeof here, &here, sizeof here);
    while (at % 4 != 0) out[at++] = std::byte{0};
    first = at;
    if (++number == jpeg.intervals) return code == 0xD9 ? at : 0;
    if (code != 0xD0 + unsigned(number - 1) % 8) return 0;
  }
  return 0;
}

#if defined(DM2_WITH_JPEG) && defined(LIBJPEG_TURBO_VERSION_NUMBER)  // others' pixels are not those of the kernels

/// Takes over a Huffman table; false where libjpeg will refuse it, or take its own.
[[nodiscard]] inline bool fill_huffman(JHUFF_TBL const* from, bool constants, jpeg_huffman& to) {
  if (from == nullptr) return false;
  std::int32_t code = 0, place = 0;
  bool full = false;  // no code may be all ones, and none may follow a full length
  for (int length = 1; length <= jpeg_huffman::longest; ++length, code *= 2) {
    int const count = from->bits[length];
    if (place + count > 256 || (full && count > 0)) return false;
    to.offset[length] = place - code;
    to.last[length] = count == 0 ? -1 : code + count - 1;
    code += count, place += count;
    full = full || code >= 1 << length;
    if (count > 0 && full) return false;
  }
  for (int i = 0; i < place; ++i) {
    to.values[i] = from->huffval[i];
    if (constants && to.values[i] > 15) return false;
  }
  return true;
}

/// Takes over a component, and the tables that it names.
[[nodiscard]] inline bool fill_component(jpeg_decompress_struct const& info, int number, jpeg_record& to) {
  jpeg_component_info const& from = info.comp_info[number];
  if (info.cur_comp_info[number] != &from) return false;
  jpeg_component& c = to.part[number];
  c.dc = from.dc_tbl_no, c.ac = from.ac_tbl_no;
  if (c.dc < 0 || c.dc > 1 || c.ac < 0 || c.ac > 1 || from.quant_tbl_no < 0 || from.quant_tbl_no >= NUM_QUANT_TBLS)
    return false;
  JQUANT_TBL const* const steps = info.quant_tbl_ptrs[from.quant_tbl_no];
  if (steps == nullptr) return false;
  for (int i = 0; i < DCTSIZE2; ++i) c.quantisation[i] = steps->quantval[i];
  c.down = from.v_samp_factor, c.across = from.h_samp_factor;
  return fill_huffman(info.dc_huff_tbl_ptrs[c.dc], true, to.dc[c.dc]) &&
         fill_huffman(info.ac_huff_tbl_ptrs[c.ac], false, to.ac[c.ac]);
}

/// Whether chroma is whole, or has half the columns, or half of both; without chroma, whether an MCU is a block.
[[nodiscard]] inline bool has_known_chroma(jpeg_record const& r) noexcept {
  for (int i = 1; i < r.components; ++i)
    if (r.part[i].down != 1 || r.part[i].across != 1) return false;
  int const down = r.part[0].down, across = r.part[0].across;
  return (down == 1 && across == 1) || (r.components == 3 && across == 2 && (down == 1 || down == 2));
}

/// A JPEG's header after jpeg_read_header; nothing where a device cannot decode the file (progressive, arithmetic
/// coding, 12 bits, other colours or chroma, several scans) or libjpeg will refuse it.
[[nodiscard]] inline std::optional<jpeg_record> record_of(jpeg_decompress_struct const& info) {
  bool const grey = info.num_components == 1 && info.jpeg_color_space == JCS_GRAYSCALE;
  bool const colour = info.num_components == 3 && info.jpeg_color_space == JCS_YCbCr;
  bool const baseline = info.data_precision == 8 && info.progressive_mode == FALSE && info.arith_code == FALSE &&
                        info.Ss == 0 && info.Se == DCTSIZE2 - 1 && info.Ah == 0 && info.Al == 0;
  if (!baseline || !(grey || colour) || info.comps_in_scan != info.num_components) return std::nullopt;
  std::optional<jpeg_record> out{std::in_place};
  out->height = int(info.image_height), out->width = int(info.image_width);
  out->components = info.num_components;
  for (int i = 0; i < out->components; ++i)
    if (!fill_component(info, i, *out)) return std::nullopt;
  if (!has_known_chroma(*out)) return std::nullopt;
  std::int64_t const mcus = std::int64_t{out->mcus_across()} * out->mcus_down();
  std::int64_t const each = info.restart_interval == 0 ? mcus : std::int64_t{info.restart_interval};
  if (mcus > 1 << 30) return std::nullopt;
  out->interval = int(each < mcus ? each : mcus);
  out->intervals = int((mcus - 1) / out->interval) + 1;
  return out;
}

/// The file for a device, after jpeg_read_header; nothing where record_of finds nothing, or the data show at once that
/// they are libjpeg's to judge.
[[nodiscard]] inline std::optional<device_jpeg> device_jpeg_of(jpeg_decompress_struct const& info) {
  auto const header = record_of(info);
  std::span const data{reinterpret_cast<std::byte const*>(info.src->next_input_byte), info.src->bytes_in_buffer};
  if (!header || !has_room_for_intervals(*header, data.size()) || !may_have_short_intervals(*header, data.size()))
    return std::nullopt;
  return device_jpeg{*header, data};
}

#endif

}  // namespace detail
}  // namespace dm2
