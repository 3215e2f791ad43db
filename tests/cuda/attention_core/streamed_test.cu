#include <dm2/cuda/attention_core.cuh>
#include <dm2/cuda/attention_core_backward.cuh>

#include <doctest/doctest.h>

#include "cuda/attention_core/case.cuh"
#include "cuda/support/precisions.cuh"
#include "support/compare.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <vector>

using namespace dm2;
using namespace dm2::test;
using cuda::precision;

namespace {

constexpr attention_shape of_8{.heads = 3, .head_dim = 8, .rotary = 8, .d_conv = 2};
constexpr attention_shape of_16{.heads = 2, .head_dim = 16, .rotary = 16, .d_conv = 3};
constexpr attention_shape of_24{.heads = 2, .head_dim = 24, .rotary = 8, .d_conv = 4};
constexpr attention_shape of_32{.heads = 1, .head_dim = 32, .rotary = 32, .d_conv = 2};
constexpr attention_shape of_48{.heads = 2, .head_dim = 48, .rotary = 0, .d_conv = 0};
constexpr attention_shape of_64{.heads = 1, .head_dim = 64, .rotary = 24, .d_conv = 1};
constexpr attention_shape of_96{.heads = 1, .head_dim = 96, .rotary = 48, .d_conv = 4};
constexpr attention_shape of_104{.heads = 1, .head_dim = 104, .rotary = 56, .d_conv = 0};
constexpr attention_shape of_128{.heads = 1, .head_dim = 128, .rotary = 64, .d_conv = 4};
constexpr attention_shape tiny{.heads = 3, .head_dim = 96, .rotary = 48, .d_conv = 4};

/// The streamed form at any length.
template <precision P, attention_shape A>
struct streamed_case : device_attention<P, A> {
  using base = device_attention<P, A>;
  using base::host, base::ctx, base::qkv, base::dy, base::y, base::dqkv, base::conv, base::bias, base::taps;
  using typename base::T;
  int shift = 0;  ///< of conv and bias in their arrays

  using base::base;
  [[nodiscard]] attention_parameters<A, float const, space::device> parameters() const {
    if constexpr (taps == 0)
      return {};
    else
      return {block<float const, space::device, 3 * A.width(), 1, taps>{conv.data() + shift},
              block<float const, space::device, 3 * A.width()>{bias.data() + shift}};
  }
  /// From now on the parameters start one number after a multiple of 16 bytes.
  void shift_parameters() {
    std::vector<double> moved_conv = host.conv, moved_bias = host.bias;
    moved_conv.insert(moved_conv.begin(), 0);
    moved_bias.insert(moved_bias.begin(), 0);
    conv = device_array<float>{moved_conv};
    bias = device_array<float>{moved_bias};
    shift = 1;
  }
  bool forward() { return forward(qkv.data(), host.length); }
  bool backward() { return backward(qkv.data(), host.length); }
  bool forward(T const* from, int length) {
    return cuda::detail::attention_core::try_streamed<A>(ctx, {from, batch_rows(length)}, parameters(),
                                                         {y.data(), batch_rows(length)}, length);
  }
  bool backward(T const* from, int length) {
    return cuda::detail::attention_core::try_backward_streamed<A>(
        ctx, {from, batch_rows(length)}, parameters(), {dy.data(), batch_rows(length)},
        {dqkv.data(), batch_rows(length)}, this->gradients(), length);
  }
  [[nodiscard]] std::size_t batch_rows(int length) const { return std::size_t(host.batch) * std::size_t(length); }
  void check(double allowed = base::tolerance) {
    CAPTURE(host.length);
    CAPTURE(A.head_dim);
    REQUIRE(forward());
    REQUIRE(backward());
    host.forward();
    CHECK(relative_error(y.read(), host.y) < allowed);
    CHECK(y.margins_untouched());
    this->check_gradients(allowed);
  }
};

template <precision P, attention_shape A>
void check_lengths(std::initializer_list<int> lengths, int sequences = 2) {
  for (int const length : lengths) streamed_case<P, A>{sequences, length}.check();
}

}  // namespace

TEST_CASE("cuda attention_core streamed: equals the CPU's in double around every tile's length, forward and backward") {
  check_lengths<precision::bf16, of_96>({1, 2, 3, 4, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 224, 225});
  check_lengths<precision::fp16, of_96>({1, 17, 63, 64, 65, 225});
}

TEST_CASE("cuda attention_core streamed: every head size, padded where it is no multiple of 16, taps and rotary part") {
  check_lengths<precision::bf16, of_8>({1, 15, 16, 17, 65, 130});
  check_lengths<precision::bf16, of_16>({1, 15, 16, 17, 63, 64, 65, 224, 225, 257});
  check_lengths<precision::bf16, of_24>({1, 15, 16, 17, 63, 64, 65, 224, 225, 257});
  check_lengths<precision::fp16, of_24>({33, 129});
  check_lengths<precision::bf16, of_32>({1, 17, 63, 64, 65, 225});
  check_lengths<precision::bf16, of_48>({1, 15, 65, 225});
  check_lengths<precision::fp16, of_48>({16, 63, 64});
  check_lengths<precision::fp16, of_64>({1, 15, 65, 225});
  check_lengths<precision::bf16, of_64>({17, 64}, 3);
  check_lengths<precision::bf16, of_104>({1, 16, 17, 65, 130}, 1);
  check_lengths<precision::bf16, of_128>({1, 15, 64, 65, 225}, 1);
  check_lengths<precision::fp16, of_128>({16, 63}, 1);
}

TEST_CASE("cuda attention_core streamed: long sequences") {
  check_lengths<precision::bf16, of_96>({257, 577}, 1);
  check_lengths<precision::bf16, of_24>({577, 785}, 1);
  check_lengths<precision::fp16, of_16>({785}, 1);
}

TEST_CASE("cuda attention_core streamed: every size at every long length [long]") {
  for (int const length : {224, 225, 257, 577, 785, 1025}) {
    check_lengths<precision::bf16, of_16>({length});
    check_lengths<precision::bf16, of_24>({length});
    check_lengths<precision::bf16, of_32>({length});
    check_lengths<precision::bf16, of_48>({length});
    check_lengths<precision::bf16, of_64>({length});
    check_lengths<precision::bf16, of_128>({length});
    check_lengths<precision::bf16, tiny>({length});
    check_lengths<precision::fp16, tiny>({length}, 1);
  }
  check_lengths<precision::bf16, of_96>({3137}, 1);
  check_lengths<precision::fp16, of_128>({3137}, 1);
}

TEST_CASE(
    "cuda attention_core streamed: as many sequences as fill a device: two tiles a warp, and all warps of a block") {
  streamed_case<precision::bf16, of_16>{200, 130}.check();
  streamed_case<precision::bf16, of_96>{360, 33}.check();
  streamed_case<precision::fp16, of_128>{360, 33}.check();
}

TEST_CASE("cuda attention_core streamed: the same at Tiny's shape [long]") {
  streamed_case<precision::bf16, tiny>{100, 257}.check();
  streamed_case<precision::bf16, of_128>{150, 270}.check();
  streamed_case<precision::fp16, tiny>{50, 577}.check();
}

TEST_CASE("cuda attention_core streamed: softmaxes from flat to peaked") {
  // Rounded q and k move scores of deviation s^2 by 2^-9 of them, and weights by as much.
  for (double const scale : {0.1, 2., 4.})
    streamed_case<precision::bf16, of_96>{1, 150, scale}.check(scale < 3 ? 0.06 : 0.25);
}

TEST_CASE("cuda attention_core streamed: tokens far into a sequence turn by the right angle") {
  // A run's angles start anew every 8 or 32 tokens; scores of deviation 9 make the output sensitive to each.
  constexpr attention_shape turned{.heads = 1, .head_dim = 32, .rotary = 24, .d_conv = 0};
  streamed_case<precision::fp16, turned> f{1, 700, 3};
  REQUIRE(f.forward());
  f.host.forward();
  CHECK(relative_error(f.y.read(), f.host.y) < 0.02);
}

TEST_CASE("cuda attention_core streamed: scores of any size do not overflow, and weights add up to 1") {
  for (double const scale : {1e-3, 30., 300., 3e3}) {
    CAPTURE(scale);
    streamed_case<precision::bf16, of_48> f{1, 130, scale};
    REQUIRE(f.forward());
    REQUIRE(f.backward());
    double most = 0;
    for (double const v : f.y.read()) most = std::max(most, std::isfinite(v) ? std::abs(v) : INFINITY);
    CHECK(most < 6 * scale);
    // Scores of 10^8 are as far apart as floats are: weights of a query then add up to 1 within a factor only.
    // Without a convolution the last third of dqkv is dv, and the sum of dv over the keys that of dy over the queries.
    auto const d = f.dqkv.read();
    std::vector<double> got(96), want(96);
    bool finite = true;
    for (std::size_t i = 0; i < 130 * 96; ++i) {
      want[i % 96] += f.host.dy[i];
      got[i % 96] += d[i / 96 * 288 + 192 + i % 96];
    }
    for (double const v : d) finite = finite && std::isfinite(v);
    CHECK(finite);
    if (scale < 1e3) CHECK(relative_error(got, want) < 4 * rounding_tolerance<__nv_bfloat16>);
  }
}

TEST_CASE("cuda attention_core streamed: is not causal, and a sequence does not see another") {
  streamed_case<precision::bf16, of_24> f{2, 130}, g{2, 130};
  std::vector<double> changed = g.host.qkv;
  for (std::size_t i = changed.size() - 48; i < changed.size(); ++i) changed[i] += 1000;  // the last token's v
  g.qkv = device_array<__nv_bfloat16>{changed};
  REQUIRE(f.forward());
  REQUIRE(g.forward());
  auto const a = f.y.read(), b = g.y.read();
  std::size_t const half = a.size() / 2;
  CHECK(std::equal(a.begin(), a.begin() + std::ptrdiff_t(half), b.begin()));
  int moved = 0;
  for (std::size_t i = half; i < half + 48; ++i) moved += a[i] != b[i];
  CHECK(moved > 40);
}

TEST_CASE_TEMPLATE("cuda attention_core streamed: two runs give the same bits, and a plan takes the memory of both", P,
                   in_bf16, in_fp16) {
  streamed_case<P::value, of_24> f{3, 150};
  f.ctx.plan([&] { f.forward(), f.backward(); });
  CHECK(untouched(f.y.read()));
  CHECK(untouched(f.dqkv.read()));
  std::size_t const bytes = f.ctx.scratch_bytes();
  f.forward();
  f.backward();
  auto const y = f.y.read(), dqkv = f.dqkv.read(), dconv = f.dconv.read(), dbias = f.dbias.read();
  f.poison();
  f.forward();
  f.backward();
  CHECK(f.y.read() == y);
  CHECK(f.dqkv.read() == dqkv);
  CHECK(f.dconv.read() == dconv);
  CHECK(f.dbias.read() == dbias);
  CHECK(f.ctx.scratch_bytes() == bytes);
}

TEST_CASE("cuda attention_core streamed: parameters that do not start at 16 bytes give the same bits") {
  streamed_case<precision::bf16, of_24> f{2, 70}, g{2, 70};
  f.forward();
  f.backward();
  g.shift_parameters();
  REQUIRE(g.forward());
  REQUIRE(g.backward());
  CHECK(g.y.read() == f.y.read());
  CHECK(g.dqkv.read() == f.dqkv.read());
  CHECK(g.dconv.read() == f.dconv.read());
  CHECK(g.dbias.read() == f.dbias.read());
}

TEST_CASE("cuda attention_core streamed: activations that do not start at 16 bytes are left to the general form") {
  streamed_case<precision::bf16, of_24> f{1, 20};
  CHECK(!f.forward(f.qkv.data() + 1, 19));
  CHECK(!f.backward(f.qkv.data() + 1, 19));
  CHECK(untouched(f.y.read()));
  CHECK(untouched(f.dqkv.read()));
}

TEST_CASE("cuda attention_core: the shapes that only the general form has code for, in 16 bits") {
  using T = __nv_bfloat16;
  constexpr auto streams = [](attention_shape s) { return cuda::detail::attention_core::streams<T>(s); };
  for (int head = 8; head <= 128; head += 8)
    for (int taps = 0; taps <= 4; ++taps) CHECK(streams({1, head, head, taps}));
  CHECK(!streams({1, 20, 8, 4}));   // heads of 40 bytes: no pieces of 16
  CHECK(!streams({1, 136, 8, 4}));  // more outputs than a warp's registers hold
  CHECK(!streams({1, 32, 12, 4}));  // groups of four channels would be half turned
  CHECK(!streams({1, 32, 16, 5}));  // taps beyond a thread's registers
  CHECK(!cuda::detail::attention_core::streams<float>({1, 32, 16, 4}));
}
