#include <dm2/cpu/attention_core.hpp>
#include <dm2/cuda/attention_core.cuh>

#include <doctest/doctest.h>

#include "cuda/support/device_array.cuh"
#include "support/compare.hpp"
#include "support/random.hpp"
#include "support/views.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <vector>

using namespace dm2;
using namespace dm2::test;
using cuda::precision;

namespace {

constexpr attention_shape tiny{.heads = 3, .head_dim = 96, .rotary = 48, .d_conv = 4};
constexpr attention_shape one_head{.heads = 1, .head_dim = 96, .rotary = 48, .d_conv = 4};
constexpr attention_shape narrow{.heads = 2, .head_dim = 16, .rotary = 16, .d_conv = 3};
constexpr attention_shape plain{.heads = 2, .head_dim = 48, .rotary = 0, .d_conv = 0};
constexpr attention_shape turned{.heads = 1, .head_dim = 32, .rotary = 24, .d_conv = 0};
constexpr attention_shape wide{.heads = 1, .head_dim = 128, .rotary = 64, .d_conv = 4};
constexpr attention_shape scaled{.heads = 1, .head_dim = 80, .rotary = 8, .d_conv = 1};
constexpr attention_shape two_taps{.heads = 1, .head_dim = 112, .rotary = 0, .d_conv = 2};
constexpr attention_shape no_fragments{.heads = 2, .head_dim = 24, .rotary = 8, .d_conv = 4};
constexpr attention_shape odd_pairs{.heads = 1, .head_dim = 16, .rotary = 6, .d_conv = 4};

template <attention_shape A, precision P>
struct attention_run {
  using T = cuda::element<P>;
  static constexpr int width = A.width(), taps = A.d_conv;
  int length;
  random_source random{71};
  std::vector<double> qkv, conv, bias;
  device_array<T> in, y;
  device_array<float> device_conv, device_bias;
  cuda::context<P> ctx;

  attention_run(int batch, int tokens, double scale = 1)
      : length{tokens},
        qkv{rounded<T>(random.normal(std::size_t(batch) * std::size_t(tokens) * 3 * width, scale))},
        conv{rounded<float>(random.normal(std::size_t(3 * width * taps), 0.7))},
        bias{rounded<float>(random.normal(taps == 0 ? 0 : 3 * width, 0.3))},
        in{qkv},
        y{qkv.size() / 3},
        device_conv{conv},
        device_bias{bias} {}

  void compute() {
    attention_parameters<A, float const, space::device> p{};
    if constexpr (taps != 0)
      p = {device_conv.template as_block<3 * width, 1, taps>(), device_bias.template as_block<3 * width>()};
    cuda::attention_core<A>(ctx, in.template as_rows<3 * width>(), p, y.template as_rows<width>(), length);
  }
  [[nodiscard]] std::vector<double> oracle() const {
    cpu::context<double> host{2};
    std::vector<double> want = poisoned(qkv.size() / 3);
    attention_parameters<A, double const> p{};
    if constexpr (taps != 0) p = {as_block<3 * width, 1, taps>(conv), as_block<3 * width>(bias)};
    cpu::attention_core<A>(host, as_rows<3 * width>(qkv), p, as_rows<width>(want), length);
    return want;
  }
  /// The error against the oracle; checks that nothing else was written.
  double error() {
    compute();
    double const e = relative_error(y.read(), oracle());
    CHECK(y.margins_untouched());
    return e;
  }
};

/// Rounding of q, k, v and of the weights each passes the softmax.
template <precision P>
constexpr double tolerance = P == precision::tf32 ? 2e-3 : 2 * rounding_tolerance<cuda::element<P>>;

template <attention_shape A, precision P>
void check_lengths(std::initializer_list<int> lengths, int batch = 2) {
  for (int const length : lengths) {
    CAPTURE(length);
    CHECK(attention_run<A, P>{batch, length}.error() < tolerance<P>);
  }
}

template <attention_shape A>
void check_shape() {
  CAPTURE(A.head_dim);
  check_lengths<A, precision::bf16>({1, 2, 17, 63, 64, 65, 197});
  check_lengths<A, precision::fp16>({1, 3, 65, 113, 197});
}

}  // namespace

TEST_CASE("cuda attention_core: equals the CPU's in double at Tiny's shape, around every tile's length") {
  check_lengths<tiny, precision::bf16>({1, 2, 3, 4, 15, 16, 17, 31, 32, 33, 63, 64, 65, 111, 112, 113, 196, 197, 208});
  check_lengths<tiny, precision::fp16>({1, 17, 63, 64, 65, 197});
  check_lengths<tiny, precision::fp32>({1, 17, 65, 197});
}

TEST_CASE("cuda attention_core: other widths, rotary channels and taps") {
  check_shape<narrow>();
  check_shape<plain>();
  check_shape<turned>();
  check_shape<wide>();
  check_shape<scaled>();
  check_shape<two_taps>();
}

TEST_CASE("cuda attention_core: shapes that the tensor kernel has no code for") {
  check_lengths<no_fragments, precision::bf16>({1, 65, 197});
  check_lengths<odd_pairs, precision::fp16>({1, 65, 197});
  check_lengths<wide, precision::tf32>({65});
}

TEST_CASE("cuda attention_core: keys beyond one block's shared memory") {
  check_lengths<one_head, precision::bf16>({255, 256, 257, 512, 513, 785}, 1);
  check_lengths<one_head, precision::fp16>({785, 3137}, 1);
  check_lengths<wide, precision::fp16>({300, 785}, 1);
  check_lengths<narrow, precision::bf16>({257, 785}, 2);
}

TEST_CASE("cuda attention_core: as many sequences as fill a device, so that blocks take all rows of a head") {
  CHECK(attention_run<tiny, precision::bf16>{100, 197}.error() < tolerance<precision::bf16>);
  CHECK(attention_run<narrow, precision::fp16>{200, 130}.error() < tolerance<precision::fp16>);
}

TEST_CASE("cuda attention_core: tokens far into a sequence turn by the right angle") {
  // Scores of deviation 9 make the weights of a few keys large and the output sensitive to each angle.
  CHECK(attention_run<turned, precision::fp16>{1, 3137, 3}.error() < 0.02);
}

TEST_CASE("cuda attention_core: scores of any size do not overflow") {
  for (double const scale : {1e-3, 30., 300.}) {
    attention_run<plain, precision::bf16> f{2, 197, scale};
    f.compute();
    double most = 0;
    for (double v : f.y.read()) {
      CHECK(std::isfinite(v));
      most = std::max(most, std::abs(v));
    }
    CHECK(most < 6 * scale);
  }
}

TEST_CASE("cuda attention_core: is not causal, and a sequence does not see another") {
  attention_run<tiny, precision::bf16> f{2, 197}, g{2, 197};
  for (std::size_t i = g.qkv.size() - 288; i < g.qkv.size(); ++i) g.qkv[i] += 1000;  // the last token's v
  g.in = device_array<__nv_bfloat16>{g.qkv};
  f.compute();
  g.compute();
  auto const a = f.y.read(), b = g.y.read();
  std::size_t const half = a.size() / 2;
  CHECK(std::equal(a.begin(), a.begin() + std::ptrdiff_t(half), b.begin()));
  int changed = 0;
  for (std::size_t i = half; i < half + 288; ++i) changed += a[i] != b[i];
  CHECK(changed > 250);
}

TEST_CASE("cuda attention_core: two runs give the same bits") {
  for (int const length : {65, 197, 785}) {
    attention_run<tiny, precision::bf16> f{3, length};
    f.compute();
    auto const first = f.y.read();
    f.compute();
    CHECK(f.y.read() == first);
  }
}

TEST_CASE("cuda attention_core: rows that disagree are refused by name, and nothing is written") {
  attention_run<tiny, precision::bf16> f{2, 7};
  f.length = 5;
  CHECK(shape_message([&] { f.compute(); }) == "attention_core.qkv: got 14 rows, expected a multiple of the length 5");
  f.length = 7;
  CHECK(untouched(f.y.read()));
  f.y = device_array<__nv_bfloat16>{std::size_t{13 * 288}};
  CHECK(shape_message([&] { f.compute(); }) == "attention_core.y rows: got 13, expected 14");
  CHECK(untouched(f.y.read()));
}
