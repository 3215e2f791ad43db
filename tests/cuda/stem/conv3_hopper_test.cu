#include <dm2/cuda/stem/conv3_split.cuh>

#include <doctest/doctest.h>

#include "cuda/support/device_array.cuh"
#include "support/compare.hpp"

#include <cstddef>
#include <random>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

std::vector<double> draw(std::mt19937& engine, std::size_t n, double scale) {
  std::normal_distribution<double> normal{0, scale};
  std::vector<double> v(n);
  for (double& x : v) x = normal(engine);
  return v;
}

/// The layer of a stem of Size x Size pictures in both forms, which read the same weights; products are summed in
/// another order.
template <class T, int Size, bool Patches>
void check_form(int pictures) {
  CAPTURE(Size);
  constexpr stem_shape shape{.height = Size, .width = Size, .channels = 3, .hidden = 64, .patch = 16, .dim = 192};
  using geometry = cuda::detail::stem::geometry<shape>;
  std::mt19937 engine{Size};
  std::size_t const n = std::size_t(pictures) * geometry::plane_pixels * geometry::hidden;
  device_array<T> const in{draw(engine, n, 1)}, weights{draw(engine, 9 * 64 * 64, 0.05)};
  device_array<float> const bias{draw(engine, 64, 1)};
  device_array<T> expected{n}, got{n};
  cuda::context<> ctx;
  cuda::detail::stem::launch_conv3<geometry, cuda::detail::stem::conv3_small, Patches>(
      ctx.stream(), 3, in.data(), weights.data(), bias.data(), expected.data(), pictures, false);
  bool const launched = cuda::detail::stem::launch_conv3_hopper<geometry, Patches>(
      ctx.stream(), ctx.device(), in.data(), weights.data(), bias.data(), got.data(), pictures);
  CHECK(launched == (ctx.device().major == 9));
  if (launched) CHECK(relative_error(got.read(), expected.read()) < 1e-4);
}

}  // namespace

TEST_CASE("cuda stem: the 3 x 3 convolution of a warpgroup's products equals that of a warp's") {
  check_form<__nv_bfloat16, 64, false>(2);
  check_form<__nv_bfloat16, 64, true>(1);
  check_form<__half, 64, true>(1);
}

TEST_CASE("cuda stem: planes that tiles of 8 x 16 pixels do not divide are whole") {
  check_form<__nv_bfloat16, 48, true>(1);
  check_form<__nv_bfloat16, 80, false>(1);
}
