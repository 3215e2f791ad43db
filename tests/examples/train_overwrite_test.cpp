// What train does before it replaces a run: an old run is never lost to a start that fails.
#include <dm2/io/tensor_file.hpp>

#include <nlohmann/json.hpp>

#include "examples/picture_folder.hpp"
#include "io/refusal.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

using namespace dm2::test;
namespace fs = std::filesystem;

namespace {

nlohmann::json progress_of(fs::path const& checkpoint) {
  return nlohmann::json::parse(dm2::tensor_file{checkpoint}.metadata().at("training"));
}

}  // namespace

TEST_CASE("train: --overwrite with an input that is missing, damaged or does not fit leaves the old run as it was") {
  picture_folder const here;
  CHECK(here.train({}).code == 0);
  auto const before = files_of(here.folder / "runs/micro");
  REQUIRE(before.size() >= 7);
  write_raw(here.folder / "text.safetensors", "no weights");
  fs::create_directories(here.folder / "maps/class0");
  write_raw(here.folder / "maps/class0/p0.pt", "no map");
  draw_pictures(here.folder / "nine", 9, 2);
  fs::create_directories(here.folder / "empty/class0");
  draw_pictures(here.folder / "bad", 10, 2);
  spoil_pictures(here.folder / "bad");
  std::string const quick = golden_file("../../examples/weights/quick.safetensors").string();
  std::vector<std::pair<std::vector<std::string>, std::string>> const cases{
      {{"--pretrained", "typo.safetensors"}, "typo.safetensors: cannot be opened"},
      {{"--pretrained", "text.safetensors"}, "text.safetensors: "},
      {{"--pretrained", quick}, "quick.safetensors: "},
      {{"--token-label-data", "typo"}, "typo: does not exist"},
      {{"--token-label-data", "text.safetensors"}, "text.safetensors: is not a folder"},
      {{"--token-label-data", "maps"}, "no label map fits a picture of data/train"},
      {{"--train-dir", "typo"}, "typo: does not exist"},
      {{"--train-dir", "nine", "--num-classes", "10"}, "nine has 9 classes, the model 10; only in data/val: class9"},
      {{"--train-dir", "empty"}, "empty: has no .jpg"},
      {{"--train-dir", "bad"}, "bad: no picture can be read; bad/class0/p0.png: "},
      {{"--val-dir", "typo"}, "typo: does not exist"},
      {{"--val-dir", "bad"}, "bad: no picture can be read"},
      {{"-b", "21"}, "--batch-size 21 is more than the 20 pictures of data/train"},
      {{"--scale", "1", "0.5"}, "--scale: the first number is above the second"},
      {{"--aa", "augmix"}, "augmix"},
      {{"--lr", "1e30", "--warmup-epochs", "0"}, "is not finite in epoch 1, step 2"},
  };
  for (auto const& [flags, message] : cases) {
    CAPTURE(message);
    auto words = flags;
    words.emplace_back("--overwrite");
    auto const run = here.train(words);
    CHECK(run.code != 0);
    CHECK(contains(run.err, message));
    CHECK(lines_of(run.err).size() <= 16);
    CHECK(files_of(here.folder / "runs/micro") == before);
  }
}

TEST_CASE("train: --overwrite replaces the run's files, all of them and no others") {
  picture_folder const here;
  CHECK(here.train({"--checkpoint-hist", "5"}).code == 0);
  write_raw(here.run("notes.txt"), "mine");
  write_raw(here.run("epoch-of-mine.safetensors"), "mine too");
  auto const before = files_of(here.folder / "runs/micro");
  auto const run = here.train({"--overwrite", "--seed", "3", "--epochs", "1", "--checkpoint-hist", "5"});
  CHECK(run.code == 0);
  auto const after = files_of(here.folder / "runs/micro");
  CHECK(after.at("notes.txt") == "mine");
  CHECK(after.at("epoch-of-mine.safetensors") == "mine too");
  CHECK_FALSE(after.contains("epoch-0002.safetensors"));
  CHECK(after.at("last.safetensors") != before.at("last.safetensors"));
  CHECK(after.size() == before.size() - 1);
  CHECK(lines_of(after.at("epochs.csv")).size() == 2);
}

TEST_CASE("train: an input in the folder whose run is to be replaced is refused, by whatever path") {
  picture_folder const here;
  CHECK(here.train({}).code == 0);
  fs::create_directory_symlink("runs/micro", here.folder / "link");
  write_raw(here.run("flags.toml"), "seed = 3\n");
  draw_pictures(here.folder / "runs/micro/pictures/train", 10, 1);
  auto const before = files_of(here.folder / "runs/micro");
  for (std::vector<std::string> words : {std::vector<std::string>{"--pretrained", "runs/micro/best.safetensors"},
                                         {"--pretrained", "runs/../link/last.safetensors"},
                                         {"--val-dir", "link/pictures/train"},
                                         {"--config", "runs/micro/flags.toml"},
                                         {"--train-dir", "runs/micro/pictures/train"}}) {
    CAPTURE(words[1]);
    words.emplace_back("--overwrite");
    auto const run = here.train(words);
    CHECK(run.code == 2);
    CHECK(contains(run.err, "whose run --overwrite replaces"));
    CHECK(files_of(here.folder / "runs/micro") == before);
  }
}

TEST_CASE("train: an old run survives a replacement that is killed, and the next start brings it back") {
  picture_folder const here;
  CHECK(here.train({}).code == 0);
  auto const before = files_of(here.folder / "runs/micro");
  draw_pictures(here.folder / "many", 10, 60);
  auto const killed = here.shell(
      "launch --overwrite --train-dir many -b 1 --grad-accum-steps 1 --log-interval 1 > out & p=$!\n"
      "until [ -e runs/micro/.replaced ] && grep -q ^1, runs/micro/steps.csv; do kill -0 $p || break; sleep 0.02; "
      "done\n"
      "kill -9 $p; wait $p; ls -A runs/micro");
  CHECK(contains(killed.out, ".replaced\n"));
  CHECK_FALSE(contains(killed.out, "last.safetensors"));
  auto const next = here.train({});
  CHECK(next.code == 2);  // there is a run, and nobody said --overwrite
  CHECK(contains(next.err, "the run that was in runs/micro is back"));
  CHECK(files_of(here.folder / "runs/micro") == before);
}

TEST_CASE("train: a start that fails leaves no folder behind, and none that was there is removed") {
  picture_folder const here;
  std::vector<std::string> const wrong{"--pretrained", "typo.safetensors", "--output", "a/b"};
  CHECK(here.train(wrong).code == 3);
  CHECK_FALSE(fs::exists(here.folder / "a"));
  fs::create_directories(here.folder / "a/b/micro");
  CHECK(here.train(wrong).code == 3);
  CHECK(fs::is_empty(here.folder / "a/b/micro"));
  spoil_pictures(here.folder / "data/train", "p0.png");
  CHECK(here.train({"--max-bad", "0", "--output", "c"}).code == 3);  // in the first batch
  CHECK_FALSE(fs::exists(here.folder / "c"));
}

TEST_CASE("train: a folder that holds anything of a run is not begun anew") {
  picture_folder const here;
  fs::create_directories(here.folder / "runs/micro");
  for (char const* name : {"steps.csv", "epochs.csv", "events.out.tfevents.1.host", "best.safetensors",
                           "epoch-0007.safetensors", "kept.safetensors"}) {
    CAPTURE(name);
    write_raw(here.run(name), "something");
    for (std::vector<std::string> const& words : {std::vector<std::string>{}, {"--resume", "auto"}}) {
      auto const run = here.train(words);
      CHECK(run.code == (words.empty() ? 2 : 3));
      CHECK(contains(run.err, std::string{"holds a run ("} + name + ")"));
    }
    CHECK(read_raw(here.run(name)) == "something");
    fs::remove(here.run(name));
  }
  write_raw(here.run("notes.txt"), "no run");
  CHECK(here.train({"--resume", "auto"}).code == 0);
}

TEST_CASE("train: a folder has one writer, and the second is told who that is") {
  picture_folder const here;
  draw_pictures(here.folder / "many", 10, 60);
  auto const both = here.shell(
      "launch --train-dir many -b 1 --grad-accum-steps 1 --log-interval 1 --epochs 100000 --checkpoint-hist 0 > out "
      "2>&1 & p=$!\n"
      "until [ -e runs/micro/steps.csv ]; do kill -0 $p || break; sleep 0.02; done\n"
      "for flags in '' --overwrite '--resume auto'; do train $flags; echo code=$?; done\n"
      "kill -9 $p; wait $p; echo pid=$p; train --overwrite; echo code=$?; ls -A runs/micro");
  CHECK(contains(both.out, "code=2\ncode=2\ncode=2\npid="));
  std::string const pid = both.out.substr(both.out.find("pid=") + 4,
                                          both.out.find('\n', both.out.find("pid=")) - both.out.find("pid=") - 4);
  CHECK(contains(both.err, "runs/micro: another process writes into it: process " + pid + " on "));
  CHECK(contains(both.out, "epoch 2/2"));
  CHECK(contains(both.out, "code=0\n"));  // the lock went with its process
  CHECK_FALSE(contains(both.out, ".lock"));
  CHECK(progress_of(here.run("last.safetensors"))["batches"] == 4);
}
