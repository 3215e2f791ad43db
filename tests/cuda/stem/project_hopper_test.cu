#include <dm2/cuda/stem/layout.cuh>
#include <dm2/cuda/stem/project_hopper.cuh>

#include <doctest/doctest.h>

#include "cuda/support/device_array.cuh"
#include "support/compare.hpp"

#include <cstddef>
#include <random>
#include <vector>

using namespace dm2;
using namespace dm2::test;
namespace stem = dm2::cuda::detail::stem;

namespace {

std::vector<double> draw(std::mt19937& engine, std::size_t n, double scale) {
  std::normal_distribution<double> normal{0, scale};
  std::vector<double> v(n);
  for (double& x : v) x = normal(engine);
  return v;
}

/// inputs [rows, K] times weights [K, N], plus bias.
std::vector<double> product(std::vector<double> const& inputs, std::vector<double> const& weights,
                            std::vector<double> const& bias) {
  std::size_t const n = bias.size(), k = weights.size() / n, rows = inputs.size() / k;
  std::vector<double> out;
  for (std::size_t row = 0; row < rows; ++row)
    for (std::size_t column = 0; column < n; ++column) {
      double sum = bias[column];
      for (std::size_t i = 0; i < k; ++i) sum += inputs[row * k + i] * weights[i * n + column];
      out.push_back(sum);
    }
  return out;
}

/// Patches of one tap of K inputs, on a device with so few multiprocessors that a block has many tiles.
template <class T, int K, int N>
void check_grid(int rows, int multiprocessors) {
  CAPTURE(N);
  CAPTURE(rows);
  std::mt19937 engine{unsigned(N + rows)};
  auto const inputs = rounded<T>(draw(engine, std::size_t(rows) * K, 1)), weights = rounded<T>(draw(engine, K * N, 1));
  auto const bias = rounded<float>(draw(engine, N, 1));
  std::vector<double> arranged(weights.size());
  for (int k = 0; k < K; ++k)
    for (int n = 0; n < N; ++n)
      arranged[std::size_t(stem::project_layout<1, K, N>::index(0, k, n))] = weights[std::size_t(k * N + n)];
  device_array<T> const a{inputs}, b{arranged};
  device_array<float> const to_add{bias};
  device_array<float> grid{std::size_t(rows) * N};
  cuda::context<> ctx;
  auto device = ctx.device();
  device.multiprocessors = multiprocessors;
  bool const launched = stem::launch_project_hopper<K, N>(ctx.stream(), device, a.data(), b.data(),
                                                          stem::grid_sink<N>{to_add.data(), grid.data()}, rows);
  CHECK(launched == (device.major == 9));
  if (!launched) return;
  CHECK(relative_error(grid.read(), product(inputs, weights, bias)) < 1e-6);
  CHECK(grid.margins_untouched());
}

}  // namespace

TEST_CASE("cuda stem: the projection of a warpgroup's products equals the product in double") {
  check_grid<__nv_bfloat16, 256, 192>(200, 1);
  check_grid<__half, 384, 384>(193, 2);
  check_grid<__nv_bfloat16, 64, 48>(700, 1);
  check_grid<__half, 128, 200>(5, 3);
}
