#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/tile/squares.cuh>

#include <doctest/doctest.h>

#include "cuda/support/device_array.cuh"
#include "support/compare.hpp"
#include "support/random.hpp"

#include <cmath>
#include <cstddef>
#include <vector>

using namespace dm2;
using namespace dm2::cuda::detail;
using namespace dm2::test;

namespace {

/// out = in in packets of V, and zeros from packet `there` on.
template <class T, int V>
__global__ void by_packets(T const* in, T* out, int packets, int there) {
  int const i = int(blockIdx.x) * 32 + int(threadIdx.x);
  if (i >= packets) return;
  float x[V];
  auto numbers = vector_numbers<T, V>::load_if(i < there, in + i * V);
  numbers.forget_floats();
  numbers.get(x);
  vector_numbers<T, V>::store(out + i * V, x);
}

template <class T, int V>
void check_packets(int packets) {
  CAPTURE(V);
  CAPTURE(packets);
  auto const in = rounded<T>(random_source{unsigned(V)}.normal(std::size_t(packets) * V, 1));
  auto want = in;
  int const there = packets - packets / 3;
  for (std::size_t i = std::size_t(there) * V; i < want.size(); ++i) want[i] = 0;
  device_array<T> const from{in};
  device_array<T> to{in.size()};
  CHECK(packets_at<V>(from.data()));
  if (V > 1) CHECK_FALSE(packets_at<V>(from.data() + 1));
  cuda::detail::launch("packets", by_packets<T, V>, {blocks_for(std::size_t(packets), 32), 32}, nullptr, from.data(),
                       to.data(), packets, there);
  CHECK(to.read() == want);
  CHECK(to.margins_untouched());
}

template <int Channels, int Units>
__global__ void factors_of(float const* squares, float* out, int count, int asked) {
  int const i = int(threadIdx.x);
  if (i < 2 * asked) out[i] = factor_of_direction<Channels, Units>(squares, i / 2, i % 2, count);
}

template <int Channels, int Units>
void check_factors(int count) {
  CAPTURE(Units);
  CAPTURE(count);
  auto squares = rounded<float>(random_source{unsigned(Units)}.normal(std::size_t(count) * 2 * Units, 1));
  for (double& x : squares) x *= x;
  squares = rounded<float>(squares);
  int const asked = count + 1;  // one row after the last
  std::vector<double> want;
  for (int i = 0; i < 2 * asked; ++i) {
    double sum = 0;
    for (int u = 0; u < Units && i < 2 * count; ++u) sum += squares[std::size_t(i * Units + u)];
    want.push_back(1 / std::sqrt(sum / Channels + 1e-5));
  }
  device_array<float> const from{squares};
  device_array<float> to{std::size_t(2 * asked)};
  cuda::detail::launch("factors", factors_of<Channels, Units>, {1u, 64}, nullptr, from.data(), to.data(), count, asked);
  CHECK(relative_error(to.read(), want) < 1e-6);
}

}  // namespace

TEST_CASE("packet: numbers pass unchanged in accesses of any width, and are zeros where there are none") {
  for (int const packets : {1, 31, 32, 33}) {
    check_packets<float, 1>(packets);
    check_packets<float, 4>(packets);
    check_packets<__half, 1>(packets);
    check_packets<__half, 2>(packets);
    check_packets<__nv_bfloat16, 8>(packets);
  }
}

TEST_CASE("packet: the widest access is the one that divides every width") {
  CHECK(widest_vector(8, 16, 24) == 8);
  CHECK(widest_vector(8, 16, 12) == 4);
  CHECK(widest_vector(8, 7) == 1);
  CHECK(blocks_for(0, 32) == 0);
  CHECK(blocks_for(33, 32) == 2);
}

TEST_CASE("squares: a direction's factor is 1 / root mean square of its units' columns") {
  for (int const count : {1, 7, 16, 17}) {
    check_factors<48, 1>(count);
    check_factors<384, 8>(count);
  }
}
