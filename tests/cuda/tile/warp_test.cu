#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <doctest/doctest.h>

#include "cuda/support/device_array.cuh"
#include "support/compare.hpp"
#include "support/random.hpp"

#include <algorithm>
#include <cstddef>
#include <vector>

using namespace dm2;
using namespace dm2::cuda::detail;
using namespace dm2::test;

namespace {

template <int Lanes>
__global__ void over_lanes(float const* in, float* sum, float* greatest, float* up_to) {
  int const lane = int(threadIdx.x);
  sum[lane] = sum_over_lanes<Lanes>(in[lane]);
  greatest[lane] = max_over_lanes<Lanes>(in[lane]);
  up_to[lane] = sum_up_to_lane<Lanes>(in[lane], lane % Lanes);
}

template <int Lanes>
void check_lanes() {
  CAPTURE(Lanes);
  std::vector<double> const in = rounded<float>(random_source{unsigned(Lanes)}.normal(32, 1));
  device_array<float> const from{in};
  device_array<float> sum{32}, greatest{32}, up_to{32};
  cuda::detail::launch("lanes", over_lanes<Lanes>, {1u, 32}, nullptr, from.data(), sum.data(), greatest.data(),
                       up_to.data());
  std::vector<double> want_sum(32), want_greatest(32, -1e30), want_up_to(32);
  for (std::size_t l = 0; l < 32; ++l)
    for (std::size_t m = l / Lanes * Lanes; m < l / Lanes * Lanes + Lanes; ++m) {
      want_sum[l] += in[m], want_greatest[l] = std::max(want_greatest[l], in[m]);
      if (m <= l) want_up_to[l] += in[m];
    }
  CHECK(relative_error(sum.read(), want_sum) < 1e-6);
  CHECK(greatest.read() == want_greatest);
  CHECK(relative_error(up_to.read(), want_up_to) < 1e-6);
}

}  // namespace

TEST_CASE("warp: sums, greatest numbers and running sums are those of the lanes' own group") {
  check_lanes<1>();
  check_lanes<2>();
  check_lanes<8>();
  check_lanes<16>();
  check_lanes<32>();
}
