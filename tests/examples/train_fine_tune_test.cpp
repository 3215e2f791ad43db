// train's flags of fine-tuning: what they refuse, what they leave, and how a run with them goes on.
#include <dm2/io/tensor_file.hpp>

#include "examples/picture_folder.hpp"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

using namespace dm2::test;
namespace fs = std::filesystem;

namespace {

bool has(std::string const& text, std::string const& part) { return text.find(part) != text.npos; }

std::string const weights = (fs::path{DM2_GOLDEN_DIR} / ema_checkpoint).string();

std::vector<double> numbers(dm2::tensor_file const& file, std::string const& name) {
  dm2::stored_tensor const* const t = file.find(name);
  REQUIRE(t != nullptr);
  return dm2::to_vector<double>(*t);
}

}  // namespace

TEST_CASE("train: fine-tuning that the model cannot have is refused, and nothing is made") {
  picture_folder const here;
  std::vector<std::pair<std::vector<std::string>, std::string>> const cases{
      {{"--freeze", "5"}, "--freeze 5: expected backbone, none, or 0 (the stem) to 4, the model's layers"},
      {{"--freeze", "-1"}, "--freeze -1: expected"},
      {{"--freeze", "2x"}, "--freeze 2x: expected"},
      {{"--layer-decay", "0"}, "--layer-decay"},
      {{"--layer-decay", "1.1"}, "--layer-decay"},
      {{"--head-lr-scale", "-3"}, "--head-lr-scale"},
      {{"--no-decay", "norm,nrom"}, "'nrom' is neither 1d, norm, bias"},
      {{"--no-decay", "norm,,bias"}, "--no-decay norm,,bias: a word is empty"},
  };
  for (auto const& one : cases) {
    CAPTURE(one.second);
    auto const run = here.train(one.first);
    CHECK(run.code == 2);
    CHECK(has(run.err, one.second));
    CHECK_FALSE(fs::exists(here.folder / "runs"));
  }
}

TEST_CASE("train: a frozen backbone keeps the weights that it began with, the flags are stored, and may be changed") {
  picture_folder const here;
  std::vector<std::string> const flags{"--pretrained", weights,         "--freeze", "backbone",   "--head-lr-scale",
                                       "10",           "--layer-decay", "0.75",     "--no-decay", "1d,pos_embed"};
  std::vector<std::string> begun = flags;
  begun.insert(begun.end(), {"--stop-after", "1"});
  auto const first = here.train(begun);
  REQUIRE(first.code == 0);
  CHECK(has(first.out, "tuning     trains 660 of "));
  CHECK(
      has(first.out, "each layer down learns at 0.75 of the rate; heads at 10 times the rate; no decay of 20 of them"));
  CHECK_FALSE(has(first.err, "random numbers"));
  dm2::tensor_file const from{weights}, now{here.run("last.safetensors"), dm2::weights::raw};
  for (dm2::stored_tensor const& t : now.tensors()) {
    CAPTURE(t.name);
    bool const head = t.name.starts_with("head.") || t.name.starts_with("aux_head.");
    CHECK((numbers(now, t.name) == numbers(from, t.name)) == !head);
  }
  auto const arguments = nlohmann::json::parse(now.metadata().at("arguments"));
  CHECK(arguments.at("freeze") == "backbone");
  CHECK(arguments.at("layer-decay") == 0.75);
  CHECK(arguments.at("head-lr-scale") == 10);
  CHECK(arguments.at("no-decay") == "1d,pos_embed");
  auto const thawed = here.train({"--resume", "auto", "--freeze", "none"});
  REQUIRE(thawed.code == 0);
  CHECK(has(thawed.out, "freeze: backbone before, none now"));
  CHECK(has(thawed.out, "layer-decay 0.75"));
  dm2::tensor_file const last{here.run("last.safetensors"), dm2::weights::raw};
  CHECK(numbers(last, "patch_embed.conv1.weight") != numbers(from, "patch_embed.conv1.weight"));
}

TEST_CASE("train: a run of frozen layers and groups that stopped goes on to the bytes of one that did not") {
  picture_folder const here;
  std::vector<std::string> flags{"--pretrained",  weights, "--freeze",   "2",
                                 "--layer-decay", "0.8",   "--no-decay", "norm"};
  REQUIRE(here.train(flags).code == 0);
  std::string const want = read_raw(here.run("last.safetensors"));
  flags.push_back("--overwrite");
  flags.insert(flags.end(), {"--stop-after", "1"});
  REQUIRE(here.train(flags).code == 0);
  CHECK(read_raw(here.run("last.safetensors")) != want);
  REQUIRE(here.train({"--resume", "auto"}).code == 0);
  CHECK(read_raw(here.run("last.safetensors")) == want);
}

TEST_CASE("train: layers that are frozen at random numbers are told of") {
  picture_folder const here;
  auto const run = here.train({"--freeze", "0", "--stop-after", "1"});
  CHECK(run.code == 0);
  CHECK(has(run.err, "--freeze 0 keeps layers at random numbers"));
  CHECK_FALSE(has(here.train({"--stop-after", "1", "--experiment", "b"}).out, "tuning"));
}
