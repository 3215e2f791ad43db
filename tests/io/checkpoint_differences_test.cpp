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
  }
}

TEST_CASE("checkpoint differences: are the lines that load refuses the file with") {
  dm2::tensor_file const file{std::string{DM2_GOLDEN_DIR "/lightning/epoch=0-step=2.ckpt"}};
  dm2::model<wide> net;
  std::string expected;
  for (std::string const& line : dm2::checkpoint_differences<wide>(file)) expected += "\n  " + line;
  auto const why = refusal(file.path(), [&] { dm2::load(net, file); });
  CHECK(why.substr(why.find('\n')) == expected);
}
