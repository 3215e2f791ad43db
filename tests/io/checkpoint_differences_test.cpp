#include <dm2/io/checkpoint_differences.hpp>

#include "io/refusal.hpp"
#include "model/golden_model.hpp"

#include <doctest/doctest.h>

#include <string>

using namespace dm2::test;

TEST_CASE("checkpoint differences: none for the model that the file holds, in any format") {
  for (char const* name : {"epoch=0-step=2.ckpt", "epoch=0-step=2-EMA.ckpt", "epoch=0-step=2.safetensors"}) {
    CAPTURE(name);
    dm2::tensor_file const file{std::string{DM2_GOLDEN_DIR "/lightning/"} + name};
    CHECK(dm2::checkpoint_differences<micro>(file).empty());
    CHECK_FALSE(dm2::checkpoint_differences<dm2::tiny>(file).empty());
    CHECK_FALSE(dm2::checkpoint_differences<bidirectional>(file).empty());
    // the same lines where the configuration is only known at run time
    CHECK(dm2::checkpoint_differences(dm2::model_table{micro}, file).empty());
    CHECK(dm2::checkpoint_differences(dm2::model_table{dm2::tiny}, file) ==
          dm2::checkpoint_differences<dm2::tiny>(file));
  }
}

TEST_CASE("checkpoint differences: load refuses the file with their number and the first eight") {
  dm2::tensor_file const file{std::string{DM2_GOLDEN_DIR "/lightning/epoch=0-step=2.ckpt"}};
  dm2::model<wide> net;
  auto const lines = dm2::checkpoint_differences<wide>(file);
  REQUIRE(lines.size() > 8);
  std::string expected;
  for (std::size_t i = 0; i < 8; ++i) expected += "\n  " + lines[i];
  expected += "\n  ... and " + std::to_string(lines.size() - 8) + " more";
  auto const why = refusal(file.path(), [&] { dm2::load(net, file); });
  CHECK(contains(why, "does not fit the model (" + std::to_string(lines.size()) + " differences): "));
  CHECK(why.substr(why.find('\n')) == expected);
}

TEST_CASE("checkpoint differences: a model of other sizes is told by them") {
  dm2::tensor_file const file{std::string{DM2_GOLDEN_DIR "/lightning/epoch=0-step=2.safetensors"}};
  dm2::model<dm2::tiny> net;
  CHECK(
      contains(refusal(file.path(), [&] { dm2::load(net, file); }),
               "differences): 4 layers in the file, 24 in the program, 32 channels in the file, 192 in the program, 10 "
               "classes in the file, 1000 in the program"));
}
