// A training pass on the GPU over a model whose first layers stay as they are, against the CPU's in double.
#include "cuda/training_pass/case.cuh"
#include "support/configurations.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

template <config C, cuda::precision P, int Frozen>
struct frozen_pass {
  static void check(double loss_tolerance, double gradient_tolerance) {
    CAPTURE(Frozen);
    check_pass<C, P, 3, Frozen>(loss_tolerance, gradient_tolerance);
    pass_case<C, P, 3, Frozen> f;
    std::vector<float> const before(f.net.state().begin(), f.net.state().end());
    std::vector<std::int64_t> const counts(f.net.counters().begin(), f.net.counters().end());
    f.run();
    CHECK(std::equal(before.begin(), before.end(), f.net.state().begin()));
    CHECK(std::equal(counts.begin(), counts.end(), f.net.counters().begin()));
    for (parameter_entry const& e : f.net.table()) {
      if (e.kind == entry_kind::counter || e.layer >= Frozen) continue;
      auto const own = f.pass.gradients().subspan(e.offset, e.size);
      CHECK(std::count(own.begin(), own.end(), 0.f) == std::ptrdiff_t(e.size));
    }
  }
};

template <config C, int Frozen>
void check_both() {
  frozen_pass<C, cuda::precision::fp32, Frozen>::check(1e-5, 1e-4);
  frozen_pass<C, cuda::precision::bf16, Frozen>::check(1e-2, 5e-2);
}

}  // namespace

TEST_CASE("cuda frozen pass: with the stem frozen, loss and gradients are the CPU's") { check_both<micro, 1>(); }

TEST_CASE("cuda frozen pass: with the stem and layers frozen, too, to the last layer and to the heads alone") {
  check_both<micro, 3>();
  check_both<micro, 4>();
  check_both<micro, 5>();
}
