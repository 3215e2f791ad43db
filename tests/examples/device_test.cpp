// --device, --precision and --speed of classify and evaluate; bad pictures among those of evaluate.
#include <nlohmann/json.hpp>

#include "examples/run_program.hpp"
#include "io/refusal.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

using namespace dm2::test;
namespace fs = std::filesystem;

namespace {

outcome classify(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"-w", ema_checkpoint});
  return run_program(DM2_CLASSIFY, arguments);
}

/// Ten class folders, as the checkpoint's model wants them, with `good` pictures and a broken one each.
void make_classes(fs::path const& root, int good) {
  for (int c = 0; c < 10; ++c) {
    fs::path const folder = root / ("class" + std::to_string(c));
    fs::create_directories(folder);
    for (int i = 0; i < good; ++i)
      fs::copy_file(DM2_GOLDEN_DIR "/images/rgb.png", folder / ("good" + std::to_string(i) + ".png"));
    write_raw(folder / "bad.png", "no picture");
  }
}

outcome evaluate(fs::path const& root, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {root.string(), "-w", ema_checkpoint, "--json", "--device", "cpu"});
  return run_program(DM2_EVALUATE, arguments);
}

}  // namespace

TEST_CASE("device: the CPU has one precision") {
  for (char const* program : {DM2_CLASSIFY, DM2_EVALUATE}) {
    auto const got = run_program(program, {"images", "-w", ema_checkpoint, "--device", "cpu", "--precision", "fp16"});
    CHECK(got.code == 2);
    CHECK(contains(got.err, "--precision fp16: the CPU computes in fp32"));
  }
  CHECK(classify({"images/rgb.png", "--device", "cpu", "--precision", "fp32"}).code == 0);
  CHECK(classify({"images/rgb.png", "--device", "gpu"}).code == 2);
  CHECK(classify({"images/rgb.png", "--precision", "int8"}).code == 2);
}

#ifndef DM2_EXAMPLES_CUDA

TEST_CASE("device: a program without CUDA says how to get one with it, and takes the CPU where that is left to it") {
  for (char const* program : {DM2_CLASSIFY, DM2_EVALUATE}) {
    auto const got = run_program(program, {"images", "-w", ema_checkpoint, "--device", "cuda"});
    CHECK(got.code == 2);
    CHECK(contains(got.err, "--device cuda: this program was built without CUDA: configure with -DDM2_CUDA=ON"));
  }
  CHECK(classify({"images/rgb.png", "--csv"}).out == classify({"images/rgb.png", "--csv", "--device", "cpu"}).out);
}

TEST_CASE("device: a precision that was asked for is not taken for another where no GPU is found") {
  auto const got = classify({"images/rgb.png", "--precision", "bf16"});
  CHECK(got.code == 2);
  CHECK(contains(got.err, "--precision bf16: the CPU computes in fp32; this program was built without CUDA"));
}

#else

TEST_CASE("device: a GPU sees in a folder of pictures what the CPU sees") {
  std::vector<std::string> const common{"images", "--json", "--top", "10"};
  auto const on = [&](std::vector<std::string> more) {
    more.insert(more.begin(), common.begin(), common.end());
    return classify(more);
  };
  auto const expected = nlohmann::json::parse(on({"--device", "cpu"}).out);
  for (auto const& [precision, tolerance] : {std::pair{"bf16", 5e-2}, {"fp16", 1e-2}, {"tf32", 1e-2}, {"fp32", 1e-4}}) {
    CAPTURE(precision);
    auto const run = on({"--device", "cuda", "--precision", precision, "--batch", "5"});
    if (contains(run.err, "no GPU can be used")) {
      MESSAGE("skipped: ", run.err);
      return;
    }
    CHECK(run.code == 1);  // the broken pictures
    auto const got = nlohmann::json::parse(run.out);
    REQUIRE(got.size() == expected.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      CHECK(got[i]["picture"] == expected[i]["picture"]);
      REQUIRE(got[i].contains("predictions") == expected[i].contains("predictions"));
      if (!expected[i].contains("predictions")) continue;
      std::vector<double> difference(10);
      for (std::size_t k = 0; k < 10; ++k) {
        auto const &g = got[i]["predictions"][k], &e = expected[i]["predictions"][k];
        difference[g["class"].get<std::size_t>()] += std::log(g["probability"].get<double>());
        difference[e["class"].get<std::size_t>()] -= std::log(e["probability"].get<double>());
      }
      for (double d : difference) CHECK(std::abs(d) < tolerance);
    }
  }
}

TEST_CASE("device: a heat map on a GPU has the CPU's lowest and highest values") {
  scratch_folder const folder;
  auto const on = [&](char const* device) {
    return classify({"images/photo.jpg", "--json", "--device", device, "--heatmap", (folder / "map.png").string()});
  };
  auto const run = on("cuda");
  if (contains(run.err, "no GPU can be used")) return;
  CHECK(run.code == 0);
  auto const got = nlohmann::json::parse(run.out)[0], expected = nlohmann::json::parse(on("cpu").out)[0];
  CHECK(got["predictions"][0]["class"] == expected["predictions"][0]["class"]);
}

#endif

TEST_CASE("device: --speed tells on stderr how fast it went, and on what") {
  auto const got = classify({"images/rgb.png", "images/wide.png", "--csv", "--device", "cpu", "--speed"});
  CHECK(got.code == 0);
  CHECK(lines_of(got.out).size() == 11);
  auto const lines = lines_of(got.err);
  REQUIRE(lines.size() == 1);
  CHECK(lines[0].starts_with("classify: 2 pictures in "));
  CHECK(lines[0].ends_with(" % of the time waiting for data (CPU, fp32)"));
}

TEST_CASE("evaluate: bad pictures are left out, counted and told, up to a limit") {
  scratch_folder const folder;
  make_classes(folder / "val", 3);
  for (char const* batch : {"1", "7", "100"}) {
    auto const got = evaluate(folder / "val", {"-b", batch});
    CHECK(got.code == 1);
    auto const found = nlohmann::json::parse(got.out);
    CHECK(found["samples"] == 30);
    CHECK(found["bad"] == 10);
    CHECK(found["top1"].get<double>() == doctest::Approx(10));  // one picture under ten labels
    CHECK(found["device"] == "CPU, fp32");
    CHECK(lines_of(got.err).size() == 10);
    CHECK(contains(got.err, "evaluate: left out "));
    CHECK(contains(got.err, "class3/bad.png: is neither a JPEG nor a PNG picture"));
  }
  auto const many = evaluate(folder / "val", {"--max-bad", "4"});
  CHECK(many.code == 3);
  CHECK(contains(many.err, "; 5 of 40 pictures are bad so far, the limit is 4"));
  scratch_folder const none;
  make_classes(none / "val", 0);
  auto const all = evaluate(none / "val", {});
  CHECK(all.code == 3);
  CHECK(contains(all.err, "; 10 of 10 pictures are bad so far, the limit is 100"));
}
