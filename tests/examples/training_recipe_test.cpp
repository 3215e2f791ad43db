// Whether a recipe suits a run: the averages of a short run, and what is said before a run that cannot work.
#include "../examples/support/training_recipe.hpp"

#include <dm2/io/tensor_file.hpp>

#include <nlohmann/json.hpp>

#include "examples/picture_folder.hpp"
#include "io/refusal.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

using namespace dm2::example;
using namespace dm2::test;
namespace fs = std::filesystem;

TEST_CASE("recipe: the averages are the published ones from the published length on, and else a part of the run") {
  run_length const published{5004, 4, 300};  // 1,281,167 pictures by 256, four of which are a step
  CHECK(published.steps == 375'300);
  CHECK(default_ema_decay(published.steps) == 0.9999);
  CHECK(default_ema_decay(375'000) == 0.9999);
  CHECK(default_ema_decay(10'000'000) == 0.9999);
  CHECK(default_ema_decay(374'999) < 0.9999);
  for (std::int64_t const steps : {38, 1380, 3500, 100'000})
    CHECK(std::abs(1 / (1 - default_ema_decay(steps)) - double(steps) / 37.5) < 1e-9 * double(steps));
  for (std::int64_t const steps : {0, 1, 37}) CHECK(default_ema_decay(steps) == 0);
}

TEST_CASE("recipe: steps are counted with the last one of an epoch, which may be smaller") {
  CHECK(run_length{7, 2, 3}.steps == 12);
  CHECK(run_length{8, 2, 3}.steps == 12);
  CHECK(run_length{1, 4, 1}.steps == 1);
}

TEST_CASE("recipe: what cannot work is said with both numbers, what can is not") {
  training_flags f;
  f.rates.epochs = 300;
  CHECK(recipe_notices(f, 0.9999, {5004, 4, 300}).empty());
  f.rates.epochs = 30;
  f.accumulate = 1;
  auto const slow = recipe_notices(f, 0.9999, {46, 1, 30});
  REQUIRE(slow.size() == 1);
  CHECK(contains(slow[0], "--model-ema-decay 0.9999 averages over 10,000 steps, the run has 1,380"));
  CHECK(contains(slow[0], "0.972826 suits it"));
  CHECK(recipe_notices(f, default_ema_decay(1380), {46, 1, 30}).empty());
  f.ema_warm_up = true;
  CHECK(recipe_notices(f, 0.9999, {46, 1, 30}).empty());
  f.ema_warm_up = false;
  f.ema = false;
  CHECK(recipe_notices(f, 0.9999, {46, 1, 30}).empty());
  f.rates.warmup = 30;
  CHECK(contains(recipe_notices(f, 0, {46, 1, 30}).at(0), "--warmup-epochs 30 is as long as the run of 30 epochs"));
  f.rates.warmup = 29;
  CHECK(recipe_notices(f, 0, {46, 1, 30}).empty());
  f.rates = {.warmup = 1, .epochs = 1};
  CHECK(recipe_notices(f, 0, {46, 1, 1}).empty());
  f.rates.warmup = 10;
  CHECK(contains(recipe_notices(f, 0, {46, 1, 1}).at(0), "is never reached"));
  f.rates = {};
  f.accumulate = 47;
  CHECK(contains(recipe_notices(f, 0, {46, 47, 300}).at(0), "--grad-accum-steps 47: an epoch has 46 micro-batches"));
}

TEST_CASE("train: the averages' decay follows the run's length, is said and stored, and stays when a run is resumed") {
  picture_folder const here;
  std::vector<std::string> const words{"-b", "1", "--grad-accum-steps", "1", "--epochs", "3", "--warmup-epochs", "1"};
  auto with = words;
  with.insert(with.end(), {"--stop-after", "1"});
  auto const run = here.train(with);
  CHECK(run.code == 0);
  CHECK(run.err.empty());
  CHECK(contains(run.out, "averages 0.375"));  // 60 steps
  auto const decay = [&] {
    return nlohmann::json::parse(
        dm2::tensor_file{here.run("last.safetensors")}.metadata().at("arguments"))["model-ema-decay"];
  };
  CHECK(decay() == 0.375);
  with = words;
  with.insert(with.end(), {"--resume", "auto", "--epochs", "4", "--stop-after", "2"});
  CHECK(contains(here.train(with).out, "averages 0.375"));
  CHECK(decay() == 0.375);

  with = words;
  with.insert(with.end(), {"--experiment", "slow", "--model-ema-decay", "0.9999", "--stop-after", "1"});
  CHECK(contains(here.train(with).err, "averages over 10,000 steps, the run has 60"));
}

TEST_CASE("train: every number has its range, and the flag is named") {
  picture_folder const here;
  std::vector<std::pair<std::vector<std::string>, std::string>> const cases{
      {{"--opt-betas", "1", "1"}, "--opt-betas: 1 is not a number of at least 0 and below 1"},
      {{"--opt-betas", "0.9", "-0.1"}, "--opt-betas: -0.1 is not"},
      {{"--opt-betas", "nan", "0.9"}, "--opt-betas: nan is not"},
      {{"--opt-eps", "0"}, "--opt-eps: 0 is not a number above 0"},
      {{"--lr", "nan"}, "--lr: nan is not"},
      {{"--lr", "inf"}, "--lr: inf is not"},
      {{"--lr", "-1"}, "--lr: -1 is not"},
      {{"--warmup-lr", "-1"}, "--warmup-lr: "},
      {{"--min-lr", "inf"}, "--min-lr: "},
      {{"--weight-decay", "-1"}, "--weight-decay: "},
      {{"--clip-grad", "nan"}, "--clip-grad: "},
      {{"--model-ema-decay", "1"}, "--model-ema-decay: 1 is not a number of at least 0 and below 1"},
      {{"--model-ema-decay", "nan"}, "--model-ema-decay: "},
      {{"--smoothing", "1.5"}, "--smoothing: "},
      {{"--reprob", "-0.5"}, "--reprob: "},
      {{"--hflip", "nan"}, "--hflip: "},
      {{"--scale", "0", "1"}, "--scale: 0 is not a number above 0 and not above 1"},
      {{"--scale", "0.5", "2"}, "--scale: 2 is not"},
      {{"--ratio", "0", "1"}, "--ratio: 0 is not"},
      {{"--re-area", "nan", "1"}, "--re-area: nan is not"},
      {{"--re-ratio", "0.3", "inf"}, "--re-ratio: inf is not"},
      {{"--epochs", "0"}, "--epochs"},
      {{"--warmup-epochs", "-1"}, "--warmup-epochs"},
      {{"-b", "0"}, "--batch-size"},
      {{"--grad-accum-steps", "0"}, "--grad-accum-steps"},
      {{"--seed", "-1"}, "--seed"},
      {{"--seed", "18446744073709551616"}, "--seed"},
      {{"--max-bad", "-1"}, "--max-bad"},
  };
  for (auto const& [flags, message] : cases) {
    CAPTURE(message);
    auto const run = here.train(flags);
    CHECK(run.code == 2);
    CHECK(contains(run.err, message));
    CHECK_FALSE(fs::exists(here.folder / "runs"));
  }
}

TEST_CASE("train: classes without a picture are named, and folders that are too many or too few") {
  picture_folder const here;
  fs::remove_all(here.folder / "data/train/class3");
  fs::create_directory(here.folder / "data/train/class3");
  fs::remove(here.folder / "data/val/class4/p0.png");
  auto const run = here.train({"--epochs", "1"});
  CHECK(run.code == 0);
  CHECK(contains(run.err, "train: data/train has no picture of the class class3\n"));
  CHECK(contains(run.err, "train: data/val has no picture of the class class4\n"));
  auto const checked = here.train({"--check", "--experiment", "other"});
  CHECK(checked.code == 1);
  CHECK(contains(checked.err, "data/train/class3: class has no .jpg"));
  fs::create_directory(here.folder / "data/train/leftover");
  auto const surplus = here.train({"--experiment", "other", "--num-classes", "10"});
  CHECK(surplus.code == 2);
  CHECK(contains(surplus.err,
                 "data/train has 11 classes, the model 10; without a picture: class3, leftover; not in "
                 "data/val: leftover\n"));
  fs::remove_all(here.folder / "data/train/leftover");
  fs::remove_all(here.folder / "data/train/class5");
  CHECK(contains(here.train({"--experiment", "other", "--num-classes", "10"}).err, "only in data/val: class5"));
}

TEST_CASE("train: a name that is not UTF-8, or holds a control, is told of by name and shown escaped") {
  picture_folder const here;
  fs::rename(here.folder / "data/train/class3", here.folder / "data/train/st\xE9r");
  fs::rename(here.folder / "data/val/class3", here.folder / "data/val/st\xE9r");
  auto const run = here.train({});
  CHECK(run.code == 3);
  CHECK(run.err == "train: data/train/st\\xE9r: the folder's name is not UTF-8 text, which a class name has to be\n");
  CHECK_FALSE(fs::exists(here.folder / "runs"));
  fs::rename(here.folder / "data/train/st\xE9r", here.folder / "data/train/class3");
  fs::rename(here.folder / "data/val/st\xE9r", here.folder / "data/val/class3");
  fs::rename(here.folder / "data", here.folder / "d\xE9\x1B[2J");
  std::vector<std::string> words = picture_folder::words({"--output", "r\x1B]0;x", "--epochs", "1"});
  words[0] = "d\xE9\x1B[2J";
  auto const odd = here.train_only(words);
  CHECK(odd.code == 0);
  words.insert(words.end(), {"--pretrained", "typo\x1B[2J"});
  auto const refused = here.train_only(words);
  for (std::string const& text : {odd.out, odd.err, refused.out, refused.err}) CHECK_FALSE(contains(text, "\x1B"));
}

TEST_CASE("train: class orders are a flag, stored, kept on resume, and told of where a head has no names") {
  picture_folder const here;
  for (char const* part : {"train", "val"})
    fs::rename(here.folder / "data" / part / "class1", here.folder / "data" / part / "class10");
  CHECK(here.train({"--class-order", "plain", "--stop-after", "1"}).code == 0);
  auto const metadata = dm2::tensor_file{here.run("last.safetensors")}.metadata();
  CHECK(metadata.at("class_order") == "plain");
  CHECK(nlohmann::json::parse(metadata.at("class_names"))[1] == "class10");
  CHECK(here.train({"--resume", "auto"}).code == 0);
  auto const other = here.train({"--resume", "auto", "--class-order", "natural"});
  CHECK(other.code == 3);
  CHECK(contains(other.err, "in another order (--class-order)"));
  auto const named = here.train({"--pretrained", "runs/micro/last.safetensors", "--experiment", "b", "--epochs", "1"});
  CHECK(contains(named.err, "has its classes under other names, or in another order"));
  auto const unnamed =
      here.train({"--pretrained", golden_file(raw_checkpoint).string(), "--experiment", "c", "--epochs", "1"});
  CHECK(contains(unnamed.err, "names no classes, and natural order"));
}

TEST_CASE("evaluate: folders whose orders differ are told of for weights without names, and --class-order takes one") {
  picture_folder const here;
  auto const evaluate = [&](std::vector<std::string> more) {
    more.insert(more.begin(),
                {"data", "--device", "cpu", "-w", golden_file(raw_checkpoint).string(), "--per-class", "c.csv"});
    return run_program(DM2_EVALUATE, more, here.folder.path());
  };
  CHECK(evaluate({}).err.empty());
  fs::rename(here.folder / "data/val/class1", here.folder / "data/val/class10");
  auto const natural = evaluate({});
  CHECK(natural.code == 0);
  CHECK(contains(natural.err, "--class-order plain takes the other"));
  CHECK(lines_of(read_raw(here.folder / "c.csv"))[2].starts_with("1,\"class2\""));
  auto const plain = evaluate({"--class-order", "plain"});
  CHECK(plain.err.empty());
  CHECK(lines_of(read_raw(here.folder / "c.csv"))[2].starts_with("1,\"class10\""));
  fs::copy_file(golden_file(raw_checkpoint), here.folder / "w.ckpt");
  auto const onto = run_program(DM2_EVALUATE, {"data", "-w", "w.ckpt", "--per-class", "./w.ckpt"}, here.folder.path());
  CHECK(onto.code == 2);
  CHECK(read_raw(here.folder / "w.ckpt") == read_raw(golden_file(raw_checkpoint)));
}
