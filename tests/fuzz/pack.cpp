// Readers of packed sets, and what packing does to pictures. Checksums are put right: a fuzzer does not find them.
#include <dm2/data/encoded_picture.hpp>
#include <dm2/data/pack/index.hpp>
#include <dm2/data/pack/packed_label_map.hpp>
#include <dm2/data/pack/shard.hpp>
#ifdef DM2_WITH_JPEG
#include <dm2/data/pack/jpeg_restarts.hpp>
#endif

#include "fuzz/support.hpp"
#include "fuzz/targets.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

namespace dm2::fuzz {
namespace {

constexpr decode_options limits{.max_pixels = std::uint64_t{1} << 20, .max_scans = 20};

bool read_index(std::span<std::byte const> bytes) {
  return reads(name, [&] {
    detail::pack_index const index{bytes, name};
    std::size_t text = 0;
    for (std::size_t c = 0; c < index.classes(); ++c) {
      if (index.first_of(c) > index.first_of(c + 1)) finding("a class that ends before it begins");
      text += index.class_name(c).size();
    }
    for (std::size_t i = 0; i < index.records(); ++i) {
      detail::pack_record const r = index.record(i);
      if (r.shard >= index.shards()) finding("a record in a shard that is not there");
      if (detail::pack_record_end(r) > index.shard(r.shard).table) finding("a record that leaves its shard");
      if (!detail::is_packed_name(index.name(i), true)) finding("a name that leaves the set's folder");
      text += index.name(i).size();
    }
    if (text != index.head().text) finding("names of another length than the text");
  });
}

bool pack_index(std::span<std::byte const> bytes) {
  (void)read_index(bytes);
  std::vector<std::byte> sealed(bytes.begin(), bytes.end());
  if (sealed.size() >= sizeof(detail::pack_index_head)) detail::seal_pack_index(sealed);
  return read_index(sealed);
}

/// Puts the checksums of a shard's tail and of its table right, where there is room for them.
void seal_shard(std::vector<std::byte>& bytes) {
  if (bytes.size() < sizeof(detail::pack_shard_tail)) return;
  std::byte* const at = bytes.data() + bytes.size() - sizeof(detail::pack_shard_tail);
  auto tail = detail::read_le<detail::pack_shard_tail>(at);
  std::size_t const end = bytes.size() - sizeof tail;
  if (tail.table <= end) tail.table_crc = detail::crc32c(std::span{bytes}.first(end).subspan(std::size_t(tail.table)));
  tail.tail_crc = detail::pack_own_crc(tail);
  std::memcpy(at, &tail, sizeof tail);
}

bool pack_shard(std::span<std::byte const> bytes) {
  (void)reads(name, [&] { (void)detail::read_pack_table(bytes, name); });
  std::vector<std::byte> sealed(bytes.begin(), bytes.end());
  seal_shard(sealed);
  return reads(name, [&] {
    for (detail::pack_record const& r : detail::read_pack_table(sealed, name))
      if (detail::pack_record_end(r) > sealed.size()) finding("a record that leaves its shard");
  });
}

bool pack_map(std::span<std::byte const> bytes) {
  return reads(name, [&] {
    label_map_data const map = detail::unpack_label_map(bytes, 1000, name);
    if (map.values.size() != std::size_t(10 * map.height * map.width)) finding("a label map of another size");
    auto const again = detail::unpack_label_map(detail::pack_label_map(map), 1000, name);
    if (again.values != map.values) finding("a label map that does not come back");
  });
}

std::optional<picture> whole(std::span<std::byte const> bytes) {
  std::optional<picture> out;
  (void)reads(name, [&] { out = decode_image(bytes, name, limits); });
  return out;
}

/// Four bytes choose a box; the rest is a picture, whose part has to be the whole's where the whole can be decoded.
bool jpeg_part(std::span<std::byte const> bytes) {
  if (bytes.size() < 4) return false;
  auto const file = bytes.subspan(4);
  auto const want = whole(file);
  auto const share = [&](std::size_t i, int of) { return std::to_integer<int>(bytes[i]) * of / 256; };
  return reads(name, [&] {
    encoded_picture from{file, name, limits};
    pixel_box box{share(0, from.height()), share(1, from.width()), 1, 1};
    box.height += share(2, from.height() - box.top);
    box.width += share(3, from.width() - box.left);
    picture const got = from.part(box);
    if (got.height != box.height || got.width != box.width) finding("a part of another size");
    if (want && got != detail::copy_box(*want, box)) finding("a part with other pixels than the whole");
  });
}

#ifdef DM2_WITH_JPEG
/// What is written has to be a JPEG of the same size.
bool jpeg_restarts(std::span<std::byte const> bytes) {
  return reads(name, [&] {
    auto const out = detail::with_restarts(bytes, name, limits);
    encoded_picture before{bytes, name, limits}, after{out, name, limits};
    if (before.height() != after.height() || before.width() != after.width()) finding("a JPEG of another size");
    (void)after.whole();
  });
}
#endif

}  // namespace

std::vector<target> pack_targets() {
  std::vector<target> out{
      {"pack_index", pack_index}, {"pack_shard", pack_shard}, {"pack_map", pack_map}, {"jpeg_part", jpeg_part}};
#ifdef DM2_WITH_JPEG
  out.push_back({"jpeg_restarts", jpeg_restarts});
#endif
  return out;
}

}  // namespace dm2::fuzz
