#include <dm2/cuda/stem.cuh>

#include <doctest/doctest.h>

#include "cuda/kernels/stem_before.cuh"
#include "cuda/support/device_array.cuh"
#include "support/compare.hpp"

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

using namespace dm2;
using namespace dm2::test;
namespace stem = dm2::cuda::detail::stem;
namespace before = dm2::bench::stem_before;

namespace {

constexpr stem_shape three_channels{.height = 64, .width = 64, .channels = 3, .hidden = 64, .patch = 16, .dim = 192};
constexpr stem_shape four_channels{.height = 40, .width = 80, .channels = 4, .hidden = 64, .patch = 8, .dim = 48};
constexpr stem_shape broad{.height = 40, .width = 80, .channels = 4, .hidden = 128, .patch = 8, .dim = 48};
constexpr stem_shape narrow{.height = 24, .width = 40, .channels = 4, .hidden = 48, .patch = 4, .dim = 24};
constexpr stem_shape one_channel{.height = 16, .width = 48, .channels = 1, .hidden = 16, .patch = 8, .dim = 24};

std::vector<double> draw(std::mt19937& engine, std::size_t n, double scale) {
  std::normal_distribution<double> normal{0, scale};
  std::vector<double> v(n);
  for (double& x : v) x = normal(engine);
  return v;
}

/// A device with few multiprocessors, so that a block has many tiles.
cuda::device_properties with_multiprocessors(cuda::device_properties device, int count) {
  device.multiprocessors = count;
  return device;
}

/// Pictures in one form through the first convolution, as it was and as it is.
template <class T, stem_shape S, class Reader>
void check_first(Reader const& picture, int pictures, int multiprocessors) {
  using geometry = stem::geometry<S>;
  CAPTURE(S.width);
  CAPTURE(multiprocessors);
  std::mt19937 engine{unsigned(S.width)};
  device_array<T> const weights{draw(engine, stem::conv1_layout<S.hidden>::size, 0.1)};
  device_array<float> const bias{draw(engine, S.hidden, 1)};
  std::size_t const n = std::size_t(pictures) * geometry::plane_pixels * geometry::hidden;
  device_array<T> expected{n}, got{n};
  cuda::context<> ctx;
  auto const device = with_multiprocessors(ctx.device(), multiprocessors);
  before::launch_conv1<geometry>(ctx.stream(), multiprocessors, picture, weights.data(), bias.data(), expected.data(),
                                 pictures);
  stem::launch_conv1<geometry>(ctx.stream(), device, picture, weights.data(), bias.data(), got.data(), pictures);
  CHECK(got.read() == expected.read());
  CHECK(got.margins_untouched());
  if (S.hidden != 64 || device.major != 9) return;
  device_array<T> wide{n};
  bool const launched = stem::launch_conv1_hopper<geometry>(ctx.stream(), device, picture, weights.data(), bias.data(),
                                                            wide.data(), pictures);
  CHECK(launched == picture.lines_are_aligned());
  if (!launched) return;
  CHECK(relative_error(wide.read(), expected.read()) < 1e-4);  // sums by wgmma
  CHECK(wide.margins_untouched());
}

/// Floats and bytes, at a multiple of 16 bytes and at none.
template <class T, stem_shape S>
void check_pictures(int pictures) {
  using geometry = stem::geometry<S>;
  std::mt19937 engine{unsigned(S.height)};
  std::size_t const n = std::size_t(pictures) * S.channels * S.height * S.width;
  device_array<float> const floats{draw(engine, n + 4, 1)};
  std::vector<std::uint8_t> values(n + 16);
  for (auto& v : values) v = std::uint8_t(engine());
  device_array<std::uint8_t> const bytes{values};
  auto const at = [](auto const* from, std::size_t past) {
    return from + (16 - reinterpret_cast<std::uintptr_t>(from) % 16) % 16 / sizeof(*from) + past;
  };
  float mean[S.channels], deviation[S.channels];
  for (int c = 0; c < S.channels; ++c) mean[c] = 0.4f + 0.1f * float(c), deviation[c] = 0.2f + 0.1f * float(c);
  for (int const multiprocessors : {1, 3})
    for (std::size_t const past : {0, 1}) {
      check_first<T, S>(cuda::detail::planar_reader<geometry>{at(floats.data(), past)}, pictures, multiprocessors);
      check_first<T, S>(cuda::detail::byte_reader<geometry>{cuda::byte_pictures<S.channels>::normalised(
                            at(bytes.data(), past), mean, deviation)},
                        pictures, multiprocessors);
    }
}

/// A 3 x 3 layer as it was and as it is: for many pictures, in both orders of warpgroups, and for few.
template <class T, int Size, bool Patches>
void check_inner(int pictures, int multiprocessors) {
  CAPTURE(Size);
  CAPTURE(multiprocessors);
  constexpr stem_shape shape{.height = Size, .width = Size, .channels = 3, .hidden = 64, .patch = 16, .dim = 192};
  using geometry = stem::geometry<shape>;
  std::mt19937 engine{Size};
  std::size_t const n = std::size_t(pictures) * geometry::plane_pixels * geometry::hidden;
  device_array<T> const in{draw(engine, n, 1)}, weights{draw(engine, 9 * 64 * 64, 0.05)};
  device_array<float> const bias{draw(engine, 64, 1)};
  cuda::context<> ctx;
  auto const device = with_multiprocessors(ctx.device(), multiprocessors);
  auto const result = [&](auto const& run) {
    device_array<T> out{n};
    run(out.data());
    CHECK(out.margins_untouched());
    return out.read();
  };
  auto const few = [&](auto const& launch) {
    return result([&](T* out) {
      launch(ctx.stream(), multiprocessors, in.data(), weights.data(), bias.data(), out, pictures, false);
    });
  };
  CHECK(few([](auto... a) { stem::launch_conv3<geometry, stem::conv3_small, Patches>(a...); }) ==
        few([](auto... a) { before::launch_conv3<geometry, stem::conv3_small, Patches>(a...); }));
  if (device.major != 9) return;
  auto const many = [&](auto const& launch) {
    return result(
        [&](T* out) { CHECK(launch(ctx.stream(), device, in.data(), weights.data(), bias.data(), out, pictures)); });
  };
  auto const want = many([](auto... a) { return before::launch_conv3_hopper<geometry, Patches, false>(a...); });
  CHECK(many([](auto... a) { return stem::launch_conv3_hopper<geometry, Patches>(a...); }) == want);
  CHECK(many([](auto... a) {
          return stem::launch_conv3_hopper<geometry, Patches, stem::conv3_roles{1, 3, true}>(a...);
        }) == want);
}

enum class projection_form { many, many_small, few };

/// Token rows of a projection as it was and as it is, in a form.
template <class T, int Dim, projection_form F>
void check_projection(int pictures, stem::project_plan plan) {
  CAPTURE(Dim);
  constexpr int tokens = 9, depth = 256;
  constexpr stem::project_form form = F == projection_form::many         ? stem::project_many<Dim>
                                      : F == projection_form::many_small ? stem::project_many_small<Dim>
                                                                         : stem::project_few;
  std::mt19937 engine{Dim};
  int const rows = pictures * tokens;
  device_array<T> const in{draw(engine, std::size_t(rows) * depth, 1)}, weights{draw(engine, depth * Dim, 0.05)};
  device_array<float> const bias{draw(engine, Dim, 1)}, cls{draw(engine, Dim, 1)},
      pos{draw(engine, (tokens + 1) * Dim, 1)};
  cuda::context<> ctx;
  auto const result = [&]<class Sink>() {
    device_array<float> x(std::size_t(pictures) * (tokens + 1) * Dim), parts(std::size_t(plan.splits) * rows * Dim);
    stem::launch_projection<depth, Dim, form>(ctx.stream(), plan, in.data(), weights.data(),
                                              Sink{bias.data(), cls.data(), pos.data(), x.data()}, rows, parts.data());
    CHECK(x.margins_untouched());
    return x.read();
  };
  CHECK(result.template operator()<stem::token_sink<Dim, tokens>>() ==
        result.template operator()<before::token_sink<Dim, tokens>>());
}

}  // namespace

TEST_CASE(
    "cuda stem: the 7 x 7 convolution has the bits that it had, from floats and from bytes of any alignment; by wgmma, "
    "nearly") {
  check_pictures<__nv_bfloat16, three_channels>(2);
  check_pictures<__half, four_channels>(1);
  check_pictures<__half, broad>(1);
  check_pictures<__half, narrow>(3);
  check_pictures<__nv_bfloat16, one_channel>(2);
}

TEST_CASE("cuda stem: the 3 x 3 convolutions have the bits that they had, with any number of tiles a block") {
  for (int const multiprocessors : {1, 2, 7}) {
    check_inner<__nv_bfloat16, 64, false>(2, multiprocessors);
    check_inner<__nv_bfloat16, 80, true>(1, multiprocessors);
    check_inner<__half, 48, true>(3, multiprocessors);
  }
}

TEST_CASE("cuda stem: the projection has the bits that it had, whole and in parts") {
  check_projection<__nv_bfloat16, 192, projection_form::many>(17, {true, 1, 0});
  check_projection<__nv_bfloat16, 384, projection_form::many_small>(16, {true, 1, 0});
  check_projection<__half, 192, projection_form::few>(3, {false, 2, 0});
  check_projection<__half, 24, projection_form::few>(5, {false, 1, 0});
}
