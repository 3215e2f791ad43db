#include <dm2/cpu/fold_output_projection.hpp>
#include <dm2/cuda/fold_output_projection.cuh>

#include <doctest/doctest.h>

#include "cuda/support/precisions.cuh"
#include "support/compare.hpp"
#include "support/random.hpp"
#include "support/views.hpp"

#include <cstddef>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

template <mixer_variant V, cuda::precision P, int D, int I>
void check_fold() {
  constexpr std::size_t n = std::size_t{D} * I;
  random_source random{7};
  auto const dmerged = rounded<float>(random.normal(2 * n));
  auto forward = rounded<float>(random.normal(n)), backward = rounded<float>(random.normal(n));
  device_array<float> const d{dmerged}, f{forward}, b{backward};
  cuda::context<P> ctx;
  cuda::fold_output_projection_backward<V>(ctx, d.template as_block<D, 2 * I>(), f.template as_block<D, I>(),
                                           b.template as_block<D, I>());
  cpu::context<double> host{1};
  cpu::fold_output_projection_backward<V>(host, as_block<D, 2 * I>(dmerged), as_block<D, I>(forward),
                                          as_block<D, I>(backward));
  CHECK(f.read() == rounded<float>(forward));  // a sum of two floats
  CHECK(b.read() == rounded<float>(backward));
  CHECK((f.margins_untouched() && b.margins_untouched()));
}

}  // namespace

TEST_CASE_TEMPLATE("fold_output_projection_backward: adds the CPU's gradient, rounded once", P, in_bf16, in_fp32) {
  check_fold<mixer_variant::published, P::value, 192, 384>();
  check_fold<mixer_variant::bidirectional, P::value, 192, 384>();
  check_fold<mixer_variant::published, P::value, 3, 5>();
  check_fold<mixer_variant::bidirectional, P::value, 3, 5>();
}
