// The checkpoints that Lightning wrote, in the model that they were trained as: logits that the reference computed.
#include <dm2/io/checkpoint.hpp>

#include "golden_model.hpp"

#include <doctest/doctest.h>

#include <limits>
#include <string>
#include <type_traits>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {
/// A file, which of its weights, and the golden logits that these give.
struct checkpoint_case {
  char const* file;
  weights which;
  char const* logits;
};
constexpr checkpoint_case cases[] = {
    {"epoch=0-step=2.ckpt", weights::raw, "epoch=0-step=2/logits"},
    {"epoch=0-step=2.ckpt", weights::ema, "epoch=0-step=2-EMA/logits"},
    {"epoch=0-step=2.ckpt", weights::automatic, "epoch=0-step=2-EMA/logits"},
    {"epoch=0-step=2-EMA.ckpt", weights::raw, "epoch=0-step=2-EMA/logits"},
    {"epoch=0-step=2-EMA.ckpt", weights::automatic, "epoch=0-step=2-EMA/logits"},
    {"epoch=0-step=2.safetensors", weights::automatic, "epoch=0-step=2/logits"},
    {"epoch=0-step=2-EMA.safetensors", weights::automatic, "epoch=0-step=2-EMA/logits"},
};
}  // namespace

TEST_CASE_TEMPLATE("lightning: each set of weights of each checkpoint gives the reference's logits", T, double, float) {
  // the logits of the two sets of weights are 0.23 apart
  constexpr double tolerance = std::is_same_v<T, double> ? 1e-9 : 1e-5;
  golden const g{"lightning/logits.safetensors"};
  auto const pictures = g.get<T>("image");
  model<micro, cpu::context<T>> net{4};
  for (checkpoint_case const& c : cases) {
    CAPTURE(c.file);
    CAPTURE(int(c.which));
    load(net, std::string{DM2_GOLDEN_DIR "/lightning/"} + c.file, c.which);
    std::vector<T> logits(4 * net.classes, std::numeric_limits<T>::quiet_NaN());
    net.forward(pictures, logits);
    CHECK(relative_error(logits, g.get(c.logits)) < tolerance);
  }
}
