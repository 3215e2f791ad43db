// What ./demo does: make_shapes, train with the stored recipe, the stored weights.
#include <dm2/io/tensor_file.hpp>

#include <nlohmann/json.hpp>

#include "examples/run_program.hpp"
#include "io/refusal.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

using namespace dm2::test;
namespace fs = std::filesystem;

namespace {

/// A file of examples/.
std::string example(char const* name) { return golden_file(std::string{"../../examples/"} + name).string(); }

/// A small set of pictures, made in `folder`/shapes.
outcome make_shapes(scratch_folder const& folder, std::vector<std::string> more) {
  std::vector<std::string> words{"-o", "shapes", "-j", "1"};
  words.insert(words.end(), more.begin(), more.end());
  return run_program(DM2_MAKE_SHAPES, words, folder.path());
}

}  // namespace

TEST_CASE("quick start: the stored weights are small, and know the classes of pictures that they have never seen") {
  fs::path const weights = example("weights/quick.safetensors");
  CHECK(fs::file_size(weights) < 2'000'000);
  scratch_folder const here;
  CHECK(make_shapes(here, {"--seed", "4321", "--train", "14", "--val", "280"}).code == 0);
  auto const run =
      run_program(DM2_EVALUATE, {"shapes", "--device", "cpu", "-w", weights.string(), "--json"}, here.path());
  REQUIRE(run.code == 0);
  auto const found = nlohmann::json::parse(run.out);
  CHECK(found["model"] == "quick");
  CHECK(found["samples"] == 280);
  CHECK(found["top1"].get<double>() >= 97);
  auto const one = run_program(DM2_CLASSIFY,
                               {"--device", "cpu", "-w", weights.string(), "shapes/val/star/shape_00010.png", "--json"},
                               here.path());
  CHECK(contains(one.out, R"("predictions":[{"class":10,"name":"star",)"));
}

TEST_CASE("quick start: train takes its flags from a file, and those of the command line count more") {
  scratch_folder const here;
  CHECK(make_shapes(here, {"--train", "48", "--val", "14"}).code == 0);
  CHECK(make_shapes(here, {}).code == 2);  // there is a set
  std::vector<std::string> words{"shapes",
                                 "--config",
                                 example("recipes/shapes.toml"),
                                 "--token-label-data",
                                 "shapes/labels",
                                 "--epochs",
                                 "1",
                                 "--threads",
                                 "1",
                                 "-j",
                                 "1"};
  auto const run = run_program(DM2_TRAIN, words, here.path());
  CHECK(run.code == 0);
  auto const metadata = dm2::tensor_file{here / "runs/quick/last.safetensors"}.metadata();
  auto const arguments = nlohmann::json::parse(metadata.at("arguments"));
  CHECK(arguments["opt"] == "adamw");
  CHECK(arguments["lr"] == 3e-3);
  CHECK(arguments["mix-token"] == false);
  CHECK(arguments["model-ema-warmup"] == true);
  CHECK(arguments["scale"] == nlohmann::json{0.8, 1.0});
  CHECK(arguments["opt-betas"] == nlohmann::json{0.9, 0.99});
  CHECK(arguments["epochs"] == 1);
  CHECK(arguments["token-label-crop"] == "aligned");
  CHECK_FALSE(arguments.contains("config"));
}

TEST_CASE("quick start: a file of flags with an unknown one, or none at all, is refused") {
  scratch_folder const here;
  std::ofstream{here / "bad.toml"} << "lr = 1e-3\nlearning-rate = 1e-3\n";
  for (char const* file : {"bad.toml", "none.toml"}) {
    auto const run = run_program(DM2_TRAIN, {"nothing", "--config", file}, here.path());
    CHECK(run.code == 2);
    CHECK(contains(run.err, file == std::string{"bad.toml"} ? "learning-rate" : "none.toml"));
  }
}
