#include <dm2/cpu/fold_output_projection.hpp>
#include <dm2/cuda/fold_output_projection.cuh>

#include <doctest/doctest.h>

#include "cuda/support/precisions.cuh"
#include "support/random.hpp"
#include "support/views.hpp"

#include <cstddef>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

template <mixer_variant V, cuda::precision P, class U, int D, int I>
void check_fold() {
  constexpr std::size_t n = std::size_t{D} * I;
  random_source random{7};
  auto const forward = rounded<float>(random.normal(n)), backward = rounded<float>(random.normal(n));
  auto want = poisoned(2 * n);
  cpu::context<double> host{1};
  cpu::fold_output_projection<V>(host, as_block<D, I>(forward), as_block<D, I>(backward), as_block<D, 2 * I>(want));
  device_array<float> const f{forward}, b{backward};
  device_array<U> merged{2 * n};
  cuda::context<P> ctx;
  cuda::fold_output_projection<V>(ctx, block<float const, space::device, D, I>{f.data()},
                                  block<float const, space::device, D, I>{b.data()},
                                  merged.template as_block<D, 2 * I>());
  CHECK(merged.read() == rounded<U>(want));
  CHECK(merged.margins_untouched());
}

}  // namespace

TEST_CASE_TEMPLATE("fold_output_projection: equals the CPU's, rounded once", P, DM2_PRECISIONS) {
  using T = cuda::element<P::value>;
  check_fold<mixer_variant::published, P::value, T, 192, 384>();
  check_fold<mixer_variant::bidirectional, P::value, T, 192, 384>();
  check_fold<mixer_variant::published, P::value, float, 3, 5>();
  check_fold<mixer_variant::bidirectional, P::value, float, 3, 5>();
}
