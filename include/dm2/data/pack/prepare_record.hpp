/// @file
/// What a packed set holds of one picture: its bytes, its size, its label map.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/dataset.hpp>
#include <dm2/data/decode.hpp>
#include <dm2/data/pack/format.hpp>
#include <dm2/data/pack/packed_label_map.hpp>
#include <dm2/data/picture_bytes.hpp>
#include <dm2/data/resize.hpp>
#include <dm2/io/crc32c.hpp>

#ifdef DM2_WITH_JPEG
#include <dm2/data/pack/jpeg_restarts.hpp>
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace dm2::detail {

/// A record on its way into a shard.
struct prepared_record {
  pack_record entry;  ///< all but its place and its name
  std::vector<std::byte> picture, map;
  std::vector<file_error> problems;  ///< the picture cannot be decoded, the label map cannot be read
};

/// How pictures are prepared.
struct prepare_options {
  int side = 0;     ///< pixels that a shorter side is reduced to; 0 for none
  int quality = 0;  ///< of JPEGs that are encoded anew; 0: none is
  decode_options decoding;
};

#ifdef DM2_WITH_JPEG
/// `p` no larger than the side allows, its aspect kept, bicubic.
[[nodiscard]] inline picture reduced(picture p, int side) {
  int const least = std::min(p.height, p.width);
  if (side == 0 || least <= side) return p;
  auto const scaled = [&](int n) {
    return int(std::max<std::int64_t>(1, (2 * std::int64_t{n} * side + least) / (2 * std::int64_t{least})));
  };
  return resize(p, scaled(p.height), scaled(p.width), resize_filter::bicubic);
}

/// The file with restart markers, where that decodes to the same pixels; nothing where it does not, or cannot be.
[[nodiscard]] inline std::optional<std::vector<std::byte>> same_with_restarts(picture_bytes const& file,
                                                                              picture const& pixels,
                                                                              decode_options const& decoding) {
  try {
    auto out = with_restarts(file.bytes(), file.name(), decoding);
    if (decode_jpeg(out, file.name(), decoding) == pixels) return out;
  } catch (file_error const&) {  // the file stays as it is
  }
  return std::nullopt;
}
#endif

/// Fills in the picture: as it is, with restart markers, or encoded anew. Throws file_error where it cannot be decoded,
/// having taken it as it is.
inline void prepare_picture(prepared_record& to, picture_bytes const& file, prepare_options const& options) {
  to.picture.assign(file.bytes().begin(), file.bytes().end());
  picture pixels = decode_image(file.bytes(), file.name(), options.decoding);
  auto const tell_size = [&] {
    to.entry.height = std::uint32_t(pixels.height);
    to.entry.width = std::uint32_t(pixels.width);
  };
  tell_size();
#ifdef DM2_WITH_JPEG
  if (options.quality != 0) {
    pixels = reduced(std::move(pixels), options.side);
    to.picture = encode_jpeg(pixels, options.quality, file.name());
    tell_size();
    to.entry.form = std::uint8_t(packed_form::encoded);
  } else if (sniff_format(file.bytes()) == picture_format::jpeg) {
    if (auto better = same_with_restarts(file, pixels, options.decoding)) {
      to.picture = std::move(*better);
      to.entry.form = std::uint8_t(packed_form::restarts);
    }
  }
#endif
}

/// Prepares sample i of a set. Throws file_error where the picture's file cannot be read at all, or passes the limit.
[[nodiscard]] inline prepared_record prepare_record(dataset const& set, std::size_t i, prepare_options const& options) {
  prepared_record out;
  auto const guarded = [&](auto const& step) {
    try {
      step();
    } catch (file_error const& problem) {
      out.problems.push_back(problem);
    }
  };
  picture_bytes const file = set.open_image(i);
  auto const check_size = [&](std::size_t size) {
    if (size > pack_limits::record_bytes)
      throw file_error{file.name(), "has " + std::to_string(size) + " bytes; a packed set holds pictures of up to " +
                                        std::to_string(pack_limits::record_bytes)};
  };
  check_size(file.bytes().size());
  out.entry.source_bytes = std::uint32_t(file.bytes().size());
  guarded([&] { prepare_picture(out, file, options); });
  check_size(out.picture.size());
  if (set.has_label_maps()) guarded([&] { out.map = pack_label_map(set.load_label_map(i, set.classes())); });
  out.entry.bytes = std::uint32_t(out.picture.size());
  out.entry.crc = crc32c(out.picture);
  out.entry.map_bytes = std::uint32_t(out.map.size());
  out.entry.map_crc = crc32c(out.map);
  return out;
}

}  // namespace dm2::detail
