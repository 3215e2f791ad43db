#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/dynamic_shared.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <doctest/doctest.h>

#include "cuda/support/device_array.cuh"
#include "support/compare.hpp"
#include "support/random.hpp"

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

using namespace dm2;
using namespace dm2::cuda::detail;
using namespace dm2::test;

namespace {

constexpr int pitch = 48;  // bytes: an odd number of 16

/// c [16, 16] = a b of 16 x 16 numbers each. Columns: b is stored by its columns.
template <bool Columns>
__global__ void multiply_tile(__half const* a, __half const* b, float* c) {
  unsigned char* const shared = dynamic_shared();
  int const lane = int(threadIdx.x);
  for (int i = lane; i < 256; i += 32) {
    reinterpret_cast<__half*>(shared + i / 16 * pitch)[i % 16] = a[i];
    reinterpret_cast<__half*>(shared + (16 + i / 16) * pitch)[i % 16] = Columns ? b[i % 16 * 16 + i / 16] : b[i];
  }
  __syncwarp();
  std::uint32_t rows[4], right[4];
  load_matrix(rows, shared_address(shared) + std::uint32_t(fragment::left_operand(lane, pitch)));
  std::uint32_t const at = shared_address(shared + 16 * pitch);
  if (Columns)
    load_matrix(right, at + std::uint32_t(fragment::right_operand(lane, pitch)));
  else
    load_matrix_transposed(right, at + std::uint32_t(fragment::left_operand(lane, pitch)));
  float sums[2][4] = {};
  mma<__half>(sums[0], rows, right[0], right[1]);
  mma<__half>(sums[1], rows, right[2], right[3]);
  for (int n = 0; n < 2; ++n)
    for (int e = 0; e < 4; ++e)
      c[fragment::row(lane, e / 2) * 16 + n * 8 + fragment::column(lane) + e % 2] = sums[n][e];
}

enum class over { row, greatest_of_row, column };

/// out[l] = what lane l gets.
template <over What>
__global__ void reduce(float const* in, float* out) {
  float const x = in[threadIdx.x];
  out[threadIdx.x] = What == over::row ? sum_over_row(x) : What == over::column ? sum_over_column(x) : max_over_row(x);
}

/// out[l] = fold of the N numbers that lane l has.
template <int N, int Bit>
__global__ void fold_numbers(float const* in, float* out) {
  float v[N];
  for (int i = 0; i < N; ++i) v[i] = in[int(threadIdx.x) * N + i];
  out[threadIdx.x] = fold<N, Bit>(v, int(threadIdx.x));
}

template <int N, int Bit>
void check_fold() {
  CAPTURE(N);
  std::vector<double> const in = rounded<float>(random_source{unsigned(N)}.normal(32 * N, 1));
  device_array<float> const from{in};
  device_array<float> to{32};
  cuda::detail::launch("fold", fold_numbers<N, Bit>, {1u, 32}, nullptr, from.data(), to.data());
  std::vector<double> want(32);
  for (int l = 0; l < 32; ++l) {
    int const group = Bit * 2 - Bit * 2 / N;  // the bits that the lanes of a sum differ in
    int const own = (l & group) / (Bit * 2 / N);
    for (int m = 0; m < 32; ++m)
      if ((m & ~group) == (l & ~group)) want[std::size_t(l)] += in[std::size_t(m * N + own)];
  }
  CHECK(relative_error(to.read(), want) < 1e-6);
}

}  // namespace

TEST_CASE("fragment: a product of tiles that are read and written by its places is the product") {
  random_source random{7};
  auto const a = rounded<__half>(random.normal(256, 1)), b = rounded<__half>(random.normal(256, 1));
  std::vector<double> want(256);
  for (std::size_t i = 0; i < 256; ++i)
    for (std::size_t k = 0; k < 16; ++k) want[i] += a[i / 16 * 16 + k] * b[k * 16 + i % 16];
  device_array<__half> const left{a}, right{b};
  for (bool const columns : {false, true}) {
    CAPTURE(columns);
    device_array<float> c{256};
    auto* const kernel = columns ? multiply_tile<true> : multiply_tile<false>;
    cuda::detail::launch("tile", kernel, {1u, 32, 32 * pitch}, nullptr, left.data(), right.data(), c.data());
    CHECK(relative_error(c.read(), want) < 1e-6);
    CHECK(c.margins_untouched());
  }
}

TEST_CASE("fragment: wider columns are neighbours of one row, each once") {
  for (int const width : {2, 4, 8}) {
    std::vector<int> seen(8 * 4 * std::size_t(width));
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < width; ++i) {
        int const first = width == 2   ? fragment::column(lane)
                          : width == 4 ? fragment::column<4>(lane)
                                       : fragment::column<8>(lane);
        ++seen[std::size_t(fragment::row(lane) * 4 * width + first + i)];
      }
    CHECK(std::count(seen.begin(), seen.end(), 1) == std::ptrdiff_t(seen.size()));
  }
  for (int lane = 0; lane < 32; ++lane) {
    CHECK(fragment::leads_row(lane) == (fragment::quarter(lane) == 0));
    CHECK(fragment::row(unsigned(lane), 1) == fragment::row(lane) + 8);
    CHECK(fragment::column(unsigned(lane)) == fragment::column(lane));
  }
}

TEST_CASE("fragment: sums and greatest numbers are those of the lanes of a row or a column, in each of them") {
  std::vector<double> const in = rounded<float>(random_source{11}.normal(32, 1));
  device_array<float> const from{in};
  std::vector<double> row(32), greatest(32, -1e30), column(32);
  for (std::size_t l = 0; l < 32; ++l)
    for (std::size_t m = 0; m < 32; ++m) {
      if (m / 4 == l / 4) row[l] += in[m], greatest[l] = std::max(greatest[l], in[m]);
      if (m % 4 == l % 4) column[l] += in[m];
    }
  auto const got = [&](auto* kernel) {
    device_array<float> to{32};
    cuda::detail::launch("sums", kernel, {1u, 32}, nullptr, from.data(), to.data());
    return to.read();
  };
  CHECK(relative_error(got(reduce<over::row>), row) < 1e-6);
  CHECK(got(reduce<over::greatest_of_row>) == greatest);
  CHECK(relative_error(got(reduce<over::column>), column) < 1e-6);
}

TEST_CASE("fragment: fold leaves a lane the one sum that its bits say") {
  check_fold<1, 16>();
  check_fold<2, 1>();
  check_fold<2, 16>();
  check_fold<4, 2>();
  check_fold<8, 16>();
}
