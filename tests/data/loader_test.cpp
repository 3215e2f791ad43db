/// @file
/// The loader: what its batches hold, and in which order.
#include <dm2/core/random.hpp>
#include <dm2/data/loader.hpp>

#include <doctest/doctest.h>

#include "data/picture_set.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <set>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

/// Scales a corner of the picture to [0, 1], adds noise from the stream, and a draw as the crop; changes the map.
crop_fraction noisy(picture p, label_map_data* map, random_stream& stream, std::span<float> out) {
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = float(p.pixels[i]) / 255 + float(stream.uniform());
  if (map != nullptr) map->values[0] = float(stream.uniform());
  return {stream.uniform(), 0, 1, 1};
}

loader_options small(int batch, int threads) {
  loader_options o;
  o.image = {4, 5};
  o.batch = batch;
  o.threads = threads;
  o.seed = 7;
  return o;
}

/// Every number that the batches of an epoch hold, from batch `first` on.
std::vector<std::vector<double>> contents(loader& from, std::uint32_t epoch, std::size_t first = 0) {
  std::vector<std::vector<double>> out;
  from.start(epoch, first);
  while (batch const* const b = from.next()) {
    std::vector<double> all{double(b->number), double(b->size), double(b->height), double(b->width)};
    all.insert(all.end(), b->pictures.begin(), b->pictures.end());
    all.insert(all.end(), b->labels.begin(), b->labels.end());
    all.insert(all.end(), b->samples.begin(), b->samples.end());
    for (label_map_data const& m : b->maps) all.insert(all.end(), m.values.begin(), m.values.end());
    for (crop_fraction const& c : b->crops) all.push_back(c.top);
    out.push_back(std::move(all));
  }
  return out;
}

std::vector<std::size_t> order(loader& from, std::uint32_t epoch) {
  std::vector<std::size_t> out;
  from.start(epoch);
  while (batch const* const b = from.next()) out.insert(out.end(), b->samples.begin(), b->samples.end());
  return out;
}

}  // namespace

TEST_CASE("loader: every byte is the same for 1, 2 and 5 threads and any prefetch, with label maps") {
  picture_set const files{23};
  dataset const set = files.with_maps();
  loader one{set, small(4, 1), noisy};
  auto const want = contents(one, 3);
  REQUIRE(want.size() == 5);
  for (int threads : {2, 5})
    for (int prefetch : {1, 4}) {
      loader_options o = small(4, threads);
      o.prefetch = prefetch;
      loader other{set, o, noisy};
      CHECK(contents(other, 3) == want);
      CHECK(contents(other, 4) != want);
      CHECK(contents(other, 3) == want);
    }
}

TEST_CASE("loader: a sample is read and drawn by the seed, the epoch and its number alone") {
  picture_set const files{11};
  dataset const set = files.with_maps();
  loader shuffled{set, small(3, 2), noisy};
  shuffled.start(9);
  for (int n = 0; batch const* const b = shuffled.next(); ++n) {
    CHECK(b->number == std::size_t(n));
    for (int i = 0; i < b->size; ++i) {
      std::size_t const sample = b->samples[std::size_t(i)];
      std::vector<float> want(60);
      label_map_data map = read_label_map(set.label_map(sample));
      random_stream stream{7, 9, sample};
      crop_fraction const crop = noisy(read_image(set.image(sample)), &map, stream, want);
      CHECK(std::equal(want.begin(), want.end(), b->picture_at(i).begin(), b->picture_at(i).end()));
      CHECK(b->crops[std::size_t(i)].top == crop.top);
      CHECK(b->labels[std::size_t(i)] == set.label(sample));
      CHECK(b->maps[std::size_t(i)].values == map.values);
      CHECK(b->map_at(i).height == 2);
      CHECK(b->map_at(i).width == 3);
      CHECK(b->map_at(i).data.data() == b->maps[std::size_t(i)].values.data());
    }
  }
}

TEST_CASE("loader: the training transform's pictures, crops and label maps arrive as it makes them") {
  picture_set const files{5};
  dataset const set = files.with_maps();
  loader train{set, small(5, 3), training_sample_transform({4, 5})};
  train.start(2);
  batch const* const b = train.next();
  REQUIRE(b != nullptr);
  for (int i = 0; i < b->size; ++i) {
    std::size_t const sample = b->samples[std::size_t(i)];
    std::vector<float> want(60);
    label_map_data map = read_label_map(set.label_map(sample));
    random_stream stream{7, 2, sample};
    crop_fraction const crop = training_transform(read_image(set.image(sample)), &map, {}, 4, 5, stream, want);
    CHECK(std::equal(want.begin(), want.end(), b->picture_at(i).begin()));
    CHECK(b->maps[std::size_t(i)].values == map.values);
    crop_fraction const got = b->crops[std::size_t(i)];
    CHECK(std::array{got.top, got.left, got.height, got.width} ==
          std::array{crop.top, crop.left, crop.height, crop.width});
  }
  augmentation wrong;
  wrong.flip = 2;
  CHECK_THROWS_AS((void)training_sample_transform({4, 5}, wrong), std::invalid_argument);
}

TEST_CASE("loader: from the middle of an epoch the batches are those of the whole epoch") {
  picture_set const files{23};
  dataset const set = files.with_maps();
  loader whole{set, small(4, 2), noisy};
  auto const want = contents(whole, 5);
  for (std::size_t first : {1u, 3u, 5u}) {
    loader resumed{set, small(4, 2), noisy};
    CHECK(contents(resumed, 5, first) == std::vector(want.begin() + std::ptrdiff_t(first), want.end()));
  }
  CHECK_THROWS_AS(whole.start(5, 6), std::out_of_range);
}

TEST_CASE("loader: training shuffles, holds a sample at most once an epoch, and leaves out what fills no batch") {
  picture_set const files{23};
  dataset const set = files.plain();
  loader train{set, small(4, 2), noisy};
  CHECK(train.batches() == 5);
  std::vector<std::size_t> const first = order(train, 0), second = order(train, 1);
  CHECK(first.size() == 20);
  CHECK(std::set(first.begin(), first.end()).size() == 20);
  CHECK(std::set(second.begin(), second.end()).size() == 20);
  CHECK(first != second);
  CHECK_FALSE(std::is_sorted(first.begin(), first.end()));
  loader_options reseeded = small(4, 2);
  reseeded.seed = 8;
  loader other{set, reseeded, noisy};
  CHECK(order(other, 0) != first);
}

TEST_CASE("loader: evaluation keeps the order of the files, every one once, with a smaller last batch") {
  picture_set const files{23};
  dataset const set = files.plain();
  loader_options o = small(4, 3);
  o.mode = loading::evaluation;
  loader evaluate{set, o, evaluation_sample_transform({4, 5}, {5, 6})};
  CHECK(evaluate.batches() == 6);
  std::vector<std::size_t> all(23);
  for (std::size_t i = 0; i < 23; ++i) all[i] = i;
  for (std::uint32_t epoch : {0u, 1u}) CHECK(order(evaluate, epoch) == all);
  evaluate.start(0, 5);
  batch const* const last = evaluate.next();
  REQUIRE(last != nullptr);
  CHECK(last->size == 3);
  CHECK(last->pictures.size() == 3 * 60);
  CHECK(last->maps.empty());
  std::vector<float> want(60);
  normalise(evaluation_transform(read_image(set.image(22)), {4, 5}, {5, 6}), want);
  CHECK(std::equal(want.begin(), want.end(), last->picture_at(2).begin()));
  CHECK(evaluate.next() == nullptr);
  CHECK(evaluate.next() == nullptr);
}

TEST_CASE("loader: processes read the batches that one process reads, in turn, beginning anew with each group") {
  picture_set const files{23};
  dataset const set = files.plain();
  for (auto mode : {loading::training, loading::evaluation})
    for (int const group : {0, 4, 5, 1})
      for (int const world : {1, 2, 3, 5}) {
        CAPTURE(group);
        CAPTURE(world);
        loader_options o = small(2, 2);
        o.mode = mode;
        loader whole{set, o, noisy};
        auto const want = order(whole, 2);
        o.group = group;
        o.world = world;
        std::vector<std::size_t> joined(want.size(), want.size());
        for (o.rank = 0; o.rank < world; ++o.rank) {
          loader part{set, o, noisy};
          CHECK(part.batches() == whole.batches());
          part.start(2, 1);
          while (batch const* const b = part.next()) {
            CHECK(int(group == 0 ? b->number : b->number % std::size_t(group)) % world == o.rank);
            std::copy(b->samples.begin(), b->samples.end(), joined.begin() + std::ptrdiff_t(2 * b->number));
          }
        }
        CHECK(std::equal(want.begin() + 2, want.end(), joined.begin() + 2));  // all but the batch before the first
        CHECK(joined[0] == want.size());
      }
}

TEST_CASE("loader: options out of range and a set smaller than a batch are refused") {
  picture_set const files{5};
  dataset const set = files.plain();
  auto const refused = [&](auto change) {
    loader_options o = small(4, 1);
    change(o);
    CHECK_THROWS_AS((loader{set, o, noisy}), std::invalid_argument);
  };
  refused([](loader_options& o) { o.batch = 0; });
  refused([](loader_options& o) { o.batch = 6; });
  refused([](loader_options& o) { o.prefetch = 0; });
  refused([](loader_options& o) { o.world = 0; });
  refused([](loader_options& o) { o.group = -1; });
  refused([](loader_options& o) { o.rank = 1; });
  refused([](loader_options& o) { o.rank = -1; });
  refused([](loader_options& o) { o.image.width = 0; });
  refused([](loader_options& o) { o.image = {}; });  // noisy writes any size
  refused([](loader_options& o) { o.prefetch = std::numeric_limits<int>::max(); });
  refused([](loader_options& o) { o.threads = -1; });
  CHECK_THROWS_AS((loader{set, small(4, 1), {}}), std::invalid_argument);
}

TEST_CASE("loader: the size of pictures is what the transform writes, and another one in the options is refused") {
  picture_set const files{5};
  dataset const set = files.plain();
  for (loading const mode : {loading::training, loading::evaluation}) {
    sample_transform const transform =
        mode == loading::training ? training_sample_transform({6, 8}) : evaluation_sample_transform({6, 8});
    loader from{set, {.mode = mode, .batch = 2, .threads = 1}, transform};
    CHECK(from.options().image == image_extent{6, 8});
    CHECK(from.classes() == 3);
    from.start(0);
    batch const* const b = from.next();
    REQUIRE(b != nullptr);
    CHECK((b->height == 6 && b->width == 8));
    CHECK(b->pictures.size() == 2 * 3 * 6 * 8);
    CHECK_THROWS_WITH_AS((loader{set, {.mode = mode, .image = {224, 224}, .batch = 2}, transform}),
                         "loader: the options say pictures of 224 x 224, the transform writes 6 x 8", shape_error);
  }
  CHECK_THROWS_AS((void)training_sample_transform({0, 8}), shape_error);
  CHECK_THROWS_AS((void)evaluation_sample_transform({6, 8}, {6, -1}), shape_error);
}

TEST_CASE("epoch_permutation: each place is taken by each number about equally often") {
  constexpr int n = 6, epochs = 6000;
  int count[n][n] = {};
  for (std::uint32_t e = 0; e < epochs; ++e) {
    auto const order = epoch_permutation(n, 1, e);
    for (std::size_t i = 0; i < n; ++i) ++count[i][order[i]];
  }
  double chi = 0;  // 25 degrees of freedom: over 52.6 once in 1000
  for (auto const& row : count)
    for (int c : row) chi += (c - epochs / n) * (c - epochs / n) / double(epochs / n);
  CHECK(chi < 52.6);
  CHECK(epoch_permutation(0, 1, 0).empty());
}
