// What the programs write: never onto what they read, and odd numbers are drawn.
#include <dm2/data/decode.hpp>

#include "examples/picture_folder.hpp"
#include "io/refusal.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <vector>

using namespace dm2::test;
namespace fs = std::filesystem;

TEST_CASE("plot: a table is never replaced by its picture, by whatever name") {
  scratch_folder const here;
  std::string const table = "step,a\n1,0\n2,1\n";
  write_raw(here / "t.png", table);
  fs::create_symlink("t.png", here / "link.png");
  for (char const* output : {"t.png", "./t.png", "link.png"}) {
    auto const run = run_program(DM2_PLOT, {"t.png", "-o", output}, here.path());
    CHECK(run.code == 2);
    CHECK(contains(run.err, "would overwrite t.png, which is read"));
    CHECK(read_raw(here / "t.png") == table);
  }
}

TEST_CASE("plot: a table without a row is drawn and told of, a missing one and a folder are refused by what they are") {
  scratch_folder const here;
  write_raw(here / "begun.csv", "step,a\n");
  auto const begun = run_program(DM2_PLOT, {"begun.csv", "-o", "o.png"}, here.path());
  CHECK(begun.code == 0);
  CHECK(begun.err == "plot: note: begun.csv has no row below its header: nothing to draw\n");
  CHECK(dm2::read_image(here / "o.png").width == 1200);
  auto const gone = run_program(DM2_PLOT, {"gone.csv", "-o", "o.png"}, here.path());
  CHECK(gone.code == 3);
  CHECK(gone.err == "plot: gone.csv: cannot be opened: No such file or directory\n");
  auto const folder = run_program(DM2_PLOT, {".", "-o", "o.png"}, here.path());
  CHECK(folder.code == 3);
  CHECK(folder.err == "plot: .: is a folder, not a file\n");
}

TEST_CASE("plot: numbers at the ends of their range are drawn, or left out") {
  scratch_folder const here;
  for (std::string const column :
       {"0\n2,5e-324", "5e-324\n2,1e-323", "-1e-310\n2,0", "1.7e308\n2,-1.7e308", "nan\n2,inf", "1e-300\n2,1e300"}) {
    CAPTURE(column);
    write_raw(here / "t.csv", "step,a\n1," + column + "\n");
    for (std::vector<std::string> words : {std::vector<std::string>{}, {"--log", "a"}, {"--log-x"}, {"-s", "0.1"}}) {
      words.insert(words.begin(), {"t.csv", "-o", "o.png"});
      auto const run = run_program(DM2_PLOT, words, here.path());
      CHECK(run.code == 0);
      CHECK(run.err.empty());
      CHECK(dm2::read_image(here / "o.png").width == 1200);
    }
    write_raw(here / "t.csv", "step,a\n" + column.substr(0, column.find('\n')) + ",1\n5e-324,2\n");
    CHECK(run_program(DM2_PLOT, {"t.csv", "-o", "o.png"}, here.path()).code == 0);
  }
}

TEST_CASE("convert: a checkpoint is not replaced by its own weights, nor a list of names by anything") {
  picture_folder const here;
  CHECK(here.train({"--epochs", "1"}).code == 0);
  std::string const checkpoint = read_raw(here.run("last.safetensors"));
  auto const convert = [&](std::vector<std::string> const& words) {
    return run_program(DM2_CONVERT, words, here.folder.path());
  };
  fs::create_hard_link(here.run("last.safetensors"), here.folder / "same.safetensors");
  for (char const* output : {"runs/micro/last.safetensors", "same.safetensors"}) {
    auto const onto = convert({"runs/micro/last.safetensors", output, "--force"});
    CHECK(onto.code == 2);
    CHECK(contains(onto.err, "holds more than is written"));
    CHECK(read_raw(here.run("last.safetensors")) == checkpoint);
  }
  fs::copy_file(golden_file(raw_checkpoint), here.folder / "w.ckpt");
  CHECK(convert({"w.ckpt", "w.ckpt", "--force"}).code == 2);
  CHECK(read_raw(here.folder / "w.ckpt") == read_raw(golden_file(raw_checkpoint)));
  std::string names;
  for (int c = 0; c < 10; ++c) names += "name" + std::to_string(c) + "\n";
  write_raw(here.folder / "names.txt", names);
  CHECK(convert({"w.ckpt", "names.txt", "--force", "--names", "names.txt"}).code == 2);
  CHECK(read_raw(here.folder / "names.txt") == names);
  CHECK(convert({"w.ckpt", "w.safetensors", "--names", "names.txt"}).code == 0);
  CHECK(convert({"w.safetensors", "w.safetensors", "--force"}).code == 0);
}

TEST_CASE("plot: output that cannot be written has the code of the table") {
  if (!fs::exists("/dev/full")) return;
  auto const run = run_program("/bin/bash", {"-c", quoted(DM2_PLOT) + " --help > /dev/full; echo code=$?"});
  CHECK(run.out == "code=1\n");
  CHECK(contains(run.err, "the output could not be written"));
  CHECK(contains(run_program(DM2_PLOT, {"--help"}).out, "\n  1  done, but"));
}

TEST_CASE("make_shapes: pictures of a larger set that --force leaves are told of") {
  scratch_folder const here;
  auto const make = [&](std::vector<std::string> const& more) {
    std::vector<std::string> words{"-o", "d", "-j", "1", "--force"};
    words.insert(words.end(), more.begin(), more.end());
    return run_program(DM2_MAKE_SHAPES, words, here.path());
  };
  CHECK(make({"--train", "20", "--val", "14"}).err.empty());
  CHECK(make({"--train", "28", "--val", "14", "--seed", "3"}).err.empty());
  auto const smaller = make({"--train", "14", "--val", "14"});
  CHECK(smaller.code == 0);
  CHECK(smaller.err == "make_shapes: d/train holds 14 pictures of an earlier set beside these\n");
}
