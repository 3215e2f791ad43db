// The whole model from the golden checkpoints: loading, saving and the logits that the published code computed from
// them.
#include <dm2/io/checkpoint.hpp>
#include <dm2/model/model.hpp>

#include "io/refusal.hpp"
#include "io/scratch.hpp"
#include "support/configurations.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

using dm2::weights;
using namespace dm2::test;

namespace {
using model = dm2::model<micro, dm2::cpu::context<double>>;

/// |got - want| / |want|, infinite where any number is NaN.
double distance(std::vector<double> const& got, std::vector<double> const& want) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    difference += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  double const d = std::sqrt(difference / norm);
  return d >= 0 ? d : HUGE_VAL;
}
bool same_state(model const& a, model const& b) {
  return std::memcmp(a.state().data(), b.state().data(), a.state().size_bytes()) == 0 &&
         std::memcmp(a.counters().data(), b.counters().data(), a.counters().size_bytes()) == 0;
}
}  // namespace

TEST_CASE("golden checkpoints: raw and averaged weights give the logits kept beside them") {
  dm2::tensor_file const expected{golden_file("lightning/logits.safetensors")};
  auto const image = dm2::to_vector<double>(expected.at("image"));
  auto const raw = dm2::to_vector<double>(expected.at("epoch=0-step=2/logits"));
  auto const averaged = dm2::to_vector<double>(expected.at("epoch=0-step=2-EMA/logits"));
  REQUIRE(distance(raw, averaged) > 1e-7);
  model net{4};
  auto const logits = [&](char const* file, weights which) {
    dm2::load(net, golden_file(file), which);
    std::vector<double> out(raw.size());
    net.forward(image, out);
    return out;
  };
  CHECK(distance(logits("lightning/epoch=0-step=2.ckpt", weights::raw), raw) < 1e-9);
  CHECK(distance(logits("lightning/epoch=0-step=2.ckpt", weights::ema), averaged) < 1e-9);
  CHECK(distance(logits("lightning/epoch=0-step=2.ckpt", weights::automatic), averaged) < 1e-9);
  CHECK(distance(logits("lightning/epoch=0-step=2-EMA.ckpt", weights::raw), averaged) < 1e-9);
  CHECK(distance(logits("lightning/epoch=0-step=2.safetensors", weights::automatic), raw) < 1e-9);
}

TEST_CASE("golden checkpoints: a model saved and loaded is the same model, bit for bit") {
  scratch_folder const folder;
  model one, two;
  dm2::load(one, golden_file("lightning/epoch=0-step=2.ckpt"), weights::raw);
  CHECK_FALSE(same_state(one, two));
  dm2::save(one, folder / "f");
  dm2::load(two, folder / "f");
  CHECK(same_state(one, two));
  CHECK(two.counters()[0] == 4);
}

TEST_CASE("golden checkpoints: another model refuses them, with both configurations") {
  dm2::model<dm2::tiny, dm2::cpu::context<double>> tiny;
  auto const path = golden_file("lightning/epoch=0-step=2.ckpt");
  auto const why = refusal(path, [&] { dm2::load(tiny, path); });
  CHECK(contains(why, "4 layers in the file, 24 in the program, 32 channels in the file, 192 in the program"));
  CHECK(contains(why, "\n  configuration: attn_layers: [2] in the file, [10,20] in the program"));
  CHECK(contains(why, "\n  configuration: dim: 32 in the file, 192 in the program"));
  CHECK(contains(why, "\n  ... and "));
}
