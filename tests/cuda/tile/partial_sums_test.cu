#include <dm2/cuda/tile/partial_sums.cuh>

#include <doctest/doctest.h>

#include "cuda/support/device_array.cuh"
#include "support/compare.hpp"
#include "support/random.hpp"

#include <cstddef>
#include <vector>

using namespace dm2;
using namespace dm2::cuda::detail;
using namespace dm2::test;

namespace {

/// Adds to every column's number, but the last column's, which has no place.
struct all_but_last {
  float* to;
  int last;

  __device__ void operator()(int c, float sum) const {
    if (c != last) to[c] += sum;
  }
};

template <int Warps>
void check_parts(int count, int width) {
  CAPTURE(Warps);
  CAPTURE(count);
  CAPTURE(width);
  random_source random{17};
  auto const parts = rounded<float>(random.normal(std::size_t(count) * std::size_t(width), 1));
  auto const before = rounded<float>(random.normal(std::size_t(width), 1));
  std::vector<double> want = before;
  for (std::size_t i = 0; i < parts.size(); ++i)
    if (int(i) % width != width - 1) want[i % std::size_t(width)] += parts[i];
  device_array<float> const from{parts};
  std::vector<double> first;
  for (int run = 0; run < 2; ++run) {
    device_array<float> to{before};
    add_parts_to<Warps>("parts", nullptr, from.data(), count, width, all_but_last{to.data(), width - 1});
    auto const got = to.read();
    CHECK(relative_error(got, want) < 1e-6);
    CHECK(to.margins_untouched());
    if (run == 0) first = got;
    CHECK(got == first);
  }
}

template <class T>
void check_columns(int rows, int width) {
  CAPTURE(rows);
  CAPTURE(width);
  random_source random{19};
  auto const x = rounded<T>(random.normal(std::size_t(rows) * std::size_t(width), 1));
  auto const before = rounded<float>(random.normal(std::size_t(width), 1));
  std::vector<double> want = before;
  for (std::size_t i = 0; i < x.size(); ++i) want[i % std::size_t(width)] += x[i];
  device_array<T> const from{x};
  device_array<float> to{before};
  cuda::device_memory const memory{column_sums_scratch(std::size_t(rows), width)};
  arena scratch{static_cast<std::byte*>(memory.data()), memory.size()};
  add_column_sums("columns", nullptr, scratch, from.data(), std::size_t(rows), width, to.data());
  CHECK(relative_error(to.read(), want) < 1e-6);
  CHECK(to.margins_untouched());
}

}  // namespace

TEST_CASE("partial_sums: parts are added to what is there, the same way each time, by any number of warps") {
  for (int const count : {1, 7, 31, 32, 33, 70})
    for (int const width : {1, 31, 32, 33}) {
      check_parts<1>(count, width);
      check_parts<8>(count, width);
      check_parts<32>(count, width);
    }
}

TEST_CASE("partial_sums: columns are summed in whole packets and in single numbers") {
  for (int const rows : {1, 7, 8, 9, 33})
    for (int const width : {1, 8, 31, 256, 257}) {
      check_columns<float>(rows, width);
      check_columns<__nv_bfloat16>(rows, width);
    }
}
