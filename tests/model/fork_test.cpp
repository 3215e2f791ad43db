// A model in a process that was forked after it had computed with several threads.
#include <dm2/cpu/operations.hpp>
#include <dm2/model/model.hpp>
#include <dm2/train/initialise.hpp>

#include "support/configurations.hpp"
#include "support/forked.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>

#include <vector>

using namespace dm2;
using namespace dm2::test;

TEST_CASE("model: after a fork it computes the same bits in the new process, and goes on in the old one") {
  using context = cpu::context<float>;
  model<small_config, context> net{4, context{3}};
  initialise(net, 11);
  auto const pictures = random_source{13}.normal<float>(4 * net.pixels);
  std::vector<float> want(12), logits(12);
  net.forward(pictures, want);
  CHECK(forked([&] {
    net.forward(pictures, logits);
    model<small_config, context> another{4, context{2}};  // made there
    initialise(another, 11);
    std::vector<float> again(12);
    another.forward(pictures, again);
    return logits == want && again == want;
  }));
  net.forward(pictures, logits);
  CHECK(logits == want);
}
