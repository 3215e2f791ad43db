// The programs of examples/minimal, on a few drawn pictures.
#include "run_program.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <vector>

using namespace dm2::test;

namespace {

outcome minimal(std::string const& name, std::vector<std::string> const& arguments, scratch_folder const& folder) {
  return run_program(DM2_MINIMAL + name, arguments, folder.path());
}

void draw(scratch_folder const& folder, char const* train) {
  REQUIRE(run_program(DM2_MAKE_SHAPES, {"--output", "shapes", "--train", train, "--val", "28"}, folder.path()).code ==
          0);
}

}  // namespace

TEST_CASE("minimal: classify puts the class of a held-out picture first, and names a file that is not there") {
  scratch_folder const folder;
  draw(folder, "14");
  outcome const right = minimal("classify", {DM2_QUICK_WEIGHTS, "shapes/val/star/shape_00010.png"}, folder);
  CHECK(right.code == 0);
  REQUIRE(lines_of(right.out).size() == 5);
  CHECK(lines_of(right.out).front().starts_with("  10 "));  // the folder star is the class 10
  outcome const lost = minimal("classify", {DM2_QUICK_WEIGHTS, "nowhere.png"}, folder);
  CHECK(lost.code == 1);
  CHECK(lost.err.find("nowhere.png") != std::string::npos);
}

TEST_CASE("minimal: train tells of each epoch and leaves its checkpoints") {
  scratch_folder const folder;
  draw(folder, "84");
  outcome const trained = minimal("train", {"shapes", "2"}, folder);
  CHECK(trained.code == 0);
  CHECK(trained.err.empty());
  CHECK(lines_of(trained.out).size() == 2);
  CHECK(std::filesystem::exists(folder / "shapes/run/last.safetensors"));
  CHECK(std::filesystem::exists(folder / "shapes/run/best.safetensors"));
  outcome const lost = minimal("train", {"nowhere", "2"}, folder);
  CHECK(lost.code == 1);
  CHECK(lost.err.find("nowhere") != std::string::npos);
}

TEST_CASE("minimal: the loss of custom_loop falls, the weights are written, and a folder that is not there is named") {
  scratch_folder const folder;
  draw(folder, "420");
  outcome const trained = minimal("custom_loop", {"shapes/train", "weights.safetensors"}, folder);
  CHECK(trained.code == 0);
  CHECK(trained.err.empty());
  std::vector<double> losses;
  for (std::string const& line : lines_of(trained.out))
    losses.push_back(std::stod(line.substr(line.find("loss ") + 5)));
  REQUIRE(losses.size() == 6);
  CHECK(losses.front() > 4.5);  // two cross entropies over 14 classes: 2 ln 14 = 5.28 for one that knows nothing
  CHECK(losses.back() < losses.front() - 0.1);
  CHECK(std::filesystem::file_size(folder / "weights.safetensors") > 100'000);
  outcome const lost = minimal("custom_loop", {"nowhere", "weights.safetensors"}, folder);
  CHECK(lost.code == 1);
  CHECK(lost.err.find("nowhere") != std::string::npos);
}
