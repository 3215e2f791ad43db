// The example of a training loop of one's own, on a few drawn pictures.
#include "run_program.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <vector>

using namespace dm2::test;

TEST_CASE("custom_loop: the loss falls, the weights are written, and a folder that is not there is named") {
  scratch_folder const folder;
  outcome const drawn =
      run_program(DM2_MAKE_SHAPES, {"--output", "shapes", "--train", "420", "--val", "14"}, folder.path());
  REQUIRE(drawn.code == 0);
  outcome const trained = run_program(DM2_CUSTOM_LOOP, {"shapes/train", "weights.safetensors"}, folder.path());
  CHECK(trained.code == 0);
  CHECK(trained.err.empty());
  std::vector<double> losses;
  for (std::string const& line : lines_of(trained.out))
    losses.push_back(std::stod(line.substr(line.find("loss ") + 5)));
  REQUIRE(losses.size() == 6);
  CHECK(losses.front() > 4.5);  // two cross entropies over 14 classes: 2 ln 14 = 5.28 for one that knows nothing
  CHECK(losses.back() < losses.front() - 0.1);
  CHECK(std::filesystem::file_size(folder / "weights.safetensors") > 100'000);
  outcome const lost = run_program(DM2_CUSTOM_LOOP, {"nowhere", "weights.safetensors"}, folder.path());
  CHECK(lost.code == 1);
  CHECK(lost.err.find("nowhere") != std::string::npos);
}
