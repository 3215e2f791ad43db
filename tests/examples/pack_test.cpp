// pack as a user runs it, and train, evaluate and classify on what it made.
#include "examples/picture_folder.hpp"
#include "io/refusal.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <vector>

using namespace dm2::test;
namespace fs = std::filesystem;

namespace {

outcome pack(fs::path const& folder, std::vector<std::string> const& words) {
  return run_program(DM2_PACK, words, folder);
}

/// A second folder with the sets of the first one's pictures, under the same names: train's flags are the same in both.
struct packed_pictures : picture_folder {
  explicit packed_pictures(picture_folder const& from) : picture_folder{0} {
    fs::remove_all(folder / "data");
    for (char const* part : {"train", "val"}) {
      auto const run = pack(from.folder.path(), {std::string{"data/"} + part, (folder / "data" / part).string()});
      CHECK(run.code == 0);
      CHECK(contains(run.out, part[0] == 't' ? "20 pictures in 10 classes" : "10 pictures in 10 classes"));
    }
  }
};

}  // namespace

TEST_CASE("pack: a run from a set ends with the bytes of one from the folder, killed in its epochs or not") {
  picture_folder const here;
  packed_pictures const packed{here};
  CHECK(here.train({}).code == 0);
  CHECK(packed.train({}).code == 0);
  std::string const want = read_raw(here.run("last.safetensors"));
  CHECK(read_raw(packed.run("last.safetensors")) == want);
  CHECK(read_raw(packed.run("best.safetensors")) == read_raw(here.run("best.safetensors")));
  fs::remove_all(packed.folder / "runs");
  auto const run = packed.shell(
      "for i in 1 2 3 4; do launch --checkpoint-steps 1 --resume auto > log 2>&1 & p=$!; "
      "until [ -e runs/micro/last.safetensors ]; do kill -0 $p || break; sleep 0.01; done; sleep 0.0$i; "
      "kill -KILL $p; wait $p; done; train --resume auto");
  CHECK(run.code == 0);
  CHECK(read_raw(packed.run("last.safetensors")) == want);
}

TEST_CASE("pack: a run goes on from the folder to the set, and stops in the middle of an epoch on the way") {
  picture_folder const here;
  packed_pictures const packed{here};
  CHECK(here.train({"--epochs", "3"}).code == 0);
  std::string const want = read_raw(here.run("last.safetensors"));
  fs::remove_all(here.folder / "runs");
  CHECK(here.train({"--epochs", "3", "--stop-after", "1"}).code == 0);
  fs::copy(here.folder / "runs", packed.folder / "runs", fs::copy_options::recursive);
  auto const run = packed.train({"--epochs", "3", "--resume", "auto"});
  CHECK(run.code == 0);
  CHECK_FALSE(contains(run.out, "other pictures"));
  CHECK(read_raw(packed.run("last.safetensors")) == want);
}

TEST_CASE("pack: evaluate and classify say of a set what they say of the folder") {
  picture_folder const here;
  packed_pictures const packed{here};
  CHECK(here.train({}).code == 0);
  std::string const weights = here.run("last.safetensors").string();
  auto const answers = [&](picture_folder const& from) {
    auto const e = run_program(DM2_EVALUATE, {"data", "-w", weights, "--per-class", "classes.csv"}, from.folder.path());
    auto const c = run_program(DM2_CLASSIFY, {"data/val", "-w", weights, "--csv"}, from.folder.path());
    auto const m = run_program(DM2_CLASSIFY, {"one", "-w", weights, "--heatmap", "map.png"}, from.folder.path());
    CHECK(e.code == 0);
    CHECK(c.code == 0);
    CHECK(m.code == 0);
    return e.out.substr(0, e.out.find(" pictures")) + read_raw(from.folder / "classes.csv") + c.out + m.out +
           read_raw(from.folder / "map.png");
  };
  fs::create_directories(here.folder / "one");
  fs::copy(here.folder / "data/val/class4", here.folder / "one/class4");
  CHECK(pack(here.folder.path(), {"one", (packed.folder / "one").string()}).code == 0);
  CHECK(answers(packed) == answers(here));
}

TEST_CASE("pack: its words and codes: done again, verified, damaged, other options, in use, nonsense") {
  picture_folder const here;
  auto const in = [&](std::vector<std::string> const& words) { return pack(here.folder.path(), words); };
  CHECK(in({"data/train", "set"}).code == 0);
  auto const again = in({"data/train", "set"});
  CHECK(again.code == 0);
  CHECK(contains(again.out, "20 were packed before"));
  CHECK(in({"--verify", "--decode", "set"}).code == 0);
  CHECK(in({"data/train", "set", "--quality", "90"}).code == 3);
  CHECK(in({"data/train", "small", "--quality", "90", "--side", "16"}).code == 0);
  CHECK(contains(in({"--verify", "small"}).out, "pixels changed (quality 90)"));
  CHECK(in({"data/train", "small", "--side", "16"}).code == 2);
  CHECK(in({"data/train"}).code == 2);
  CHECK(in({"--verify", "set", "small"}).code == 2);
  CHECK(in({"--verify", "data/train"}).code == 3);
  CHECK(in({"data/train", "data/val"}).code == 3);
  std::string bytes = read_raw(here.folder / "set/shard-00000.dm2set");
  bytes[30] = char(bytes[30] ^ 1);
  write_raw(here.folder / "set/shard-00000.dm2set", bytes);
  auto const damaged = in({"--verify", "set"});
  CHECK(damaged.code == 1);
  CHECK(contains(damaged.err, "set/class0/p0.png: is damaged in the packed set"));
  CHECK(contains(damaged.out, "1 damaged or missing"));
  spoil_pictures(here.folder / "data/train/class3", "p1.png");
  auto const bad = in({"data/train", "other"});
  CHECK(bad.code == 1);
  CHECK(contains(bad.err, "data/train/class3/p1.png: is neither a JPEG nor a PNG picture"));
}
