#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/tile/own_ring.cuh>

#include <doctest/doctest.h>

#include "cuda/support/device_array.cuh"
#include "support/random.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

using namespace dm2;
using namespace dm2::cuda::detail;
using namespace dm2::test;

namespace {

/// A lane adds `steps` times V numbers of its row of in [32, steps, V], and of every odd step once more, by a second
/// place; out [32, V] are its sums.
template <int V, int Stages, class T>
__device__ void add_up(unsigned char* memory, T const* in, float* out, int steps) {
  own_ring<T, V, 2, Stages> ring{memory};
  int const lane = int(threadIdx.x) % 32;
  T const* const own = in + lane * steps * V;
  auto const start = [&](int s) {
    if (s < steps) ring.start(0, own + s * V, true), ring.start(1, own + s * V, s % 2 == 1);
    ring.commit();
  };
  for (int s = 0; s < Stages - 1; ++s) start(s);
  float sums[V] = {};
  for (int s = 0; s < steps; ++s) {
    ring.wait();
    start(s + Stages - 1);
    for (int place = 0; place < 2; ++place) {
      float v[V];
      ring.take(place).get(v);
      for (int i = 0; i < V; ++i) sums[i] += v[i];
    }
    ring.release();
  }
  for (int i = 0; i < V; ++i) out[lane * V + i] = sums[i];
}

/// Two warps, whose rings differ.
template <int A, int B, int Stages, class T>
__global__ void add_up_kernel(T const* in, float* a, float* b, int steps) {
  constexpr int bytes_a = own_ring<T, A, 2, Stages>::bytes, bytes_b = own_ring<T, B, 2, Stages>::bytes;
  constexpr int most = bytes_a > bytes_b ? bytes_a : bytes_b;
  alignas(16) __shared__ unsigned char memory[2][most];
  if (threadIdx.x < 32)
    add_up<A, Stages>(memory[0], in, a, steps);
  else
    add_up<B, Stages>(memory[1], in, b, steps);
}

template <int V, class T>
void check_sums(std::vector<double> const& in, std::vector<double> const& got, int steps) {
  for (int lane = 0; lane < 32; ++lane)
    for (int v = 0; v < V; ++v) {
      double sum = 0;
      for (int s = 0; s < steps; ++s) sum += (1 + s % 2) * in[std::size_t((lane * steps + s) * V + v)];
      CHECK(std::abs(got[std::size_t(lane * V + v)] - sum) < 1e-5 * (1 + steps));
    }
}

template <int A, int B, int Stages, class T>
void check() {
  for (int const steps : {1, 2, 3, 4, 7, 64}) {
    CAPTURE(steps);
    auto const in = rounded<T>(random_source{unsigned(steps)}.normal(std::size_t(32 * steps * std::max(A, B)), 1));
    device_array<T> const numbers{in};
    device_array<float> a{std::size_t{32 * A}}, b{std::size_t{32 * B}};
    cuda::detail::launch("own_ring", add_up_kernel<A, B, Stages, T>, {1u, 64}, nullptr,
                         static_cast<T const*>(numbers.data()), a.data(), b.data(), steps);
    check_sums<A, T>(in, a.read(), steps);
    check_sums<B, T>(in, b.read(), steps);
    CHECK((a.margins_untouched() && b.margins_untouched()));
  }
}

}  // namespace

TEST_CASE("cuda own_ring: every lane gets its numbers in order, beside a warp of another width") {
  check<4, 2, 3, __nv_bfloat16>();
  check<1, 4, 2, __half>();
  check<2, 8, 4, __half>();
  check<4, 1, 3, float>();
  check<2, 4, 2, float>();
}
