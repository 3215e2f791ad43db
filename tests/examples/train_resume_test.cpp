// How train goes on with a run: from which checkpoint, with which flags, and what it says of both.
#include <dm2/io/tensor_file.hpp>

#include <nlohmann/json.hpp>

#include "examples/picture_folder.hpp"
#include "io/refusal.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

using namespace dm2::test;
namespace fs = std::filesystem;

namespace {

nlohmann::json arguments_of(fs::path const& checkpoint) {
  return nlohmann::json::parse(dm2::tensor_file{checkpoint}.metadata().at("arguments"));
}

/// The first half of a file.
void damage(fs::path const& path) { write_raw(path, read_raw(path).substr(0, fs::file_size(path) / 2)); }

/// Whether a line of the text is just this.
bool has_line(std::string const& text, std::string const& line) {
  auto const lines = lines_of(text);
  return std::find(lines.begin(), lines.end(), line) != lines.end();
}

}  // namespace

TEST_CASE("train: --resume auto takes the checkpoint that is furthest on of those that read, whatever its name") {
  picture_folder const here;
  CHECK(here.train({"--epochs", "3", "--experiment", "whole", "--checkpoint-hist", "9"}).code == 0);
  fs::path const whole = here.folder / "runs/whole";
  std::string const want = read_raw(whole / "last.safetensors");
  struct {
    std::vector<std::string> kept, damaged;  // of the run after two epochs
    std::string taken;
  } const cases[]{
      {{"last", "epoch-0001"}, {}, "last"},
      {{"epoch-0001", "epoch-0002"}, {"last", "best"}, "epoch-0002"},
      {{"epoch-0001"}, {"last", "epoch-0002"}, "epoch-0001"},
      {{"mine", "epoch-0001"}, {}, "mine"},
  };
  for (auto const& one : cases) {
    CAPTURE(one.taken);
    fs::remove_all(here.folder / "runs/micro");
    CHECK(here.train({"--epochs", "3", "--stop-after", "2", "--checkpoint-hist", "9"}).code == 0);
    fs::copy_file(here.run("last.safetensors"), here.folder / "mine.safetensors", fs::copy_options::overwrite_existing);
    for (char const* name : {"last", "best", "epoch-0001", "epoch-0002"}) {
      bool const kept = std::find(one.kept.begin(), one.kept.end(), name) != one.kept.end();
      fs::path const file = here.run(std::string{name} + ".safetensors");
      if (std::find(one.damaged.begin(), one.damaged.end(), name) != one.damaged.end())
        damage(file);
      else if (!kept)
        fs::remove(file);
    }
    if (one.taken == "mine") fs::rename(here.folder / "mine.safetensors", here.run("mine.safetensors"));
    auto const run = here.train({"--epochs", "3", "--resume", "auto", "--checkpoint-hist", "9"});
    CHECK(run.code == 0);
    CHECK(contains(run.out, "resumed    runs/micro/" + one.taken + ".safetensors in epoch "));
    for (std::string const& name : one.damaged)
      CHECK(contains(run.err, "passed over runs/micro/" + name + ".safetensors: "));
    CHECK(read_raw(here.run("last.safetensors")) == want);
  }
}

TEST_CASE("train: a run that ended before its last checkpoint gets it from another one of the same place") {
  picture_folder const here;
  CHECK(here.train({}).code == 0);
  auto const before = files_of(here.folder / "runs/micro");
  for (char const* lost : {"last.safetensors", "epoch-0002.safetensors"}) {
    CAPTURE(lost);
    fs::remove(here.run("last.safetensors"));
    fs::copy_file(here.run("epoch-0002.safetensors"), here.run("mine.safetensors"));
    fs::remove(here.run(lost));
    CHECK(here.train({"--resume", "auto"}).code == 0);
    CHECK(read_raw(here.run("last.safetensors")) == before.at("last.safetensors"));
    CHECK(read_raw(here.run("epoch-0002.safetensors")) == before.at("epoch-0002.safetensors"));
    fs::remove(here.run("mine.safetensors"));
  }
}

TEST_CASE("train: a checkpoint that cannot be read names those beside it that can") {
  picture_folder const here;
  CHECK(here.train({}).code == 0);
  damage(here.run("last.safetensors"));
  auto const before = files_of(here.folder / "runs/micro");
  for (char const* file : {"runs/micro/last.safetensors", "runs/micro/lost.safetensors"}) {
    auto const run = here.train({"--resume", file});
    CHECK(run.code == 3);
    CHECK(contains(run.err, std::string{"train: "} + file + ": "));
    CHECK(contains(run.err, "\n  runs/micro/epoch-0001.safetensors (goes on in epoch 2)"));
    CHECK(contains(run.err, "\n  runs/micro/epoch-0002.safetensors (goes on in epoch 3)"));
    CHECK_FALSE(contains(run.err, "\n  runs/micro/last"));
  }
  for (auto const& [name, bytes] : before)
    if (name.ends_with(".safetensors")) damage(here.run(name));
  auto const none = here.train({"--resume", "auto"});
  CHECK(none.code == 3);
  CHECK(contains(none.err, "no checkpoint that can be read"));
  CHECK(here.train({"--resume", "auto", "--overwrite"}).code == 0);
}

TEST_CASE("train: one flipped bit in the last checkpoint is found, whatever the tensor, and nothing is replaced") {
  picture_folder const here;
  CHECK(here.train({}).code == 0);
  std::string const whole = read_raw(here.run("last.safetensors"));
  for (std::size_t const from_end : {std::size_t{1}, whole.size() / 4, whole.size() / 2, 3 * whole.size() / 4}) {
    CAPTURE(from_end);
    std::string flipped = whole;
    flipped[whole.size() - from_end] ^= 1;
    write_raw(here.run("last.safetensors"), flipped);
    auto const named = here.train({"--epochs", "4", "--resume", "runs/micro/last.safetensors"});
    CHECK(named.code == 3);
    CHECK(contains(named.err, "train: runs/micro/last.safetensors: is damaged: tensor '"));
    CHECK(contains(named.err, "\n  runs/micro/best.safetensors"));
    CHECK(contains(named.err, "\n  runs/micro/epoch-0001.safetensors (goes on in epoch 2)"));
    CHECK(read_raw(here.run("last.safetensors")) == flipped);
    CHECK(run_program(DM2_CONVERT, {"runs/micro/last.safetensors", "--verify"}, here.folder.path()).code == 3);
  }
  auto const automatic = here.train({"--epochs", "4", "--resume", "auto"});
  CHECK(automatic.code == 0);
  CHECK(contains(automatic.err, "passed over runs/micro/last.safetensors: is damaged"));
  auto const verified = run_program(DM2_CONVERT, {"runs/micro/last.safetensors", "--verify"}, here.folder.path());
  CHECK(verified.code == 0);
  CHECK(contains(verified.out, "every tensor has the checksum"));
}

TEST_CASE("convert: --verify says of a file without checksums that there are none, and returns 1") {
  auto const got = run_program(DM2_CONVERT, {DM2_QUICK_WEIGHTS, "--verify"});
  CHECK(got.code == 1);
  CHECK(contains(got.err, "states no checksums"));
}

TEST_CASE("train: what is no training checkpoint is called that, whatever its format") {
  picture_folder const here;
  CHECK(here.train({"--epochs", "1"}).code == 0);
  CHECK(run_program(DM2_CONVERT, {"runs/micro/last.safetensors", "weights.safetensors"}, here.folder.path()).code == 0);
  for (std::string const& file : {std::string{"weights.safetensors"}, golden_file(raw_checkpoint).string()}) {
    auto const run = here.train({"--resume", file, "--experiment", "new"});
    CHECK(run.code == 3);
    CHECK(contains(run.err, file + ": is no training checkpoint"));
    CHECK_FALSE(fs::exists(here.folder / "runs/new"));
  }
}

TEST_CASE("train: a resumed run keeps the checkpoint's recipe, and says what is given anew") {
  picture_folder const here;
  std::vector<std::string> const recipe{
      "data",  "-m",    "micro",   "-b",  "5", "--grad-accum-steps", "2",         "--lr", "1e-3", "--wd", "0.1",
      "--opt", "adamw", "--scale", "0.5", "1", "--no-mix-token",     "--threads", "1",    "-j",   "1",    "--epochs",
      "3"};
  auto with = [&](std::vector<std::string> const& more) {
    std::vector<std::string> words = recipe;
    words.insert(words.end(), more.begin(), more.end());
    return here.train_only(words);
  };
  CHECK(with({"--experiment", "whole"}).code == 0);
  CHECK(with({"--experiment", "parts", "--stop-after", "2"}).code == 0);
  fs::copy(here.folder / "runs/parts", here.folder / "runs/other");

  auto const bare = here.train_only({"--experiment", "parts", "--resume", "auto", "--threads", "1", "-j", "1"});
  CHECK(bare.code == 0);
  CHECK(contains(bare.out, "kept       data-dir data, batch-size 5, "));
  CHECK(contains(bare.out, "scale 0.5 1,"));
  CHECK(contains(bare.out, "mix-token false"));
  CHECK_FALSE(contains(bare.out, "changed"));
  for (char const* name : {"last.safetensors", "best.safetensors"})
    CHECK(read_raw(here.folder / "runs/parts" / name) == read_raw(here.folder / "runs/whole" / name));

  auto const changed = here.train_only({"--experiment", "other", "--resume", "auto", "--threads", "1", "--lr", "1e-5",
                                        "--weight-decay", "3", "--mix-token", "--epochs", "4"});
  CHECK(changed.code == 0);
  CHECK(has_line(changed.out, "changed    lr: 0.001 before, 1e-05 now"));
  CHECK(has_line(changed.out, "changed    weight-decay: 0.1 before, 3 now"));
  CHECK(has_line(changed.out, "changed    mix-token: false before, true now"));
  CHECK(has_line(changed.out, "changed    epochs: 3 before, 4 now"));
  CHECK(contains(changed.out, "epoch 4/4"));
  auto const stored = arguments_of(here.folder / "runs/other/last.safetensors");
  CHECK(stored["weight-decay"] == 3);
  CHECK(stored["opt"] == "adamw");
}

TEST_CASE("train: flags that change nothing in a run leave no trace in its checkpoints") {
  picture_folder const here;
  CHECK(here.train({"--experiment", "one"}).code == 0);
  CHECK(here.train({"--experiment",
                    "two",
                    "--log-interval",
                    "7",
                    "--image-interval",
                    "1",
                    "--images",
                    "3",
                    "-j",
                    "2",
                    "--device",
                    "cpu",
                    "--precision",
                    "fp32",
                    "--checkpoint-hist",
                    "1",
                    "--checkpoint-steps",
                    "1",
                    "--max-bad",
                    "3",
                    "--img-size",
                    "64",
                    "--num-classes",
                    "10",
                    "--amp"})
            .code == 0);
  for (char const* name : {"last.safetensors", "best.safetensors"})
    CHECK(read_raw(here.folder / "runs/one" / name) == read_raw(here.folder / "runs/two" / name));
}

TEST_CASE("train: a checkpoint of another folder, or one further back, loses nothing that is there") {
  picture_folder const here;
  CHECK(here.train({"--experiment", "first", "--checkpoint-hist", "9"}).code == 0);
  CHECK(here.train({"--experiment", "second", "--seed", "3"}).code == 0);
  auto const before = files_of(here.folder / "runs/second");
  auto const refused = here.train({"--experiment", "second", "--resume", "runs/first/epoch-0001.safetensors"});
  CHECK(refused.code == 2);
  CHECK(contains(refused.err, "runs/second holds a run"));
  CHECK(files_of(here.folder / "runs/second") == before);
  CHECK(here.train({"--experiment", "third", "--resume", "runs/first/epoch-0001.safetensors"}).code == 0);

  auto const first = files_of(here.folder / "runs/first");
  auto const back = here.train({"--experiment", "first", "--resume", "runs/first/epoch-0001.safetensors",
                                "--checkpoint-hist", "9", "--lr", "2e-3"});
  CHECK(back.code == 0);
  CHECK(contains(back.out, "goes back  what is further on than runs/first/epoch-0001.safetensors"));
  for (char const* name : {"last.safetensors", "epoch-0002.safetensors", "epochs.csv"})
    CHECK(read_raw(here.folder / "runs/first/later" / name) == first.at(name));
  CHECK(read_raw(here.folder / "runs/first/epoch-0001.safetensors") == first.at("epoch-0001.safetensors"));
}

TEST_CASE("train: the best epoch so far does not count against another measure or other pictures") {
  picture_folder const here;
  CHECK(here.train({"--stop-after", "1"}).code == 0);
  fs::copy(here.folder / "runs/micro", here.folder / "runs/other");
  draw_pictures(here.folder / "more", 10, 3);
  auto const other = here.train({"--experiment", "other", "--resume", "auto", "--val-dir", "more"});
  CHECK(other.code == 0);
  CHECK(contains(other.out, "best       begins anew: the validation pictures were others"));
  CHECK(contains(other.out, "best epoch 2,"));
  fs::remove_all(here.folder / "data/val");
  auto const none = here.train({"--resume", "auto"});
  CHECK(none.code == 0);
  CHECK(contains(none.out, "best       begins anew: it was told by the validation accuracy, and now there is no "));
  CHECK(contains(none.out, "best epoch 2: "));
}

TEST_CASE("train: other training pictures of the same number are told of, other classes refused by name") {
  picture_folder const here;
  CHECK(here.train({"--stop-after", "1"}).code == 0);
  fs::rename(here.folder / "data/train/class3/p0.png", here.folder / "data/train/class3/other.png");
  auto const renamed = here.train({"--resume", "auto", "--stop-after", "1"});
  CHECK(renamed.code == 0);
  CHECK(contains(renamed.out, "the training set has other pictures than it had"));
  fs::rename(here.folder / "data/train/class3", here.folder / "data/train/class33");
  fs::remove_all(here.folder / "data/val");
  auto const refused = here.train({"--resume", "auto"});
  CHECK(refused.code == 3);
  CHECK(contains(refused.err, "not in the checkpoint: class33; only in the checkpoint: class3"));
}
