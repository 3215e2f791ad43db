/// @file
/// The loader when samples cannot be read, threads fail, or nobody takes its batches.
#include <dm2/data/encode_png.hpp>
#include <dm2/data/loader.hpp>

#include <doctest/doctest.h>

#include "data/picture_set.hpp"
#include "io/refusal.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

crop_fraction copy_corner(picture p, label_map_data*, random_stream& stream, std::span<float> out) {
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = float(p.pixels[i]) + float(stream.uniform());
  return {};
}

loader_options small(int batch, int threads, loading mode = loading::training) {
  loader_options o;
  o.mode = mode;
  o.image = {4, 5};
  o.batch = batch;
  o.threads = threads;
  return o;
}

struct loaded {
  std::vector<std::size_t> samples;
  std::vector<float> pictures;
  std::vector<std::string> reported;
  friend bool operator==(loaded const&, loaded const&) = default;
};

loaded read_epoch(dataset const& set, loader_options o) {
  loaded out;
  o.report = [&](file_error const& problem) { out.reported.push_back(problem.path().filename().string()); };
  loader from{set, o, copy_corner};
  from.start(1);
  while (batch const* const b = from.next()) {
    out.samples.insert(out.samples.end(), b->samples.begin(), b->samples.end());
    out.pictures.insert(out.pictures.end(), b->pictures.begin(), b->pictures.end());
  }
  CHECK(from.bad() == out.reported.size());
  return out;
}

/// What n is 30 ms after it has reached `least`; gives up after 20 s.
std::size_t settled(std::atomic<std::size_t> const& n, std::size_t least) {
  for (int wait = 0; wait < 2000 && n < least; ++wait) std::this_thread::sleep_for(std::chrono::milliseconds{10});
  std::this_thread::sleep_for(std::chrono::milliseconds{30});
  return n;
}

}  // namespace

TEST_CASE("loader: in training the next good sample of the epoch's order takes a bad one's place, in any thread") {
  picture_set const files{20};
  dataset const set = files.with_maps();
  auto const order = epoch_permutation(20, 0, 1);
  std::vector<std::size_t> want(order.begin(), order.end());
  std::set<std::string> bad_files;
  for (std::size_t at : {4u, 5u, 19u}) {  // two in a row, and the last, which the first follows
    bool const picture_is_bad = at == 4;
    auto const path = picture_is_bad ? set.image(order[at]) : set.label_map(order[at]);
    write_file(path, "nonsense");
    bad_files.insert(path.filename().string());
    want[at] = order[(at == 4 ? at + 2 : at + 1) % 20];
  }
  loaded const one = read_epoch(set, small(5, 1));
  CHECK(one.samples == want);
  CHECK(std::set(one.reported.begin(), one.reported.end()) == bad_files);
  CHECK(one.reported.size() == 3);
  for (int threads : {2, 5}) CHECK(read_epoch(set, small(5, threads)) == one);
}

TEST_CASE("loader: a bad sample's stand-in differs from the same sample at its own place") {
  picture_set const files{4};
  dataset const set = files.plain();
  auto const order = epoch_permutation(4, 0, 1);
  write_file(set.image(order[1]), "nonsense");
  loaded const got = read_epoch(set, small(4, 2));
  REQUIRE(got.samples[1] == got.samples[2]);
  CHECK_FALSE(std::equal(&got.pictures[60], &got.pictures[120], &got.pictures[120]));
}

TEST_CASE("loader: in evaluation bad samples are left out, and batches without a good one") {
  picture_set const files{10};
  dataset const set = files.with_maps();
  for (std::size_t i : {0u, 3u, 4u, 5u}) write_file(set.image(i), "nonsense");
  loader_options o = small(3, 2, loading::evaluation);
  loaded const got = read_epoch(set, o);
  CHECK(got.samples == std::vector<std::size_t>{1, 2, 6, 7, 8, 9});
  REQUIRE(got.pictures.size() == 6 * 60);
  for (std::size_t k = 0; k < 6; ++k)
    CHECK(int(got.pictures[60 * k + 1]) == int(read_image(set.image(got.samples[k])).pixels[1]));
  CHECK(got.reported.size() == 4);
}

TEST_CASE("loader: a bad sample is reported once, however many epochs meet it") {
  picture_set const files{6};
  dataset const set = files.plain();
  write_file(set.image(2), "nonsense");
  int reports = 0;
  loader_options o = small(6, 2);
  o.report = [&](file_error const&) { ++reports; };
  loader from{set, o, copy_corner};
  for (std::uint32_t epoch = 0; epoch < 4; ++epoch) {
    from.start(epoch);
    while (from.next() != nullptr) {
    }
  }
  CHECK(reports == 1);
}

TEST_CASE("loader: more bad samples than the limit end it with their number and the last file, again and again") {
  picture_set const files{12};
  dataset const set = files.plain();
  for (std::size_t i : {1u, 3u, 8u}) write_file(set.image(i), "nonsense");
  for (auto mode : {loading::training, loading::evaluation}) {
    loader_options o = small(2, 2, mode);
    o.max_bad = 3;
    CHECK_NOTHROW((void)read_epoch(set, o));
    o.max_bad = 2;
    std::filesystem::path last;
    o.report = [&](file_error const& problem) { last = problem.path(); };
    loader from{set, o, copy_corner};
    from.start(0);
    auto const run = [&] {
      while (from.next() != nullptr) {
      }
    };
    try {
      run();
      FAIL("expected file_error");
    } catch (file_error const& problem) {
      CHECK(problem.path() == last);
      CHECK(contains(problem.what(), "3 of 12 samples are bad so far, the limit is 2"));
      CHECK(contains(problem.what(), "neither a JPEG nor a PNG"));
    }
    CHECK_THROWS_AS(run(), file_error);
  }
}

TEST_CASE("loader: a set without a good sample ends loading though the limit is not reached") {
  picture_set const files{3};
  dataset const set = files.plain();
  for (std::size_t i : {0u, 1u, 2u}) write_file(set.image(i), "nonsense");
  for (auto mode : {loading::training, loading::evaluation})
    CHECK_THROWS_AS((void)read_epoch(set, small(2, 2, mode)), file_error);
}

TEST_CASE("loader: what a thread throws surfaces in next(), and the next epoch starts afresh") {
  picture_set const files{12};
  dataset const set = files.plain();
  std::atomic<bool> fail{true};
  loader from{set, small(2, 3), [&](picture p, label_map_data* map, random_stream& stream, std::span<float> out) {
                if (fail) throw std::domain_error{"no such thing"};
                return copy_corner(std::move(p), map, stream, out);
              }};
  from.start(0);
  CHECK_THROWS_AS((void)from.next(), std::domain_error);
  CHECK_THROWS_AS((void)from.next(), std::domain_error);
  fail = false;
  from.start(0);
  int batches = 0;
  while (from.next() != nullptr) ++batches;
  CHECK(batches == 6);
}

TEST_CASE("loader: threads read prefetch batches ahead and no further, in memory taken once") {
  picture_set const files{40};
  dataset const set = files.plain();
  std::atomic<std::size_t> started{0};
  loader_options o = small(4, 5);
  o.prefetch = 2;
  loader from{set, o, [&](picture p, label_map_data* map, random_stream& stream, std::span<float> out) {
                ++started;
                return copy_corner(std::move(p), map, stream, out);
              }};
  CHECK(from.next() == nullptr);
  from.start(0);
  CHECK(settled(started, 3 * 4) == 3 * 4);
  std::set<float const*> memory;
  for (std::size_t n = 1; n <= 4; ++n) {
    memory.insert(from.next()->pictures.data());
    CHECK(settled(started, (2 + n) * 4) == (2 + n) * 4);
  }
  for (std::uint32_t epoch : {1u, 2u}) {
    from.start(epoch);
    while (batch const* const b = from.next()) memory.insert(b->pictures.data());
  }
  CHECK(memory.size() == 3);
}

TEST_CASE("loader: ends, and changes epochs, while its threads are busy") {
  picture_set const files{60};
  dataset const set = files.with_maps();
  loaded const want = read_epoch(set, small(4, 1));
  for (int taken = 0; taken < 8; ++taken) {
    loader from{set, small(4, 1 + taken % 5), copy_corner};
    if (taken == 0) continue;  // never started
    for (std::uint32_t epoch : {2u, 1u}) {
      from.start(epoch);
      for (int n = 0; n < taken; ++n) {
        batch const* const b = from.next();
        REQUIRE(b != nullptr);
        if (epoch == 1) CHECK(std::equal(b->samples.begin(), b->samples.end(), want.samples.begin() + 4 * n));
      }
    }
  }
}

TEST_CASE("loader: time that next() waits is counted, time that the caller takes is not") {
  picture_set const files{6};
  dataset const set = files.plain();
  std::atomic<std::size_t> done{0};
  loader from{set, small(2, 1), [&](picture p, label_map_data* map, random_stream& stream, std::span<float> out) {
                std::this_thread::sleep_for(std::chrono::milliseconds{50});
                ++done;
                return copy_corner(std::move(p), map, stream, out);
              }};
  CHECK(from.seconds_waiting() == 0);
  from.start(0);
  while (from.next() != nullptr) {
  }
  double const waited = from.seconds_waiting();
  CHECK(waited > 0.1);  // of the 0.3 s that six samples take at least
  from.start(1);
  CHECK(settled(done, 12) == 12);  // 0.3 s later everything is there
  (void)from.next();
  CHECK(from.seconds_waiting() < waited + 0.25);
}

TEST_CASE(
    "loader: a picture over the loader's limit of pixels is a bad sample, and is read where the limit is raised") {
  picture_set const files{6};
  dataset const set = files.plain();
  auto const order = epoch_permutation(6, 0, 1);
  picture const large = gradient(40, 50);
  std::vector<std::byte> const png = encode_png(large);
  write_file(set.image(order[2]), {reinterpret_cast<char const*>(png.data()), png.size()});
  loader_options o = small(6, 2);
  CHECK(o.decoding.max_pixels == max_sample_pixels);
  CHECK(o.decoding.max_pixels * 5 < decode_options{}.max_pixels);
  o.decoding.max_pixels = 1999;
  CHECK(read_epoch(set, o).reported == std::vector{set.image(order[2]).filename().string()});
  o.decoding.max_pixels = 2000;
  CHECK(read_epoch(set, o).reported.empty());
}

TEST_CASE("loader: pictures that another program cuts in place while they are read are bad samples, not the end") {
  picture_set const files{12};
  dataset const set = files.plain();
  loader_options o = small(4, 3);
  o.max_bad = 12;
  std::atomic<bool> done{false};
  std::thread writer{[&] {
    for (std::size_t i = 0; !done; i = (i + 1) % set.size()) {
      std::error_code ignored;
      auto const size = std::filesystem::file_size(set.image(i), ignored);
      std::filesystem::resize_file(set.image(i), size / 2, ignored);
      std::filesystem::resize_file(set.image(i), size, ignored);
    }
  }};
  loader from{set, o, copy_corner};
  for (std::uint32_t epoch = 0; epoch < 20; ++epoch) try {
      from.start(epoch);
      while (from.next() != nullptr) {
      }
    } catch (file_error const&) {  // all of them are bad by now
    }
  done = true;
  writer.join();
  CHECK(from.bad() > 0);
}
