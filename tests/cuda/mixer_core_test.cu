#include <dm2/cuda/mixer_core.cuh>

#include <doctest/doctest.h>

#include "cpu/mixer_case.hpp"
#include "cuda/device_array.cuh"
#include "support/compare.hpp"

#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

/// The parameters of one direction on the device, rounded to float on the host as well.
template <mixer_shape M>
struct device_direction {
  device_array<float> p[6];

  explicit device_direction(direction_numbers& host) {
    for (std::size_t k = 0; k < 6; ++k) {
      host[k] = rounded<float>(host[k]);
      p[k] = device_array<float>{host[k]};
    }
  }
  [[nodiscard]] mixer_direction<M, float const, space::device> view(device_array<float> const& d) const {
    constexpr int C = M.conv_dim();
    return {p[0].template as_block<C, 1, M.d_conv>(), p[1].template as_block<C>(),
            p[2].template as_block<M.heads>(),        p[3].template as_block<M.heads>(),
            d.template as_block<M.heads>(),           p[5].template as_block<M.d_inner()>()};
  }
};

template <cuda::precision P, mixer_shape M>
struct device_mixer {
  using T = cuda::element<P>;
  mixer_case<M> host;
  cuda::context<P> ctx;
  device_direction<M> first, second;
  device_array<T> in, g;

  device_mixer(int sequences, int tokens)
      : host{prepared(sequences, tokens)}, first{host.p[0]}, second{host.p[1]}, in{host.in}, g{host.g.size()} {}

  static mixer_case<M> prepared(int sequences, int tokens) {
    mixer_case<M> f{sequences, tokens, 2};
    f.in = rounded<T>(f.in);
    return f;
  }
  [[nodiscard]] mixer_parameters<M, float const, space::device> parameters() const {
    return {first.view(first.p[4]), second.view(mixer_case<M>::second_d == 0 ? first.p[4] : second.p[4])};
  }
  void forward() {
    cuda::mixer_core<M>(ctx, in.template as_rows<M.projected()>(), parameters(), g.template as_rows<2 * M.d_inner()>(),
                        host.length);
  }
};

constexpr mixer_shape tiny_mixer{.heads = 8, .headdim = 48, .d_state = 128, .groups = 1, .d_conv = 4};
constexpr mixer_shape small_mixer{.heads = 8, .headdim = 96, .d_state = 128, .groups = 1, .d_conv = 4};
constexpr mixer_shape small_state{
    .heads = 8, .headdim = 16, .d_state = 16, .groups = 1, .d_conv = 4, .variant = mixer_variant::bidirectional};
constexpr mixer_shape four_heads{.heads = 4, .headdim = 64, .d_state = 64, .groups = 1, .d_conv = 3};

template <cuda::precision P, mixer_shape M>
struct variant {
  using T = cuda::element<P>;
  static constexpr double tolerance = P == cuda::precision::bf16 ? 1.5e-2 : P == cuda::precision::fp16 ? 2e-3 : 2e-5;

  static void check_length(int sequences, int length) {
    CAPTURE(length);
    CAPTURE(M.headdim);
    device_mixer<P, M> f{sequences, length};
    f.forward();
    f.host.forward();
    double const error = relative_error(f.g.read(), f.host.g);
    MESSAGE("mixer_core ", int(P), " H ", M.heads, " P ", M.headdim, " N ", M.d_state, " L ", length, ": ", error);
    CHECK(error < tolerance);
    CHECK(f.g.margins_untouched());
    auto const bytes = f.g.read();
    f.forward();
    CHECK(f.g.read() == bytes);
  }
};

constexpr auto bf16 = cuda::precision::bf16;
constexpr auto fp16 = cuda::precision::fp16;
constexpr auto fp32 = cuda::precision::fp32;

}  // namespace

TEST_CASE_TEMPLATE("cuda mixer_core: equals the CPU's in double at every length", V, variant<bf16, tiny_mixer>,
                   variant<fp16, tiny_mixer>, variant<bf16, small_mixer>, variant<bf16, small_state>,
                   variant<fp16, four_heads>) {
  for (int const length : {1, 15, 16, 17, 63, 64, 65, 128, 129, 197, 224}) V::check_length(2, length);
}

TEST_CASE_TEMPLATE("cuda mixer_core: long sequences, float and odd sizes take the composed form", V,
                   variant<bf16, tiny_mixer>, variant<fp32, tiny_mixer>, variant<fp32, published_mixer>,
                   variant<bf16, published_mixer>, variant<fp32, plain_mixer>, variant<fp32, bidirectional_mixer>) {
  for (int const length : {1, 17, 65, 197, 785}) V::check_length(1, length);
}

TEST_CASE("cuda mixer_core: many sequences give what one gives") {
  device_mixer<bf16, tiny_mixer> many{300, 33};
  many.forward();
  many.host.forward();
  CHECK(relative_error(many.g.read(), many.host.g) < 1.5e-2);
}

TEST_CASE("cuda mixer_core: row counts that differ are refused by name") {
  device_mixer<bf16, tiny_mixer> f{2, 17};
  f.host.length = 16;
  CHECK(shape_message([&] { f.forward(); }) == "mixer_core.zxbcdt: got 34 rows, expected a multiple of the length 16");
}
