#include <dm2/cpu/heads.hpp>
#include <dm2/cuda/heads.cuh>

#include <doctest/doctest.h>

#include "cuda/support/device_array.cuh"
#include "support/compare.hpp"
#include "support/random.hpp"
#include "support/views.hpp"

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <vector>

using namespace dm2;
using namespace dm2::test;
using cuda::precision;

namespace {

template <int K, int D, precision P>
struct head_run {
  using T = cuda::element<P>;
  int length;
  random_source random{109};
  std::vector<double> x, w, b, aux_w, aux_b;
  device_array<T> features, weight, aux_weight;
  device_array<float> bias, aux_bias, logits;
  cuda::context<P> ctx;

  head_run(int batch, int tokens)
      : length{tokens},
        x{rounded<T>(random.normal(std::size_t(batch) * std::size_t(tokens) * D))},
        w{rounded<T>(random.normal(std::size_t{K} * D))},
        b{rounded<float>(random.normal(K))},
        aux_w{rounded<T>(random.normal(std::size_t{K} * D, 1, -0.1))},
        aux_b{rounded<float>(random.normal(K))},
        features{x},
        weight{w},
        aux_weight{aux_w},
        bias{b},
        aux_bias{aux_b},
        logits{std::size_t(batch) * K} {}

  void compute() {
    head_parameters<float const, K, D, space::device, T const> const p{
        {weight.template as_block<K, D>(), bias.template as_block<K>()},
        {aux_weight.template as_block<K, D>(), aux_bias.template as_block<K>()}};
    cuda::evaluation_heads(ctx, features.template as_rows<D>(), p, logits.template as_rows<K>(), length);
  }
  [[nodiscard]] std::vector<double> oracle() const {
    cpu::context<double> host{2};
    std::vector<double> want = poisoned(logits.size());
    head_parameters<double const, K, D> const p{{as_block<K, D>(w), as_block<K>(b)},
                                                {as_block<K, D>(aux_w), as_block<K>(aux_b)}};
    cpu::evaluation_heads(host, as_rows<D>(x), p, as_rows<K>(want), length);
    return want;
  }
  double error() {
    compute();
    double const e = relative_error(logits.read(), oracle());
    CHECK(logits.margins_untouched());
    return e;
  }
};

// Operands are exact and sums float, though the tensor cores' adders cut off where they should round: the error does
// not depend on the element, but for products in tf32.
constexpr double tolerance = 1e-5;

template <int K, int D, precision P>
void check_lengths(std::initializer_list<int> lengths, int batch = 3) {
  CAPTURE(K);
  CAPTURE(D);
  for (int const length : lengths) {
    CAPTURE(length);
    CHECK(head_run<K, D, P>{batch, length}.error() < (P == precision::tf32 ? 2e-3 : tolerance));
  }
}

}  // namespace

TEST_CASE("cuda evaluation_heads: equals the CPU's in double at Tiny's shape, around every tile's length") {
  check_lengths<1000, 192, precision::bf16>({2, 3, 16, 17, 18, 32, 33, 63, 64, 65, 66, 128, 129, 197, 785});
  check_lengths<1000, 192, precision::fp16>({2, 65, 197});
}

TEST_CASE("cuda evaluation_heads: numbers of classes around a warp's and a block's") {
  check_lengths<1, 192, precision::bf16>({2, 197});
  check_lengths<7, 192, precision::fp16>({2, 197});
  check_lengths<14, 192, precision::bf16>({2, 65});
  check_lengths<63, 192, precision::bf16>({3, 197});
  check_lengths<64, 192, precision::bf16>({3, 197});
  check_lengths<65, 192, precision::bf16>({3, 197});
  check_lengths<257, 192, precision::fp16>({197});
}

TEST_CASE("cuda evaluation_heads: other widths") {
  check_lengths<65, 16, precision::bf16>({2, 65, 197});
  check_lengths<65, 96, precision::fp16>({2, 65, 197});
  check_lengths<1000, 384, precision::bf16>({2, 31, 32, 33, 65, 197, 785});
  check_lengths<130, 208, precision::bf16>({197});
  check_lengths<130, 512, precision::fp16>({197});
}

TEST_CASE("cuda evaluation_heads: widths and precisions that the tensor kernel has no code for") {
  check_lengths<65, 7, precision::bf16>({2, 65, 197});
  check_lengths<7, 528, precision::fp16>({65});
  check_lengths<65, 192, precision::fp32>({2, 65, 197});
  check_lengths<65, 192, precision::tf32>({65});
}

TEST_CASE("cuda evaluation_heads: every way to divide classes and pictures among blocks") {
  for (int const batch : {1, 2, 8, 17, 33, 34, 70, 600}) {
    CAPTURE(batch);
    CHECK(head_run<1000, 192, precision::bf16>{batch, 18}.error() < tolerance);
    CHECK(head_run<14, 192, precision::fp16>{batch, 34}.error() < tolerance);
  }
  CHECK(head_run<14, 192, precision::bf16>{3000, 5}.error() < tolerance);
}

TEST_CASE("cuda evaluation_heads: negative patch logits count, and the class token is no patch") {
  constexpr int K = 65, D = 16;
  for (int const length : {2, 3, 17, 64, 197}) {
    CAPTURE(length);
    head_run<K, D, precision::bf16> f{1, length};
    std::vector<double> const ones(K * D, 1.0);
    std::vector<double> x(std::size_t(length) * D, -1.0);
    std::fill_n(x.begin() + std::ptrdiff_t{(length - 1) / 2} * D, D, 100.0);
    f.features = device_array<__nv_bfloat16>{x};
    f.weight = device_array<__nv_bfloat16>{std::vector<double>(K * D, 0.0)};
    f.aux_weight = device_array<__nv_bfloat16>{ones};
    f.bias = device_array<float>{std::vector<double>(K, 1.0)};
    f.aux_bias = device_array<float>{std::vector<double>(K, -4.0)};
    f.compute();
    for (double v : f.logits.read()) CHECK(v == 1 + (-16 - 4) / 2);
  }
}

TEST_CASE("cuda evaluation_heads: two runs give the same bits") {
  head_run<1000, 192, precision::bf16> f{9, 197};
  f.compute();
  auto const first = f.logits.read();
  f.compute();
  CHECK(f.logits.read() == first);
}

TEST_CASE("cuda evaluation_heads: rows that disagree, and no patch, are refused by name, and nothing is written") {
  head_run<14, 192, precision::bf16> f{2, 7};
  f.length = 5;
  CHECK(shape_message([&] { f.compute(); }) ==
        "evaluation_heads.features: got 14 rows, expected a multiple of the length 5");
  f.length = 1;
  CHECK(shape_message([&] { f.compute(); }) ==
        "evaluation_heads.length: got 1, expected at least 2: the class token and a patch");
  f.length = 7;
  CHECK(untouched(f.logits.read()));
  f.logits = device_array<float>{std::size_t{3 * 14}};
  CHECK(shape_message([&] { f.compute(); }) == "evaluation_heads.logits rows: got 3, expected 2");
  CHECK(untouched(f.logits.read()));
}
