// examples/train and examples/evaluate as a user runs them.
#include <dm2/data/decode.hpp>
#include <dm2/io/tensor_file.hpp>

#include <nlohmann/json.hpp>

#include "examples/picture_folder.hpp"
#include "examples/run_program.hpp"
#include "io/refusal.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

using namespace dm2::test;
namespace fs = std::filesystem;

TEST_CASE("train: a run leaves checkpoints, tables and events, and says what it does") {
  picture_folder const here;
  auto const run = here.train({"--log-interval", "1", "--image-interval", "1"});
  CHECK(run.code == 0);
  CHECK(contains(run.out, "254,428 parameters"));
  CHECK(contains(run.out, "20 training pictures, 10 for validation, hard labels"));
  CHECK(contains(run.out, "5 x 2 = 10 pictures a step, 2 steps an epoch, 2 epochs"));
  CHECK(contains(run.out, "epoch 2/2  loss "));
  fs::path const folder = here.folder / "runs/micro";
  for (char const* name : {"last", "best", "epoch-0001", "epoch-0002"})
    CHECK(fs::exists(folder / (std::string{name} + ".safetensors")));
  CHECK(lines_of(read_raw(folder / "steps.csv")).size() == 5);
  CHECK(lines_of(read_raw(folder / "epochs.csv")).size() == 3);
  auto const metadata = dm2::tensor_file{folder / "last.safetensors"}.metadata();
  auto const arguments = nlohmann::json::parse(metadata.at("arguments"));
  CHECK(arguments["lr"] == 1e-3);
  CHECK(arguments["weight-decay"] == 0.5);
  CHECK(arguments["opt"] == "lion");
  CHECK(arguments["mix-token"] == true);
  CHECK(arguments["ratio"] == nlohmann::json{0.75, 4.0 / 3});
  CHECK(nlohmann::json::parse(metadata.at("class_names"))[9] == "class9");
}

TEST_CASE("train: --profile tells where one process's time goes, and changes no byte of a checkpoint") {
  picture_folder const here;
  CHECK(here.train({"--experiment", "plain"}).code == 0);
  auto const run = here.train({"--experiment", "profiled", "--profile", "--log-interval", "1"});
  CHECK(run.code == 0);
  CHECK(contains(run.out, " left  computing "));
  CHECK(contains(run.out, "\n  process 0  data "));
  CHECK(contains(run.out, "\n  validating "));
  CHECK_FALSE(contains(run.out, "exchange"));
  auto const rows = lines_of(read_raw(here.folder / "runs/profiled/profile.csv"));
  REQUIRE(rows.size() == 5);
  CHECK(rows[0] == "step,step_seconds,waiting_seconds,computing_seconds,exchange_seconds,exchange_bytes");
  CHECK(rows[4].starts_with("4,"));
  CHECK(rows[4].ends_with(",0"));
  for (char const* name : {"last.safetensors", "best.safetensors"})
    CHECK(read_raw(here.folder / "runs/plain" / name) == read_raw(here.folder / "runs/profiled" / name));
}

TEST_CASE("train: --profile-data prints a table, writes rows and a picture, and changes no byte of a checkpoint") {
  picture_folder const here;
  CHECK(here.train({"--experiment", "plain"}).code == 0);
  auto const run = here.train({"--experiment", "profiled", "--profile-data", "--log-interval", "1"});
  CHECK(run.code == 0);
  for (char const* line : {"\n  data path  ", "\n  reading  ", "\n  decoding  ", "\n  transforming  ", "\n  waiting  "})
    CHECK(contains(run.out, line));
  auto const rows = lines_of(read_raw(here.folder / "runs/profiled/data_profile.csv"));
  REQUIRE(rows.size() == 5);
  CHECK(rows[0] ==
        "step,step_seconds,waiting_seconds,reading_seconds,decoding_seconds,transforming_seconds,copying_seconds,"
        "augmenting_seconds,computing_seconds,device_decoding_seconds");
  CHECK(dm2::read_image(here.folder / "runs/profiled/data_profile.png").width == 1200);
  for (char const* name : {"last.safetensors", "best.safetensors"})
    CHECK(read_raw(here.folder / "runs/plain" / name) == read_raw(here.folder / "runs/profiled" / name));
}

TEST_CASE("train: --augment and --decode device are refused where no GPU computes, host and auto are the same there") {
  picture_folder const here;
  auto const refused = here.train({"--experiment", "none", "--device", "cpu", "--augment", "device"});
  CHECK(refused.code == 2);
  CHECK(contains(refused.err, "--augment device needs a GPU (--device cuda), which finishes the pictures"));
  auto const decoding = here.train({"--experiment", "none", "--device", "cpu", "--decode", "device"});
  CHECK(decoding.code == 2);
  CHECK(contains(decoding.err,
                 "--decode device needs a GPU (--device cuda) that finishes the pictures, too (not --augment host)"));
  CHECK(here.train({"--experiment", "host", "--device", "cpu", "--augment", "host", "--decode", "host"}).code == 0);
  CHECK(here.train({"--experiment", "auto", "--device", "cpu"}).code == 0);
  CHECK(read_raw(here.folder / "runs/host/last.safetensors") == read_raw(here.folder / "runs/auto/last.safetensors"));
}

TEST_CASE("train: a run in two parts has the checkpoints of one in one part") {
  picture_folder const here;
  CHECK(here.train({"--experiment", "whole"}).code == 0);
  CHECK(here.train({"--experiment", "parts", "--stop-after", "1"}).code == 0);
  CHECK(here.train({"--experiment", "parts"}).code == 2);  // it would be lost
  auto const rest = here.train({"--experiment", "parts", "--resume", "auto"});
  CHECK(rest.code == 0);
  CHECK(contains(rest.out, "in epoch 2 after 2 steps"));
  for (char const* name : {"last.safetensors", "best.safetensors", "epoch-0002.safetensors"})
    CHECK(read_raw(here.folder / "runs/whole" / name) == read_raw(here.folder / "runs/parts" / name));
}

TEST_CASE("train: --no-resume-opt goes on with the weights and the place, and may change the optimizer") {
  picture_folder const here;
  CHECK(here.train({"--no-resume-opt"}).code == 2);
  CHECK(here.train({"--stop-after", "1"}).code == 0);
  auto const refused = here.train({"--resume", "auto", "--opt", "adamw"});
  CHECK(refused.code == 3);
  CHECK(contains(refused.err, "was written with the optimizer \"lion\", not adamw"));
  auto const run = here.train({"--resume", "auto", "--opt", "adamw", "--no-resume-opt", "--log-interval", "1"});
  CHECK(run.code == 0);
  CHECK(contains(run.out, "in epoch 2 after 2 steps, the optimizer anew"));
  CHECK(lines_of(read_raw(here.folder / "runs/micro/steps.csv")).back().starts_with("4,"));
  auto const metadata = dm2::tensor_file{here.folder / "runs/micro/last.safetensors"}.metadata();
  auto const progress = nlohmann::json::parse(metadata.at("training"));
  CHECK(progress["optimizer_steps"] == 2);
  CHECK(progress["earlier_steps"] == 2);
}

TEST_CASE("train: with --no-model-ema the averages are the weights") {
  picture_folder const here;
  auto const run = here.train({"--no-model-ema", "--epochs", "1"});
  CHECK(run.code == 0);
  CHECK(contains(run.out, "weight decay 0.5, no averages"));
  fs::path const last = here.folder / "runs/micro/last.safetensors";
  dm2::tensor_file const averages{last, dm2::weights::ema}, raw{last, dm2::weights::raw};
  REQUIRE(averages.tensors().size() == raw.tensors().size());
  for (dm2::stored_tensor const& t : raw.tensors())
    CHECK(dm2::to_vector<double>(t) == dm2::to_vector<double>(averages.at(t.name)));
  CHECK(nlohmann::json::parse(raw.metadata().at("arguments"))["model-ema"] == false);
}

TEST_CASE("train: --pretrained starts from a file, and says so where none is named; --amp says what it does") {
  picture_folder const here;
  CHECK(here.train({"--experiment", "first", "--epochs", "1"}).code == 0);
  auto const run = here.train({"--pretrained", "runs/first/last.safetensors", "--amp", "--epochs", "1"});
  CHECK(run.code == 0);
  CHECK(contains(run.out, "runs/first/last.safetensors (averages): 82 tensors loaded\n"));
  CHECK(contains(run.err, "--amp changes nothing here: the CPU computes in float"));
  auto const bare = here.train({"--pretrained"});
  CHECK(bare.code == 2);
  CHECK(contains(bare.err, "--pretrained needs a FILE: nothing is downloaded"));
}

TEST_CASE("convert: a training checkpoint becomes the published state dict: names, order, types and shapes") {
  picture_folder const here;
  CHECK(here.train({"--epochs", "1"}).code == 0);
  dm2::tensor_file const published{golden_file("lightning/epoch=0-step=2.ckpt"), dm2::weights::raw};
  for (char const* which : {"--raw", "--ema"}) {
    auto const done = run_program(DM2_CONVERT, {"runs/micro/last.safetensors", "out.safetensors", which, "--force"},
                                  here.folder.path());
    CHECK(done.code == 0);
    dm2::tensor_file const ours{here.folder / "out.safetensors"};
    REQUIRE(ours.tensors().size() == published.tensors().size());
    for (std::size_t i = 0; i < ours.tensors().size(); ++i) {
      CHECK(ours.tensors()[i].name == published.tensors()[i].name);
      CHECK(ours.tensors()[i].shape == published.tensors()[i].shape);
      CHECK(ours.tensors()[i].type == published.tensors()[i].type);
    }
    CHECK(ours.metadata().at("format") == "pt");
    CHECK_FALSE(ours.averaged());
  }
}

TEST_CASE("evaluate: counts agree with the run's own, in total and by class") {
  picture_folder const here;
  CHECK(here.train({}).code == 0);
  auto const epochs = lines_of(read_raw(here.folder / "runs/micro/epochs.csv"));
  auto const run = run_program(
      DM2_EVALUATE, {"data", "--device", "cpu", "-w", "runs/micro/last.safetensors", "--json", "--per-class", "c.csv"},
      here.folder.path());
  CHECK(run.code == 0);
  auto const found = nlohmann::json::parse(run.out);
  CHECK(found["model"] == "micro");
  CHECK(found["samples"] == 10);
  auto const cells = [&] {
    std::vector<double> out;
    for (std::size_t at = 0; at != std::string::npos; at = epochs[2].find(',', at + 1))
      out.push_back(std::stod(epochs[2].substr(at == 0 ? 0 : at + 1)));
    return out;
  }();
  CHECK(std::abs(found["loss"].get<double>() - cells[2]) <= 1e-5 * cells[2]);
  CHECK(std::abs(found["top1"].get<double>() - cells[3]) <= 1e-9);
  CHECK(std::abs(found["top5"].get<double>() - cells[4]) <= 1e-9);
  CHECK(lines_of(read_raw(here.folder / "c.csv")).size() == 11);
  CHECK(lines_of(read_raw(here.folder / "c.csv"))[3].starts_with("2,\"class2\",1,"));
}

TEST_CASE("train: what does not fit is refused with what to do, and bad pictures are listed by --check") {
  picture_folder const nine{9};
  auto const classes = nine.train({"--num-classes", "10"});
  CHECK(classes.code == 2);
  CHECK(contains(classes.err, "data/train has 9 classes, the model 10"));

  fs::create_directories(nine.folder / "data/val/other");
  auto const other = nine.train({"--num-classes", "9"});
  CHECK(other.code == 2);
  CHECK(contains(other.err, "data/val/other: is none of the 9 classes, class0 to class8"));

  picture_folder const here;
  CHECK(here.train({"--img-size", "230"}).code == 2);
  CHECK(here.train({"--aa", "augmix"}).code == 2);
  CHECK(contains(here.train({"--lr", "fast"}).err, "--lr: fast is not a number of at least 0\n"));
  CHECK(contains(here.train({"--hflip", "1.5"}).err, "--hflip: 1.5 is not a number from 0 to 1\n"));
  CHECK(contains(here.train({"--opt", "\x1b[2J"}).err, "--opt: ?[2J not in {adamw,lion}\n"));
  CHECK(here.train({"--resume", "nothing.safetensors"}).code == 3);
  auto const diverged = here.train({"--lr", "1e30", "--warmup-epochs", "0"});
  CHECK(diverged.code == 4);
  CHECK(contains(diverged.err, "is not finite in epoch 1, step 2"));
  write_raw(here.folder / "data/train/class3/p1.png", "no picture");
  auto const checked = here.train({"--check"});
  CHECK(checked.code == 1);
  CHECK(contains(checked.err, "class3/p1.png: is neither a JPEG nor a PNG picture"));
  CHECK(contains(checked.err, "training: 20 samples, 1 problem\n"));
  CHECK_FALSE(contains(checked.out, "epoch"));
}
