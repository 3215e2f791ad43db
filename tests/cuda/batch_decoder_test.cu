/// @file
/// Batches that leave their JPEGs encoded: decoded on the device, with the host's bytes and the host's errors.
#ifdef DM2_WITH_JPEG

#include <dm2/cuda/batch_decoder.cuh>
#include <dm2/data/loader.hpp>
#include <dm2/data/pack/jpeg_restarts.hpp>

#include "cuda/augment/case.cuh"
#include "cuda/decode/case.cuh"
#include "data/golden_images.hpp"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

/// A folder of two classes, with files of every kind.
struct picture_folder {
  scratch_folder root;

  picture_folder() {
    std::mt19937 random{21};
    for (char const* name : {"photo.jpg", "portrait.jpg", "full_chroma.jpg", "gray.jpg", "progressive.jpg"})
      add(name, detail::with_restarts(file_bytes(golden_image(name)), name, {}));
    for (char const* name : {"progressive.jpg", "cmyk.jpg", "rgb.png"})
      add(std::string{"plain_"} + name, file_bytes(golden_image(name)));
    for (int i = 0; i < 8; ++i) {
      jpeg_recipe r = jpeg_decoding::layout(i % 4);
      r.restart_interval = unsigned(i);
      add("drawn" + std::to_string(i) + ".jpg",
          jpeg_decoding::file_of(jpeg_decoding::drawn(30 + 7 * i, 60 - 5 * i, 80, random), r));
    }
  }
  void add(std::string const& name, std::vector<std::byte> const& file) {
    auto const folder = root / (count_++ % 2 == 0 ? "a" : "b");
    std::filesystem::create_directories(folder);
    write_file(folder / name, {reinterpret_cast<char const*>(file.data()), file.size()});
  }

 private:
  int count_ = 0;
};

/// The file without 20 bytes in front of its first restart, which libjpeg tells from the marker that it meets.
std::vector<std::byte> damaged(std::vector<std::byte> file) {
  constexpr std::array<std::byte, 2> restart{std::byte{0xFF}, std::byte{0xD0}};
  auto const found = std::search(file.begin(), file.end(), restart.begin(), restart.end());
  REQUIRE(found != file.end());
  file.erase(found - 20, found);
  return file;
}

/// All of an epoch's batches.
struct epoch {
  std::vector<float> pictures;
  std::vector<int> labels;
  std::vector<std::size_t> samples;
  std::vector<std::string> reports;
  std::string error;
  int encoded = 0, on_device = 0;
};

/// Counts what a decoder is given and does.
class counting_decoder final : public raw_decoder {
 public:
  counting_decoder(raw_decoder& of, epoch& to) : of_{of}, to_{to} {}
  [[nodiscard]] std::span<int const> decode(raw_pictures& raw) override {
    for (picture_task const& t : raw.tasks) to_.encoded += int(t.encoded);
    auto const failed = of_.decode(raw);
    for (picture_task const& t : raw.tasks) to_.on_device += int(t.on_device);
    to_.on_device -= int(failed.size());
    return failed;
  }

 private:
  raw_decoder& of_;
  epoch& to_;
};

epoch load(std::filesystem::path const& folder, loading mode, bool on_device, std::size_t max_bad = 100) {
  dataset const set{folder};
  epoch out;
  augmentation a;
  a.operations = 3;
  auto const transform =
      mode == loading::training ? training_sample_transform({24, 32}, a) : evaluation_sample_transform({24, 32});
  loader from{set,
              {.mode = mode,
               .batch = 5,
               .threads = 2,
               .seed = 4,
               .max_bad = max_bad,
               .report = [&](file_error const& e) { out.reports.push_back(e.what()); }},
              transform};
  cuda::stream stream;
  cuda::batch_decoder decoder{stream.get()};
  counting_decoder counted{decoder, out};
  cuda::augmenter augment;
  if (on_device) from.leave_raw(cuda::pinned_resource::get(), &counted);
  try {
    for (std::uint32_t number = 0; number < 2; ++number)
      for (from.start(number); batch const* const b = from.next();) {
        out.labels.insert(out.labels.end(), b->labels.begin(), b->labels.end());
        out.samples.insert(out.samples.end(), b->samples.begin(), b->samples.end());
        std::vector<float> pictures = b->pictures;
        if (on_device) {
          pictures.resize(std::size_t(b->size) * b->picture_size());
          cuda::device_memory const memory{pictures.size() * sizeof(float)};
          augment.enqueue(b->raw, reinterpret_cast<float*>(memory.data()), stream.get());
          stream.synchronize();
          cuda::check(cudaMemcpy(pictures.data(), memory.data(), memory.size(), cudaMemcpyDeviceToHost), "read");
        }
        out.pictures.insert(out.pictures.end(), pictures.begin(), pictures.end());
      }
  } catch (file_error const& e) {
    out.error = e.what();
  }
  return out;
}

void check_same(epoch const& host, epoch const& device) {
  CHECK(device.labels == host.labels);
  CHECK(device.samples == host.samples);
  CHECK(device.reports == host.reports);
  CHECK(device.error == host.error);
  REQUIRE(device.pictures.size() == host.pictures.size());
  CHECK(different(device.pictures, host.pictures) == 0);
}

}  // namespace

TEST_CASE("batch_decoder: training and evaluation have the host's bytes, from files of every kind") {
  picture_folder const pictures;
  for (loading const mode : {loading::training, loading::evaluation}) {
    epoch const device = load(pictures.root.path(), mode, true);
    check_same(load(pictures.root.path(), mode, false), device);
    CHECK(device.on_device == device.encoded);
    CHECK(device.encoded > 16);
    CHECK(device.encoded < int(device.samples.size()));  // some files are the host's
  }
}

TEST_CASE("batch_decoder: damaged files are the host's bad samples, with its messages, replacements and limit") {
  picture_folder pictures;
  auto const file = detail::with_restarts(file_bytes(golden_image("photo.jpg")), "photo.jpg", {});
  pictures.add("damaged.jpg", damaged(file));
  pictures.add("cut.jpg", {file.begin(), file.begin() + std::ptrdiff_t(file.size() / 2)});
  for (loading const mode : {loading::training, loading::evaluation}) {
    epoch const host = load(pictures.root.path(), mode, false), device = load(pictures.root.path(), mode, true);
    check_same(host, device);
    CHECK(host.reports.size() == 2);
    CHECK(device.on_device < device.encoded);
    check_same(load(pictures.root.path(), mode, false, 1), load(pictures.root.path(), mode, true, 1));
  }
}

TEST_CASE("batch_decoder: pictures that do not fit a batch's memory are the host's") {
  auto const file = detail::with_restarts(file_bytes(golden_image("photo.jpg")), "photo.jpg", {});
  auto const transform = evaluation_sample_transform({20, 20});
  for (std::size_t const capacity : {std::size_t{3} << 20, std::size_t{300000}, std::size_t{8}}) {
    raw_pictures raw = make_raw(4, {20, 20}, 0);
    raw.capacity = capacity;
    std::vector<float> want;
    int encoded = 0;
    for (int i = 0; i < 4; ++i) {
      encoded_picture p{file, "photo.jpg"}, q{file, "photo.jpg"};
      random_stream stream{1, 0, 0};
      std::vector<float> one(3 * 20 * 20);
      transform(p, nullptr, stream, one);
      want.insert(want.end(), one.begin(), one.end());
      transform(q, nullptr, stream, raw_place{raw, i, true});
      encoded += int(raw.tasks[std::size_t(i)].encoded);
    }
    CHECK(encoded == (capacity > 1 << 20 ? 4 : 0));
    cuda::stream stream;
    cuda::batch_decoder decoder{stream.get()};
    CHECK(decoder.decode(raw).empty());
    CHECK(different(finished_on_device{}.floats(raw), want) == 0);
  }
}

TEST_CASE("augmenter: a batch whose pictures are encoded still is refused") {
  auto const file = detail::with_restarts(file_bytes(golden_image("gray.jpg")), "gray.jpg", {});
  raw_pictures raw = make_raw(1, {20, 20}, 0);
  encoded_picture p{file, "gray.jpg"};
  evaluation_transform(p, {20, 20}, {22, 22}, imagenet_normalisation, raw_place{raw, 0, true});
  REQUIRE(raw.tasks[0].encoded);
  cuda::augmenter augment;
  cuda::stream stream;
  CHECK_THROWS_AS(augment.copy(raw, stream.get()), std::logic_error);
}

#else  // libjpeg reads the headers: without it no file is a device's

#include <dm2/data/encoded_picture.hpp>

#include "data/golden_images.hpp"

#include <doctest/doctest.h>

TEST_CASE("batch_decoder: without libjpeg a device is given no file") {
  auto const file = dm2::test::file_bytes(dm2::test::golden_image("gray.jpg"));
  CHECK_FALSE(dm2::encoded_picture{file, "gray.jpg"}.for_device());
}

#endif
