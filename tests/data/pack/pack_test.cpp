// Packed sets: the same samples as the folder's, and what packing does when it is stopped, killed, or misled.
#include <dm2/data/check_dataset.hpp>
#include <dm2/data/pack/pack.hpp>
#include <dm2/data/pack/verify.hpp>

#include "data/pack/mixed_set.hpp"
#ifdef DM2_WITH_JPEG
#include "data/make_jpeg.hpp"
#endif
#include "io/refusal.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <csignal>
#include <cstddef>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

using namespace dm2;
using namespace dm2::test;
namespace fs = std::filesystem;

namespace {

/// Small shards, so that there are several.
pack_options small_shards() { return {.shard_bytes = 60'000, .threads = 2}; }

std::vector<std::string> samples_of(dataset const& set) {
  std::vector<std::string> out;
  for (std::size_t i = 0; i < set.size(); ++i)
    out.push_back(std::to_string(set.label(i)) + " " + set.image(i).lexically_relative(set.root()).generic_string());
  return out;
}

void check_same_samples(dataset const& got, dataset const& want) {
  CHECK(std::equal(got.class_names().begin(), got.class_names().end(), want.class_names().begin(),
                   want.class_names().end()));
  CHECK(samples_of(got) == samples_of(want));
  CHECK(got.fingerprint() == want.fingerprint());
  CHECK(got.empty_classes() == want.empty_classes());
  REQUIRE(got.has_label_maps() == want.has_label_maps());
  for (std::size_t i = 0; i < want.size(); ++i) {
    CHECK(got.load_image(i) == want.load_image(i));
    if (!want.has_label_maps()) continue;
    label_map_data const a = got.load_label_map(i, 4), b = want.load_label_map(i, 4);
    CHECK(a.height == b.height);
    CHECK(a.width == b.width);
    CHECK(a.values == b.values);
  }
}

}  // namespace

TEST_CASE("pack: a set has the folder's samples, classes, order, pixels, label maps and fingerprint") {
  mixed_set const files{1};
  pack_report const report = pack_pictures(files.with_maps(), files.packed(), small_shards());
  CHECK(report.whole);
  CHECK(report.records == 12);
  CHECK(report.problems == 0);
  CHECK(report.forms[0] + report.forms[1] == 12);
#ifdef DM2_WITH_JPEG
  CHECK(report.forms[1] == 7);
#endif
  CHECK(is_packed_set(files.packed()));
  CHECK_FALSE(is_packed_set(files.images()));
  packed_set const set{files.packed()};
  CHECK(set.index().shards() > 2);
  CHECK_FALSE(set.pixels_changed());
  dataset const whole{files.packed(), {.label_maps = files.packed()}};
  check_same_samples(whole, files.with_maps());
  check_same_samples(dataset{files.packed()}, files.plain());
  check_same_samples(dataset{files.packed(), {.label_maps = files.maps()}}, files.with_maps());
  for (std::size_t i = 0; i < whole.size(); ++i) {
    picture const p = whole.load_image(i);
    CHECK(set.extent(whole.record(i)) == image_extent{p.height, p.width});
    CHECK(set.path_of(whole.record(i)) == whole.image(i));
    CHECK(whole.open_image(i).name() == whole.image(i));
  }
  CHECK(check(whole).problems == 1);  // the empty class
}

TEST_CASE("pack: classes are numbered as asked, whatever their order in the set") {
  mixed_set const files{1};
  pack_pictures(files.plain(), files.packed(), small_shards());
  CHECK(class_folders(files.packed()) == std::vector<std::string>{"c1", "c2", "c3", "c10"});
  CHECK(class_folders(files.packed(), class_order::plain) == class_folders(files.images(), class_order::plain));
  check_same_samples(dataset{files.packed(), {.order = class_order::plain}},
                     dataset{files.images(), {.order = class_order::plain}});
  std::vector<std::string> const names{"c10", "absent", "c3", "c1", "c2"};
  check_same_samples(dataset{files.packed(), {.classes = names}}, dataset{files.images(), {.classes = names}});
  std::string const why = refusal(files.packed() / "c2", [&] { dataset{files.packed(), {.classes = {"c1"}}}; });
  CHECK(contains(why, "is none of the 1 classes"));
}

TEST_CASE("pack: label maps of a set go with its own pictures") {
  mixed_set const files{1};
  pack_pictures(files.plain(), files.packed(), small_shards());
  auto const pictures = files.images(), set = files.packed();
  CHECK(contains(refusal(set, [&] { dataset{set, {.label_maps = set}}; }), "without label maps"));
  CHECK(contains(refusal(set, [&] { dataset{pictures, {.label_maps = set}}; }), "its own pictures"));
}

TEST_CASE("pack: a set packed from a set has its bytes; threads change nothing") {
  mixed_set const files{1};
  scratch_folder const other;
  pack_pictures(files.with_maps(), files.packed(), small_shards());
  pack_options o = small_shards();
  o.threads = 5;
  pack_pictures(files.with_maps(), other / "again", o);
  CHECK(packed_files(other / "again") == packed_files(files.packed()));
  pack_pictures(dataset{files.packed(), {.label_maps = files.packed()}}, other / "set", small_shards());
  check_same_samples(dataset{other / "set", {.label_maps = other / "set"}}, files.with_maps());
}

TEST_CASE("pack: stopped after any number of records it goes on, and ends with the bytes of one that was not") {
  mixed_set const files{1};
  scratch_folder const other;
  dataset const set = files.with_maps();
  pack_pictures(set, files.packed(), small_shards());
  auto const want = packed_files(files.packed());
  int stops = 0;
  for (bool whole = false; !whole; ++stops) {
    REQUIRE(stops < 50);
    pack_options o = small_shards();
    o.block = 1;
    int calls = 0;
    o.progress = [&](std::size_t) { return ++calls < 2 + stops; };
    whole = pack_pictures(set, other / "set", o).whole;
    CHECK(is_packed_set(other / "set") == whole);
  }
  CHECK(packed_files(other / "set") == want);
  pack_report const again = pack_pictures(set, other / "set", small_shards());
  CHECK(again.whole);
  CHECK(again.taken_over == 12);
  CHECK(packed_files(other / "set") == want);
}

TEST_CASE("pack: any files of a set may be missing, and are made again with their bytes; leftovers go") {
  mixed_set const files{1};
  dataset const set = files.with_maps();
  pack_pictures(set, files.packed(), small_shards());
  auto const want = packed_files(files.packed());
  for (unsigned mask = 0; mask < 1u << want.size(); mask += 3) {
    for (std::size_t i = 0; i < want.size(); ++i)
      if ((mask >> i & 1) != 0) fs::remove(files.packed() / want[i].first);
    write_raw(files.packed() / ".shard-00001.dm2set.77-0.tmp", "half");
    pack_pictures(set, files.packed(), small_shards());
    CHECK(packed_files(files.packed()) == want);
  }
}

TEST_CASE("pack: killed at any moment it leaves nothing that is taken for whole, and goes on to the same bytes") {
  mixed_set const files{1};
  scratch_folder const other;
  dataset const set = files.with_maps();
  pack_pictures(set, files.packed(), small_shards());
  auto const want = packed_files(files.packed());
  for (int kill_after = 0; kill_after < 60; ++kill_after) {
    pid_t const child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      pack_options o = small_shards();
      o.threads = 1;
      o.block = 1;
      pack_pictures(set, other / "set", o);
      _exit(0);
    }
    ::usleep(useconds_t(1000 * kill_after));
    ::kill(child, SIGKILL);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    for (auto const& [name, bytes] : packed_files(other / "set"))
      if (!name.ends_with(".tmp")) CHECK(std::find(want.begin(), want.end(), std::pair{name, bytes}) != want.end());
    if (is_packed_set(other / "set")) {
      CHECK(packed_files(other / "set") == want);
      fs::remove_all(other / "set");
    }
  }
  pack_pictures(set, other / "set", small_shards());
  CHECK(packed_files(other / "set") == want);
}

TEST_CASE("pack: damage in a shard that is taken over, changed sources and other options are refused by name") {
  mixed_set const files{1};
  dataset const set = files.with_maps();
  pack_pictures(set, files.packed(), small_shards());
  auto const again = [&](pack_options const& o) { pack_pictures(set, files.packed(), o); };
  fs::path const shard = files.packed() / "shard-00000.dm2set", index = files.packed() / pack_index_name;
  pack_options other = small_shards();
  other.shard_bytes = 70'000;
  CHECK(contains(refusal(index, [&] { again(other); }), "other options"));
  fs::remove(index);
  CHECK(contains(refusal(shard, [&] { again(other); }), "other options"));
  std::string bytes = read_raw(shard);
  bytes[500] = char(bytes[500] ^ 4);
  write_raw(shard, bytes);
  CHECK(contains(refusal(shard, [&] { again(small_shards()); }), "is damaged"));
  bytes.resize(bytes.size() - 1);
  write_raw(shard, bytes);
  CHECK(contains(refusal(shard, [&] { again(small_shards()); }), "whole shard"));
  fs::remove(shard);
  again(small_shards());
  fs::path const picture = set.image(3);
  write_raw(picture, read_raw(picture) + " ");
  CHECK(contains(refusal(picture, [&] { again(small_shards()); }), "when it was packed"));
}

TEST_CASE("pack: a folder with something else in it, and options out of range, are refused") {
  mixed_set const files{1};
  dataset const set = files.plain();
  CHECK(contains(refusal(files.images(), [&] { pack_pictures(set, files.images()); }), "no packed set"));
  for (pack_options const& o :
       {pack_options{.side = 10}, {.quality = 101}, {.quality = -1}, {.side = -1, .quality = 90}, {.shard_bytes = 0}})
    CHECK_THROWS_AS(pack_pictures(set, files.packed(), o), std::invalid_argument);
  CHECK_FALSE(fs::exists(files.packed()));
}

TEST_CASE("pack: what training cannot read is kept as it is, counted, and named when it is read") {
  mixed_set const files{1};
  fs::path const bad = files.images() / "c1" / "p100.photo.jpg", map = files.maps() / "c10" / "p102.pt";
  std::string const half = read_raw(bad).substr(0, 3000);
  write_raw(bad, half);
  fs::remove(map);
  pack_report const report = pack_pictures(files.with_maps(), files.packed(), small_shards());
  CHECK(report.whole);
  CHECK(report.problems == 2);
  REQUIRE(report.listed.size() == 2);
  CHECK(report.listed[0].path() == bad);
  CHECK(report.listed[1].path() == map);
  dataset const set{files.packed(), {.label_maps = files.packed()}};
  std::string const name = "c1/p100.photo.jpg";
  CHECK(set.packed()->extent(0) == image_extent{0, 0});
  CHECK(dm2::detail::as_text(set.open_image(0).bytes()) == half);
  CHECK(contains(refusal(files.packed() / name, [&] { (void)set.load_image(0); }), "JPEG"));
  std::size_t place = 0;
  while (!contains(set.image(place).string(), "c10/p102")) ++place;
  CHECK(contains(refusal(files.packed() / "c10" / "p102.pt", [&] { (void)set.load_label_map(place, 4); }),
                 "is not in the packed set"));
  CHECK(verify_packed_set(files.packed()).problems == 1);
  CHECK(verify_packed_set(files.packed(), {.decode = true}).problems == 2);
}

#ifdef DM2_WITH_JPEG
TEST_CASE("pack: with a side and a quality pictures are smaller JPEGs, and the set says so") {
  mixed_set const files{1};
  pack_options o = small_shards();
  o.side = 40;
  o.quality = 80;
  pack_report const report = pack_pictures(files.plain(), files.packed(), o);
  CHECK(report.forms[2] == 12);
  dataset const set{files.packed()}, before = files.plain();
  CHECK(set.packed()->pixels_changed());
  for (std::size_t i = 0; i < set.size(); ++i) {
    picture const was = before.load_image(i), is = set.load_image(i);
    int const least = std::min(was.height, was.width);
    CHECK(std::min(is.height, is.width) == std::min(least, 40));
    CHECK(double(is.height) / is.width == doctest::Approx(double(was.height) / was.width).epsilon(0.02));
    picture const small = least <= 40 ? was : resize(was, is.height, is.width, resize_filter::bicubic);
    jpeg_recipe const recipe{.horizontal = 2, .vertical = 2, .quality = 80};
    CHECK(is == decode_image(make_jpeg(small.pixels, small.height, small.width, recipe), "want"));
  }
  CHECK(verify_packed_set(files.packed(), {.decode = true}).problems == 0);
}
#endif
