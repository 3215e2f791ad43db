#include <dm2/cpu/tokens.hpp>
#include <dm2/cuda/tokens.cuh>

#include <doctest/doctest.h>

#include "cuda/support/precisions.cuh"
#include "support/random.hpp"
#include "support/views.hpp"

#include <string>
#include <type_traits>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr int height = 5, width = 7, tokens = height * width;

/// A box in device memory.
struct device_box {
  cuda::device_memory memory{sizeof(mix_box)};

  [[nodiscard]] mix_box const* get() const { return reinterpret_cast<mix_box const*>(memory.data()); }
  void set(mix_box box) const {
    cuda::check(cudaMemcpy(memory.data(), &box, sizeof box, cudaMemcpyHostToDevice), "box");
  }
};

/// Rows of `C` numbers of T.
template <class T, int C>
struct grid_of {
  using number = T;
  static constexpr int channels = C;
};

}  // namespace

TEST_CASE_TEMPLATE("cuda mix_tokens: the same numbers as the CPU's, wherever the box lies", F,
                   grid_of<__nv_bfloat16, 8>, grid_of<__nv_bfloat16, 5>, grid_of<__half, 20>, grid_of<float, 4>,
                   grid_of<float, 3>) {
  constexpr int C = F::channels;
  using T = typename F::number;
  cuda::context<> ctx;
  cpu::context<double> host;
  device_box const stored;
  for (int const batch : {1, 2, 5, 6})
    for (mix_box const box : {mix_box{1, 4, 2, 6}, {0, height, 0, width}, {4, 5, 6, 7}, {2, 2, 0, 3}, {3, 1, 0, 3}}) {
      random_source random{31};
      auto numbers = rounded<T>(random.normal(std::size_t(batch * tokens * C)));
      device_array<T> const given{numbers}, read{numbers};
      cpu::mix_tokens(host, as_rows<C>(numbers), height, width, box);
      cuda::mix_tokens(ctx, given.template as_rows<C>(), height, width, box);
      stored.set(box);
      cuda::mix_tokens(ctx, read.template as_rows<C>(), height, width, stored.get());
      CHECK(given.read() == numbers);
      CHECK(read.read() == numbers);
      CHECK(read.margins_untouched());
    }
}

TEST_CASE("cuda mix_tokens: rows at odd addresses, and a box in memory that leaves the grid") {
  cuda::context<> ctx;
  cpu::context<double> host;
  random_source random{37};
  constexpr int C = 8;
  auto const numbers = rounded<float>(random.normal(4 * tokens * C + 1));
  std::vector<double> want(numbers.begin() + 1, numbers.end());
  device_array<float> const x{numbers};
  device_box const stored;
  stored.set({-3, 2, 5, 99});
  cuda::mix_tokens(ctx, rows<float, C, space::device>{x.data() + 1, 4 * tokens}, height, width, stored.get());
  cpu::mix_tokens(host, as_rows<C>(want), height, width, mix_box{0, 2, 5, width});
  want.insert(want.begin(), numbers[0]);
  CHECK(x.read() == want);
  CHECK(x.margins_untouched());
}

TEST_CASE("cuda mix_tokens: parts of pictures and a given box outside the grid are refused by name") {
  cuda::context<> ctx;
  device_array<float> const x{std::vector<double>(2 * tokens * 4, 1)};
  auto const run = [&](std::size_t n, mix_box box) {
    cuda::mix_tokens(ctx, rows<float, 4, space::device>{x.data(), n}, height, width, box);
  };
  run(0, {});
  CHECK(shape_message([&] { run(36, {}); }) ==
        "mix_tokens.grid: got 36 rows, expected a multiple of the patches 5 x 7");
  CHECK(shape_message([&] {
          run(70, {0, 6, 0, 1});
        }) == "mix_tokens.box: got rows [0, 6), columns [0, 1), expected it inside 5 x 7");
}
