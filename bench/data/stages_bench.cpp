/// @file
/// The stages of a training sample on one thread: reading, decoding whole or in part, label map, augmentation.
#include "support/verify.hpp"

#include <dm2/data/encoded_picture.hpp>
#include <dm2/data/label_map_file.hpp>
#include <dm2/data/pack/packed_label_map.hpp>
#include <dm2/data/picture_bytes.hpp>
#include <dm2/data/raw_pictures.hpp>
#include <dm2/data/training_transform.hpp>
#include <dm2/io/crc32c.hpp>

#ifdef DM2_WITH_JPEG
#include <dm2/data/pack/jpeg_restarts.hpp>
#endif

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory_resource>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace dm2;
using namespace dm2::bench;

constexpr char const* photo = DM2_GOLDEN_DIR "/images/photo.jpg";
constexpr int side = 224;
constexpr std::uint64_t draws = 256;  ///< different samples, by turns

void count_pictures(benchmark::State& state) {
  state.counters["pictures/s"] = benchmark::Counter(1, benchmark::Counter::kIsIterationInvariantRate);
}

std::vector<std::byte> photo_bytes(bool restarts) {
  picture_bytes const file{photo};
#ifdef DM2_WITH_JPEG
  if (restarts) return detail::with_restarts(file.bytes(), file.name(), {});
#endif
  (void)restarts;
  return {file.bytes().begin(), file.bytes().end()};
}

drawn_sample sample(augmentation const& a, encoded_picture const& p, std::uint64_t i) {
  return draw_sample(a, p.height(), p.width(), side, side, {1, 0, i % draws});
}

void read_file(benchmark::State& state) {
  for (auto _ : state) {
    picture_bytes const file{photo};
    benchmark::DoNotOptimize(file.bytes().data());
  }
  count_pictures(state);
}

/// What a packed set adds to bytes that are in memory.
void checksum(benchmark::State& state) {
  auto const bytes = photo_bytes(false);
  if (!verified(state, "checksum", 0,
                [&] { return detail::crc32c(bytes) == detail::crc32c_by_table(bytes, 0) ? 0.0 : 1.0; }))
    return;
  for (auto _ : state) benchmark::DoNotOptimize(detail::crc32c(bytes));
  state.counters["bytes/s"] = benchmark::Counter(double(bytes.size()), benchmark::Counter::kIsIterationInvariantRate);
  count_pictures(state);
}

/// 0 where the crops of all draws are the whole picture's pixels.
double wrong_parts(std::span<std::byte const> bytes, augmentation const& a) {
  picture const whole = decode_image(bytes, photo);
  for (std::uint64_t i = 0; i < draws; ++i) {
    encoded_picture p{bytes, photo};
    pixel_box const box = needed_part(sample(a, p, i), p.height(), p.width());
    if (p.part(box) != detail::copy_box(whole, box)) return std::numeric_limits<double>::infinity();
  }
  return 0;
}

/// Decodes what `operations` drawn operations and the crop need; with `all`, the whole picture.
void decode(benchmark::State& state, bool restarts, int operations, bool all) {
  auto const bytes = photo_bytes(restarts);
  augmentation a;
  a.operations = operations;
  std::string const key = std::to_string(restarts) + std::to_string(operations);
  if (!verified(state, "decode" + key, 0, [&] { return wrong_parts(bytes, a); })) return;
  std::uint64_t i = 0;
  for (auto _ : state) {
    encoded_picture p{bytes, photo};
    picture const got = all ? p.whole() : p.part(needed_part(sample(a, p, i++), p.height(), p.width()));
    benchmark::DoNotOptimize(got.pixels.data());
  }
  count_pictures(state);
}

/// Everything behind decoding: flip, operations, crop, resize, normalisation, erasing.
void augment(benchmark::State& state, int operations) {
  auto const bytes = photo_bytes(false);
  augmentation a;
  a.operations = operations;
  picture const whole = decode_image(bytes, photo);
  std::vector<float> out(std::size_t(3 * side * side));
  std::uint64_t i = 0;
  for (auto _ : state) {
    random_stream random{1, 0, i++ % draws};
    training_transform(whole, nullptr, a, side, side, random, out);
    benchmark::DoNotOptimize(out.data());
    benchmark::ClobberMemory();
  }
  count_pictures(state);
}

/// Decoding and augmenting a picture in memory as the loader does.
void whole_sample(benchmark::State& state, bool parts) {
  auto const bytes = photo_bytes(false);
  augmentation const a;
  std::vector<float> out(std::size_t(3 * side * side));
  std::uint64_t i = 0;
  for (auto _ : state) {
    random_stream random{1, 0, i++ % draws};
    encoded_picture p{bytes, photo};
    if (parts)
      training_transform(p, nullptr, a, side, side, random, out);
    else
      training_transform(p.whole(), nullptr, a, side, side, random, out);
    benchmark::DoNotOptimize(out.data());
    benchmark::ClobberMemory();
  }
  count_pictures(state);
}

/// What the host does to a sample that a device finishes: draws, decodes, describes.
void raw_sample(benchmark::State& state) {
  auto const bytes = photo_bytes(false);
  augmentation const a;
  raw_pictures raw;
  std::uint64_t i = 0;
  for (auto _ : state) {
    raw.prepare(1, {side, side}, a.operations, *std::pmr::new_delete_resource());
    random_stream random{1, 0, i++ % draws};
    encoded_picture p{bytes, photo};
    benchmark::DoNotOptimize(training_transform(p, nullptr, a, random, raw_place{raw, 0}));
    benchmark::ClobberMemory();
  }
  count_pictures(state);
}

void label_map_of_file(benchmark::State& state) {
  for (auto _ : state)
    benchmark::DoNotOptimize(read_label_map(DM2_GOLDEN_DIR "/token_labels/zip.pt", 1000).values.data());
  count_pictures(state);
}

void label_map_of_set(benchmark::State& state) {
  label_map_data const map = read_label_map(DM2_GOLDEN_DIR "/token_labels/zip.pt", 1000);
  auto const bytes = detail::pack_label_map(map);
  if (!verified(state, "label map", 0,
                [&] { return detail::unpack_label_map(bytes, 1000, "map").values == map.values ? 0.0 : 1.0; }))
    return;
  for (auto _ : state) benchmark::DoNotOptimize(detail::unpack_label_map(bytes, 1000, "map").values.data());
  state.counters["bytes"] = double(bytes.size());
  count_pictures(state);
}

}  // namespace

BENCHMARK(read_file)->Name("stage/read/file");
BENCHMARK(checksum)->Name("stage/read/checksum");
BENCHMARK_CAPTURE(decode, whole, false, 0, true)->Name("stage/decode/whole");
BENCHMARK_CAPTURE(decode, crop, false, 0, false)->Name("stage/decode/crop");
BENCHMARK_CAPTURE(decode, recipe, false, 2, false)->Name("stage/decode/recipe");
BENCHMARK_CAPTURE(decode, restarts, true, 0, true)->Name("stage/decode/restarts/whole");
BENCHMARK_CAPTURE(decode, restarts_crop, true, 0, false)->Name("stage/decode/restarts/crop");
BENCHMARK(label_map_of_file)->Name("stage/label_map/file");
BENCHMARK(label_map_of_set)->Name("stage/label_map/set");
BENCHMARK_CAPTURE(augment, crop, 0)->Name("stage/augment/crop");
BENCHMARK_CAPTURE(augment, recipe, 2)->Name("stage/augment/recipe");
BENCHMARK_CAPTURE(whole_sample, whole, false)->Name("sample/whole");
BENCHMARK_CAPTURE(whole_sample, part, true)->Name("sample/part");
BENCHMARK(raw_sample)->Name("sample/raw");
