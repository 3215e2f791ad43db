/// @file
/// Pictures left for a device: the host's part, without a device.
#include <dm2/data/loader.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <span>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "data/picture_set.hpp"

using namespace dm2;
using namespace dm2::test;

TEST_CASE("encoded_picture: a part that is written in place has the bytes of part()") {
  random_stream random{4, 0, 0};
  for (char const* name : golden_pictures) {
    CAPTURE(name);
    auto const bytes = file_bytes(golden_image(name));
    for (int i = 0; i < 6; ++i) {
      encoded_picture one{bytes, name}, other{bytes, name};
      int const rows = one.height(), columns = one.width();
      pixel_box box{0, 0, rows, columns};
      if (i > 0) {
        box.height = 1 + int(random.below(std::uint32_t(rows)));
        box.width = 1 + int(random.below(std::uint32_t(columns)));
        box.top = int(random.below(std::uint32_t(rows - box.height) + 1));
        box.left = int(random.below(std::uint32_t(columns - box.width) + 1));
      }
      std::vector<std::uint8_t> got(3 * std::size_t(box.height) * std::size_t(box.width) + 1, 77);
      one.part_into(box, got.data());
      CHECK(got.back() == 77);
      got.pop_back();
      CHECK(got == other.part(box).pixels);
      CHECK(one.seconds_decoding() > 0);
    }
  }
}

TEST_CASE("raw_place: what does not fit is finished on the host, to the pixels of the transform") {
  auto const bytes = file_bytes(golden_image("photo.jpg"));
  augmentation a;
  a.erase = 0;
  auto const transform = training_sample_transform({32, 40}, a);
  std::vector<float> want(3 * 32 * 40), got(want.size());
  for (std::uint64_t i = 0; i < 8; ++i) {
    random_stream stream{1, 0, i}, same = stream;
    encoded_picture p{bytes, "photo"}, q{bytes, "photo"};
    transform(p, nullptr, stream, want);
    raw_pictures raw;
    raw.prepare(2, {32, 40}, transform.raw_steps(), *std::pmr::new_delete_resource());
    raw.capacity = 1000;
    transform(q, nullptr, same, raw_place{raw, 1});
    picture_task const& t = raw.tasks[1];
    REQUIRE(t.finished);
    CHECK(raw.used == 0);
    auto const* const pixels = reinterpret_cast<std::uint8_t const*>(raw.memory.get() + t.offset);
    normalise(std::span{pixels, raw.finished_bytes()}, got);
    CHECK(got == want);
  }
}

TEST_CASE("raw_pictures: places never overlap, and the memory is taken once") {
  raw_pictures raw;
  raw.prepare(3, {8, 8}, 2, *std::pmr::new_delete_resource());
  auto const* const memory = raw.memory.get();
  picture_task t;
  t.part = {0, 0, 100, 101};
  std::uint8_t *const a = raw_place{raw, 0}.take(t), *const b = raw_place{raw, 1}.take(t);
  REQUIRE(a != nullptr);
  REQUIRE(b != nullptr);
  CHECK(b - a >= 3 * 100 * 101);
  CHECK(raw.tasks[1].offset == std::size_t(b - a));
  t.part = {0, 0, 2000, 2000};  // more than an eighth of 16 MiB
  CHECK(raw_place{raw, 2}.take(t) == nullptr);
  raw.prepare(2, {8, 8}, 2, *std::pmr::new_delete_resource());
  CHECK(raw.memory.get() == memory);
  CHECK(raw.used == 0);
}

/// Counts the bytes of the latest allocation.
class counted_memory : public std::pmr::memory_resource {
 public:
  std::size_t latest = 0;

 private:
  void* do_allocate(std::size_t bytes, std::size_t alignment) override {
    latest = bytes;
    return std::pmr::new_delete_resource()->allocate(bytes, alignment);
  }
  void do_deallocate(void* p, std::size_t bytes, std::size_t alignment) override {
    std::pmr::new_delete_resource()->deallocate(p, bytes, alignment);
  }
  [[nodiscard]] bool do_is_equal(memory_resource const& other) const noexcept override { return this == &other; }
};

TEST_CASE("raw_pictures: more or larger pictures than any before have room for their results") {
  counted_memory memory;
  raw_pictures raw;
  for (auto const& next : {std::pair{2, 8}, std::pair{20, 8}, std::pair{20, 300}, std::pair{3, 300}}) {
    int const count = next.first, side = next.second;
    CAPTURE(count);
    CAPTURE(side);
    raw.prepare(count, {side, side}, 0, memory);
    for (int i = 0; i < count; ++i) {
      std::uint8_t* const pixels = raw_place{raw, i}.take_finished({});
      REQUIRE(raw.tasks[std::size_t(i)].offset + raw.finished_bytes() <= memory.latest);
      std::fill_n(pixels, raw.finished_bytes(), std::uint8_t(i));
    }
  }
}

TEST_CASE("loader: raw batches have the samples, labels and crops of finished ones, and no pictures") {
  picture_set const pictures{13};
  dataset const set = pictures.with_maps();
  for (loading const mode : {loading::training, loading::evaluation}) {
    loader finished{
        set,
        {.mode = mode, .batch = 5, .threads = 1, .seed = 3},
        mode == loading::training ? training_sample_transform({16, 16}) : evaluation_sample_transform({16, 16})};
    loader raw{set,
               {.mode = mode, .batch = 5, .threads = 3, .seed = 3},
               mode == loading::training ? training_sample_transform({16, 16}) : evaluation_sample_transform({16, 16})};
    raw.leave_raw(*std::pmr::new_delete_resource());
    finished.start(1);
    raw.start(1);
    while (batch const* const want = finished.next()) {
      batch const* const got = raw.next();
      REQUIRE(got != nullptr);
      CHECK(got->is_raw());
      CHECK_FALSE(want->is_raw());
      CHECK(got->pictures.empty());
      CHECK(got->raw.tasks.size() == std::size_t(want->size));
      CHECK(got->samples == want->samples);
      CHECK(got->labels == want->labels);
      for (std::size_t i = 0; i < want->maps.size(); ++i) {
        CHECK(got->maps[i].values == want->maps[i].values);
        CHECK(got->crops[i].top == want->crops[i].top);
      }
    }
    CHECK(raw.next() == nullptr);
    CHECK(raw.times().decoding > 0);
    CHECK(raw.times().reading > 0);
  }
}

/// Takes 30 ms for a batch, and hands every encoded picture back to the host.
class slow_decoder final : public raw_decoder {
 public:
  [[nodiscard]] std::span<int const> decode(raw_pictures& raw) override {
    std::this_thread::sleep_for(std::chrono::milliseconds{30});
    places_.clear();
    for (std::size_t i = 0; i < raw.tasks.size(); ++i)
      if (raw.tasks[i].encoded) places_.push_back(int(i));
    return places_;
  }

 private:
  std::vector<int> places_;
};

TEST_CASE("loader: a device's decoding is time that next() waits for data") {
  picture_set const pictures{13};
  dataset const set = pictures.plain();
  slow_decoder decoder;
  loader from{set, {.mode = loading::evaluation, .batch = 5, .threads = 1}, evaluation_sample_transform({16, 16})};
  from.leave_raw(*std::pmr::new_delete_resource(), &decoder);
  from.start(0);
  while (from.next() != nullptr) {
  }
  CHECK(from.seconds_waiting() >= 0.09);  // three batches
}

TEST_CASE("loader: a transform of one's own leaves no raw pictures") {
  picture_set const pictures{6};
  dataset const set = pictures.plain();
  loader from{set, {.image = {4, 4}, .batch = 2}, [](picture, label_map_data*, random_stream&, std::span<float> out) {
                std::fill(out.begin(), out.end(), 0.0f);
                return crop_fraction{};
              }};
  CHECK_THROWS_AS(from.leave_raw(*std::pmr::new_delete_resource()), std::invalid_argument);
}
