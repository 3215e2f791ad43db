// Reading packed sets: the same batches as from the folder, damage found and named, hostile indices refused.
#include <dm2/data/loader.hpp>
#include <dm2/data/pack/pack.hpp>
#include <dm2/data/pack/verify.hpp>

#include "data/pack/mixed_set.hpp"
#include "io/refusal.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;
namespace fs = std::filesystem;

namespace {

constexpr image_extent extent{32, 40};

loader_options small(int batch, int threads) {
  loader_options o;
  o.batch = batch;
  o.threads = threads;
  o.seed = 11;
  return o;
}

/// Batch number -> every number that it holds, from batch `first` on.
std::map<std::size_t, std::vector<double>> contents(loader& from, std::uint32_t epoch, std::size_t first = 0) {
  std::map<std::size_t, std::vector<double>> out;
  from.start(epoch, first);
  while (batch const* const b = from.next()) {
    std::vector<double>& all = out[b->number];
    all.assign(b->pictures.begin(), b->pictures.end());
    all.insert(all.end(), b->labels.begin(), b->labels.end());
    all.insert(all.end(), b->samples.begin(), b->samples.end());
    for (label_map_data const& m : b->maps) all.insert(all.end(), m.values.begin(), m.values.end());
    for (crop_fraction const& c : b->crops) all.insert(all.end(), {c.top, c.left, c.height, c.width});
  }
  return out;
}

/// A set of one shard of two small pictures, one with an odd size, with label maps.
struct tiny_set {
  scratch_folder folder;
  tiny_set() {
    fs::create_directories(folder / "in/a");
    fs::create_directories(folder / "in/b");
    fs::create_directories(folder / "maps/a");
    fs::create_directories(folder / "maps/b");
    for (char const* name : {"a/x", "b/y"}) {
      picture p = gradient(3, name[0] == 'a' ? 4 : 5);
      std::vector<std::byte> const png = encode_png(p);
      write_raw(folder / (std::string{"in/"} + name + ".png"), detail::as_text(png));
      write_label_map(folder / (std::string{"maps/"} + name + ".pt"), label_map_values(1, 1, 2), 1, 1);
    }
    pack_pictures(dataset{folder / "in", {.label_maps = folder / "maps"}}, set(), {.threads = 1});
  }
  [[nodiscard]] fs::path set() const { return folder / "set"; }
  [[nodiscard]] fs::path index() const { return set() / pack_index_name; }
};

}  // namespace

TEST_CASE("packed set: training batches are the folder's bit for bit, by one and by two processes, from any batch") {
  mixed_set const files{2};
  pack_pictures(files.with_maps(), files.packed(), {.shard_bytes = 50'000});
  dataset const folder = files.with_maps(), set{files.packed(), {.label_maps = files.packed()}};
  sample_transform const transform = training_sample_transform(extent);
  for (std::uint32_t epoch : {0u, 5u}) {
    loader from_folder{folder, small(4, 2), transform}, from_set{set, small(4, 3), transform};
    auto const want = contents(from_folder, epoch);
    REQUIRE(want.size() == 6);
    CHECK(contents(from_set, epoch) == want);
    auto const rest = contents(from_set, epoch, 3);
    CHECK(rest == std::map<std::size_t, std::vector<double>>(want.find(3), want.end()));
    std::map<std::size_t, std::vector<double>> dealt;
    for (int rank = 0; rank < 2; ++rank) {
      loader_options o = small(4, 1);
      o.rank = rank;
      o.world = 2;
      loader part{set, o, transform};
      auto own = contents(part, epoch);
      CHECK(own.size() == 3);
      dealt.merge(own);
    }
    CHECK(dealt == want);
  }
}

TEST_CASE("packed set: evaluation batches are the folder's bit for bit") {
  mixed_set const files{1};
  pack_pictures(files.plain(), files.packed(), {.shard_bytes = 50'000});
  dataset const folder = files.plain(), set{files.packed()};
  loader_options o = small(5, 2);
  o.mode = loading::evaluation;
  loader a{folder, o, evaluation_sample_transform(extent)}, b{set, o, evaluation_sample_transform(extent)};
  auto const want = contents(a, 0);
  CHECK(want.size() == 3);
  CHECK(contents(b, 0) == want);
}

TEST_CASE("packed set: a damaged record is named, and its place taken as a bad picture's in the folder") {
  mixed_set const files{1};
  pack_pictures(files.plain(), files.packed(), {.shard_bytes = 50'000});
  dataset const set{files.packed()};
  std::size_t const victim = 5;
  detail::pack_record const r = set.packed()->index().record(set.record(victim));
  fs::path const shard = files.packed() / detail::pack_shard_name(r.shard), name = set.image(victim);
  std::string bytes = read_raw(shard);
  bytes[std::size_t(r.offset) + r.bytes / 2] = char(bytes[std::size_t(r.offset) + r.bytes / 2] ^ 1);
  write_raw(shard, bytes);
  write_raw(files.images() / name.lexically_relative(files.packed()), "no picture");
  auto const run = [&](fs::path const& root) {
    dataset const from{root};
    std::vector<std::string> told;
    loader_options o = small(4, 2);
    o.report = [&](file_error const& problem) { told.push_back(problem.path().lexically_relative(root)); };
    loader l{from, o, training_sample_transform(extent)};
    auto values = contents(l, 1);
    CHECK(told == std::vector<std::string>{name.lexically_relative(files.packed())});
    return values;
  };
  CHECK(run(files.packed()) == run(files.images()));
  dataset const again{files.packed()};
  std::string const why = refusal(name, [&] { (void)again.open_image(victim); });
  CHECK(contains(why, "checksum of its picture"));
  CHECK(contains(why, detail::pack_shard_name(r.shard)));
  check_report const report = verify_packed_set(files.packed());
  CHECK(report.problems == 1);
  CHECK(report.listed[0].path() == name);
}

TEST_CASE("packed set: any flipped bit of any byte of any file is found") {
  tiny_set const t;
  REQUIRE(verify_packed_set(t.set()).problems == 0);
  for (auto const& entry : packed_files(t.set())) {
    std::string const &file = entry.first, &bytes = entry.second;
    CAPTURE(file);
    std::size_t missed = 0;
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      std::string changed = bytes;
      changed[i] = char(changed[i] ^ (1 << i % 8));
      write_file(t.set() / file, changed);
      try {
        missed += verify_packed_set(t.set(), {.threads = 1, .decode = false}).problems == 0;
      } catch (file_error const&) {
      }
    }
    CHECK(missed == 0);
    write_file(t.set() / file, bytes);
  }
  CHECK(verify_packed_set(t.set()).problems == 0);
}

TEST_CASE("packed set: a file that is missing, shorter or longer is refused by name with both sizes") {
  tiny_set const t;
  fs::path const shard = t.set() / "shard-00000.dm2set";
  for (fs::path const& file : {shard, t.index()}) {
    std::string const bytes = read_raw(file);
    for (std::string const& changed :
         {bytes.substr(0, bytes.size() - 1), bytes + "x", bytes.substr(0, 10), std::string{}}) {
      write_raw(file, changed);
      std::string const why = refusal(file, [&] { packed_set{t.set()}; });
      CHECK(contains(why, std::to_string(changed.size())));
      if (changed.size() >= 128) CHECK(contains(why, std::to_string(bytes.size())));
    }
    write_raw(file, bytes);
  }
  fs::remove(shard);
  CHECK(contains(refusal(shard, [&] { packed_set{t.set()}; }), "cannot be opened"));
}

TEST_CASE("packed set: hostile indices are refused by field and both numbers, with checksums that are right") {
  tiny_set const t;
  std::string const sound = read_raw(t.index());
  std::size_t const classes = 128, shards = classes + 2 * 16, records = shards + 32, text = records + 2 * 64;
  struct change {
    std::size_t at, bytes;
    std::uint64_t value;
    char const* told;
  };
  constexpr std::uint64_t huge = std::numeric_limits<std::uint64_t>::max();
  change const changes[] = {
      {8, 4, 2, "version is 2, expected 1"},
      {12, 4, 0, "number of classes is 0"},
      {12, 4, 0xFFFFFFFF, "number of classes is 4294967295"},
      {12, 4, 3, "size is"},
      {16, 8, 0, "number of records is 0"},
      {16, 8, huge, "number of records is 18446744073709551615"},
      {16, 8, 3, "size is"},
      {24, 4, 0, "number of shards is 0"},
      {24, 4, 1u << 21, "number of shards is 2097152"},
      {32, 4, 101, "quality is 101"},
      {36, 4, 2, "mark of label maps is 2"},
      {36, 4, 0, "size of the label map of record 0"},
      {48, 8, huge, "bytes of names is"},
      {56, 8, 7, "size is"},
      {64, 8, 1, "reserved field of the head is 1, expected 0"},
      {classes, 8, 1, "first record of the first class is 1, expected 0"},
      {classes + 16, 8, 3, "first record of class 1 is 3, expected 0 to 2"},
      {classes + 8, 8, huge, "end of a class name is 18446744073709551615"},
      {classes + 24, 8, 0, "end of a class name is 0, expected 1 to"},
      {shards, 8, 100, "place of the table of shard 0"},
      {shards + 8, 8, 1, "first record of the first shard is 1, expected 0"},
      {shards + 16, 8, huge, "place of the table of shard 0"},
      {shards + 28, 4, 1, "reserved field of a shard is 1"},
      {records, 8, 24, "offset of record 0 is 24, expected 16"},
      {records, 8, huge, "offset of record 0"},
      {records + 8, 4, 0xFFFFFFFF, "size of record 0 is 4294967295, expected at most"},
      {records + 8, 4, 1u << 29, "end of record 0"},
      {records + 24, 4, 1u << 29, "end of record 0"},
      {records + 20, 4, 0, "width of record 0 is 0"},
      {records + 36, 4, 1, "shard of record 0 is 1, expected 0"},
      {records + 40, 8, huge, "end of a picture name"},
      {records + 48, 1, 3, "form of record 0 is 3, expected 0 to 2"},
      {records + 60, 1, 3, "reserved field of record 0 is 3, expected 0"},
      {text, 1, '/', "class name \"/\""},
      {text + 1, 1, 'a', "two classes named a"},
      {text + 2, 1, '/', "picture name \"/.png\""},
      {text + 3, 1, 0, "picture name"},
  };
  for (change const& c : changes) {
    std::string bytes = sound;
    std::memcpy(bytes.data() + c.at, &c.value, c.bytes);
    detail::seal_pack_index(std::as_writable_bytes(std::span{bytes}));
    write_raw(t.index(), bytes);
    CAPTURE(c.told);
    std::string const why = refusal(t.index(), [&] { packed_set{t.set()}; });
    CAPTURE(why);
    CHECK(contains(why, c.told));
  }
  for (char const* name : {"../p", "./xx", "a/..", "/abc"}) CHECK_FALSE(detail::is_packed_name(name, true));
  CHECK(detail::is_packed_name("a/..b/c.png", true));
  CHECK_FALSE(detail::is_packed_name("a/b", false));
  write_raw(t.index(), sound);
  CHECK(packed_set{t.set()}.size() == 2);
}

TEST_CASE("packed set: a shard of another set is refused, whole as it is") {
  tiny_set const t;
  mixed_set const files{1};
  pack_pictures(files.plain(), files.packed(), {});
  fs::path const shard = t.set() / "shard-00000.dm2set";
  write_raw(shard, read_raw(files.packed() / "shard-00000.dm2set"));
  CHECK(contains(refusal(shard, [&] { packed_set{t.set()}; }), "size is"));
  std::string bytes = read_raw(t.index());
  fs::copy_file(files.packed() / pack_index_name, t.index(), fs::copy_options::overwrite_existing);
  std::string identity = read_raw(t.index());
  identity[40] = char(identity[40] ^ 1);
  detail::seal_pack_index(std::as_writable_bytes(std::span{identity}));
  write_raw(t.index(), identity);
  CHECK(contains(refusal(shard, [&] { packed_set{t.set()}; }), "identity of the set"));
}

TEST_CASE("packed label map: any shape, scores and classes come back bit for bit in as few bytes as they need") {
  auto const round = [](std::vector<float> values, int h, int w, std::size_t bytes) {
    label_map_data const map{h, w, values};
    auto const packed = detail::pack_label_map(map);
    CHECK(packed.size() == bytes);
    label_map_data const back = detail::unpack_label_map(packed, 1 << 24, "map");
    CHECK(back.height == h);
    CHECK(back.width == w);
    CHECK(std::memcmp(back.values.data(), values.data(), values.size() * sizeof(float)) == 0);
  };
  auto const values = [](int h, int w, float score, float most) {
    std::vector<float> v(std::size_t(10 * h * w));
    for (std::size_t i = 0; i < v.size() / 2; ++i) v[i] = i == 1 ? -0.0f : score * float(i % 7);
    for (std::size_t i = v.size() / 2; i < v.size(); ++i) v[i] = i + 1 == v.size() ? most : float(i % 3);
    return v;
  };
  round(values(1, 1, 0.5f, 255), 1, 1, 8 + 5 * 3);
  round(values(18, 18, 0.125f, 999), 18, 18, 8 + 5 * 18 * 18 * 4);
  round(values(3, 2, 0.1f, 65535), 3, 2, 8 + 5 * 6 * 6);
  round(values(2, 512, 1e30f, 65536), 2, 512, 8 + 5 * 1024 * 8);
}

TEST_CASE("packed label map: bytes of another size or with other fields are refused, and classes out of range") {
  label_map_data const map{2, 3, label_map_values(2, 3, 4)};
  auto const sound = detail::pack_label_map(map);
  auto const why = [](std::vector<std::byte> const& bytes, int classes = 4) {
    return refusal("map", [&] { (void)detail::unpack_label_map(bytes, classes, "map"); });
  };
  auto with = [&](std::size_t at, int value) {
    auto bytes = sound;
    bytes[at] = std::byte(value);
    return bytes;
  };
  CHECK(contains(why({}), "size is 0, expected at least 8"));
  CHECK(contains(why({sound.begin(), sound.end() - 1}), "size is 97, expected 98"));
  CHECK(contains(why(with(0, 0)), "height is 0, expected 1 to 512"));
  CHECK(contains(why(with(1, 255)), "height is"));
  CHECK(contains(why(with(3, 255)), "width is"));
  CHECK(contains(why(with(4, 3)), "bytes of a score is 3"));
  CHECK(contains(why(with(5, 3)), "bytes of a class is 3"));
  CHECK(contains(why(with(sound.size() - 1, 200)), "class index"));
  CHECK(contains(why(sound, 3), "class index"));
}
