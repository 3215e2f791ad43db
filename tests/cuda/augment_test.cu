/// @file
/// The whole transforms on the device: the host's bytes.
#include <dm2/data/sample_transform.hpp>

#include "cuda/augment/case.cuh"
#include "data/golden_images.hpp"

#include <algorithm>
#include <string>
#include <utility>

using namespace dm2;
using namespace dm2::test;

namespace {

/// Pictures as files.
struct file_list {
  std::vector<std::vector<std::byte>> files;
  std::vector<std::string> names;

  void add(std::vector<std::byte> file, std::string name) {
    files.push_back(std::move(file));
    names.push_back(std::move(name));
  }
  [[nodiscard]] encoded_picture open(std::size_t i) const { return {files[i], names[i]}; }
};

file_list golden_files() {
  file_list all;
  for (char const* name : golden_pictures) all.add(file_bytes(golden_image(name)), name);
  return all;
}
file_list random_files(std::initializer_list<std::pair<int, int>> sizes) {
  file_list all;
  std::mt19937 random{5};
  for (auto const& [height, width] : sizes)
    all.add(encode_png(random_picture(height, width, random)), std::to_string(height) + "x" + std::to_string(width));
  return all;
}

/// What a transform makes of the files on the host, and what the device makes of what it leaves.
struct both {
  std::vector<float> host, device;
  int finished = 0;  ///< pictures that the host finished
};

both run(sample_transform const& transform, file_list const& from, std::uint64_t epoch, std::size_t capacity = 0) {
  image_extent const size = *transform.writes();
  std::size_t const count = from.files.size(), each = 3 * std::size_t(size.height) * std::size_t(size.width);
  both out;
  out.host.resize(count * each);
  raw_pictures raw = make_raw(int(count), size, transform.raw_steps());
  if (capacity != 0) raw.capacity = capacity;
  for (std::size_t i = 0; i < count; ++i) {
    label_map_data map{3, 5, std::vector<float>(150)};
    for (std::size_t k = 0; k < map.values.size(); ++k) map.values[k] = float(k);
    label_map_data other = map;
    random_stream stream{1, std::uint32_t(epoch), i}, same = stream;
    encoded_picture p = from.open(i), q = from.open(i);
    crop_fraction const a = transform(p, &map, stream, std::span{out.host}.subspan(i * each, each));
    crop_fraction const b = transform(q, &other, same, raw_place{raw, int(i)});
    CHECK((a.top == b.top && a.left == b.left && a.height == b.height && a.width == b.width));
    CHECK(map.values == other.values);
    out.finished += int(raw.tasks[i].finished);
  }
  static finished_on_device device;  // whose memory is used again
  out.device = device.floats(raw);
  return out;
}

void check_same(both const& b) {
  REQUIRE(std::all_of(b.host.begin(), b.host.end(), [](float v) { return v == v; }));
  CHECK(different(b.host, b.device) == 0);
}

}  // namespace

TEST_CASE("augmenter: the published recipe has the host's bytes on the golden pictures") {
  auto const transform = training_sample_transform({40, 56});
  for (std::uint64_t epoch = 0; epoch < 3; ++epoch) check_same(run(transform, golden_files(), epoch));
}

TEST_CASE(
    "augmenter: many operations in a row have the host's bytes at odd sizes, larger and smaller than the result") {
  augmentation a;
  a.operations = 5;
  a.operation_probability = 0.8;
  a.magnitude_std = 3;
  a.erase = 0.7;
  auto const files = random_files({{1, 1}, {1, 9}, {2, 2}, {3, 4}, {31, 33}, {32, 32}, {33, 31}, {64, 5}, {90, 131}});
  for (auto const size : {image_extent{32, 32}, image_extent{1, 1}, image_extent{17, 65}})
    for (std::uint64_t epoch = 0; epoch < 6; ++epoch) check_same(run(training_sample_transform(size, a), files, epoch));
}

TEST_CASE("augmenter: evaluation has the host's bytes, filled with black where the picture is smaller than the crop") {
  for (auto const& files : {golden_files(), random_files({{1, 1}, {7, 300}, {300, 7}, {63, 64}, {40, 40}})}) {
    check_same(run(evaluation_sample_transform({28, 28}), files, 0));
    check_same(run(evaluation_sample_transform({31, 45}, {16, 16}), files, 0));
  }
}

TEST_CASE("augmenter: pictures that do not fit the batch's memory are finished on the host, with the same bytes") {
  augmentation a;
  a.erase = 0.5;
  auto const files = random_files({{40, 40}, {60, 70}, {200, 210}, {50, 30}, {64, 64}, {20, 20}});
  both const b = run(training_sample_transform({24, 24}, a), files, 1, 100000);
  CHECK(b.finished > 0);
  CHECK(b.finished < 6);
  check_same(b);
  both const none = run(training_sample_transform({24, 24}, a), files, 1, 8);
  CHECK(none.finished == 6);
  check_same(none);
}

TEST_CASE("augmenter: of a part no more is decoded than later operations read") {
  augmentation a;
  a.operations = 1;
  a.operation_probability = 1;
  std::size_t parts = 0;
  for (std::uint64_t i = 0; i < 300; ++i) {
    drawn_sample const d = draw_sample(a, 375, 500, 224, 224, {3, 0, i});
    std::vector<picture_step> steps(1);
    picture_task const t = plan_sample(d, a, 375, 500, 224, 224, steps);
    CHECK(t.part.top >= 0);
    CHECK(t.part.left >= 0);
    CHECK(t.part.top + t.part.height <= 375);
    CHECK(t.part.left + t.part.width <= 500);
    parts += std::size_t(t.part.height) * std::size_t(t.part.width);
  }
  CHECK(parts < 300u * 375 * 500 * 8 / 10);
}
