#include <doctest/doctest.h>

#include "cuda/stem_train/case.cuh"
#include "cuda/support/precisions.cuh"
#include "support/compare.hpp"

#include <cmath>
#include <cstdint>
#include <vector>

using namespace dm2;
using namespace dm2::test;
using cuda::precision;

namespace {

constexpr stem_shape small{.height = 32, .width = 48, .channels = 3, .hidden = 64, .patch = 16, .dim = 48};
constexpr stem_shape uneven{.height = 40, .width = 24, .channels = 3, .hidden = 64, .patch = 8, .dim = 40};
constexpr stem_shape odd{.height = 20, .width = 28, .channels = 1, .hidden = 5, .patch = 4, .dim = 7};
constexpr stem_shape narrow{.height = 24, .width = 40, .channels = 4, .hidden = 48, .patch = 4, .dim = 24};

/// The forward is four products with BatchNorm between them, each of rounded operands, behind one another.
template <precision P>
constexpr double forward_tolerance = 3 * product_tolerance<P>;
/// The backward starts from the same saved numbers. A gradient is rounded three times a convolution on its way down,
/// and BatchNorm takes off most of what it has in common with the activation, which leaves the rounding.
template <precision P>
constexpr double backward_tolerance = 3 * product_tolerance<P>;

/// What was added to the device's gradients since `before`, against what the oracle added.
template <class F>
void check_gradients(F& f, std::vector<std::vector<double>> const& before) {
  auto const got = f.gradients.read();
  auto const want = f.host.grad.all();
  for (std::size_t i = 0; i < got.size(); ++i) {
    CAPTURE(i);
    std::vector<double> added(got[i].size()), sum(got[i].size());
    for (std::size_t k = 0; k < added.size(); ++k)
      added[k] = got[i][k] - before[i][k], sum[k] = (*want[i])[k] - before[i][k];
    CHECK(relative_error(added, sum) < backward_tolerance<F::precision>);
  }
}

/// Numbers as stem_arrays::read() has them.
template <class F>
stem_numbers before_of(F& f, std::vector<std::vector<double>> const& numbers) {
  stem_numbers n = f.host.grad;
  auto const all = n.all();
  for (std::size_t i = 0; i < all.size(); ++i) *all[i] = numbers[i];
  return n;
}

}  // namespace

#define DM2_TRAIN_STEMS                                                                                              \
  train_stem<small, precision::bf16>, train_stem<small, precision::fp16>, train_stem<small, precision::fp32>,        \
      train_stem<uneven, precision::bf16>, train_stem<uneven, precision::fp16>, train_stem<uneven, precision::tf32>, \
      train_stem<odd, precision::bf16>, train_stem<odd, precision::fp32>, train_stem<narrow, precision::fp16>,       \
      train_stem<narrow, precision::fp32>

TEST_CASE_TEMPLATE("cuda stem_train: equals the CPU's forward in double, and moves the running statistics", F,
                   DM2_TRAIN_STEMS) {
  constexpr double raw_tolerance = forward_tolerance<stem_precision<F::precision>>;
  for (int const batch : {1, 3}) {
    F f{batch};
    f.forward();
    f.host.forward();
    CHECK(relative_error(f.grid.read(), f.host.grid) < forward_tolerance<F::precision>);
    CHECK(f.grid.margins_untouched());
    for (std::size_t i = 0; i < 3; ++i) {
      CAPTURE(i);
      std::vector<double> const want(f.host.saved.raw[i], f.host.saved.raw[i] + f.raw(i).size());
      CHECK(relative_error(f.raw(i), want) < raw_tolerance);
      CHECK(relative_error(f.mean[i].read(), f.host.mean[i]) < raw_tolerance);
      CHECK(relative_error(f.var[i].read(), f.host.var[i]) < raw_tolerance);
    }
  }
}

TEST_CASE_TEMPLATE("cuda stem_train: equals the CPU's gradients in double, which it adds", F, DM2_TRAIN_STEMS) {
  for (int const batch : {1, 3}) {
    F f{batch};
    f.forward();
    f.adopt_saved();
    auto const before = f.gradients.read();
    f.host.backward();
    f.backward(nullptr);
    check_gradients(f, before);
    for (double v : f.dpicture.read()) CHECK(std::isnan(v));
    f.gradients = stem_arrays<F::shape>{before_of(f, before)};
    f.backward(f.dpicture.data());
    check_gradients(f, before);
    CHECK(relative_error(f.dpicture.read(), f.host.dpicture) < backward_tolerance<F::precision>);
    CHECK(f.dpicture.margins_untouched());
  }
}

TEST_CASE_TEMPLATE("cuda stem_train: columns of fewer pictures than the batch give the same gradients", F,
                   train_stem<odd, precision::fp32>, train_stem<narrow, precision::fp16>) {
  using namespace cuda::detail;
  constexpr stem_shape S = F::shape;
  for (std::size_t const pictures : {1, 2}) {
    F f{5};
    std::size_t const bytes =
        pictures * S.half_height() * S.half_width() * stem_train::matrices<S>::widest_row * sizeof(typename F::T);
    auto const reader = reader_of<stem::geometry<S>>(static_cast<float const*>(f.picture.data()));
    auto const p = f.parameters.template view<float const>();
    stem_train::forward_general<S>(f.ctx, reader, p, f.running(), f.grid.data(), f.saved, 5, bytes);
    f.host.forward();
    CHECK(relative_error(f.grid.read(), f.host.grid) < forward_tolerance<F::precision>);
    f.adopt_saved();
    auto const before = f.gradients.read();
    f.host.backward();
    stem_train::backward_general<S>(f.ctx, reader, p, f.saved, static_cast<typename F::T const*>(f.dgrid.data()),
                                    f.gradients.template view<float>(), f.dpicture.data(), 5, bytes);
    check_gradients(f, before);
    CHECK(relative_error(f.dpicture.read(), f.host.dpicture) < backward_tolerance<F::precision>);
  }
}

TEST_CASE_TEMPLATE("cuda stem_train: two runs give the same bits, whatever the scratch holds", F,
                   train_stem<small, precision::bf16>, train_stem<odd, precision::fp32>) {
  F f{2}, g{2};
  std::vector<std::vector<double>> bits[2];
  for (F* one : {&f, &g}) {
    one->ctx.plan([&] {
      one->forward();
      one->backward(nullptr);
    });
    std::size_t const planned = one->ctx.scratch_bytes();
    one->poison_scratch();
    one->forward();
    one->poison_scratch();
    one->backward(nullptr);
    CHECK(one->ctx.scratch_bytes() == planned);
    for (double v : one->dpicture.read()) CHECK(std::isnan(v));
    auto& all = bits[one == &g];
    all = one->gradients.read();
    all.push_back(one->grid.read());
    for (std::size_t i = 0; i < 3; ++i) all.push_back(one->mean[i].read()), all.push_back(one->var[i].read());
  }
  CHECK(bits[0] == bits[1]);
}

TEST_CASE("cuda stem_train: pictures as bytes give the same bits as the floats that they stand for") {
  train_stem<uneven, precision::bf16> f{2};
  std::vector<std::uint8_t> bytes;
  for (double v : f.host.random.uniform(f.host.picture.size(), 0, 256)) bytes.push_back(std::uint8_t(v));
  device_array<std::uint8_t> const packed{bytes};
  float const mean[3] = {0.485f, 0.456f, 0.406f}, deviation[3] = {0.229f, 0.224f, 0.225f};
  auto const pictures = cuda::byte_pictures<3>::normalised(packed.data(), mean, deviation);
  constexpr std::size_t area = std::size_t(uneven.height) * uneven.width;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    std::size_t const c = i % 3, pixel = i / 3;
    f.host.picture[(pixel / area * 3 + c) * area + pixel % area] =
        double(std::fma(float(bytes[i]), pictures.scale[c], pictures.shift[c]));
  }
  f.picture = device_array<float>{f.host.picture};
  f.forward(pictures);
  auto const from_bytes = f.grid.read();
  f.forward();
  CHECK(f.grid.read() == from_bytes);
}

TEST_CASE("cuda stem_train: a part of a picture is refused by name, and nothing is written") {
  train_stem<odd, precision::fp32> f{2};
  auto const before = f.gradients.read();
  auto const p = f.parameters.view<float const>();
  auto const pictures = static_cast<float const*>(f.picture.data());
  auto const forward = [&](std::size_t n) {
    cuda::stem_forward_train(f.ctx, pictures, p, f.running(), {f.grid.data(), n}, f.saved);
  };
  auto const backward = [&](std::size_t n) {
    cuda::stem_backward(f.ctx, pictures, p, f.saved, {f.dgrid.data(), n}, f.gradients.view<float>(), f.dpicture.data());
  };
  forward(0), backward(0);
  CHECK(shape_message([&] { forward(69); }) == "stem.grid: got 69 rows, expected a multiple of the tokens 35");
  CHECK(shape_message([&] { backward(71); }) == "stem.grid: got 71 rows, expected a multiple of the tokens 35");
  for (double v : f.grid.read()) CHECK(std::isnan(v));
  for (double v : f.dpicture.read()) CHECK(std::isnan(v));
  CHECK(f.gradients.read() == before);
  for (std::size_t i = 0; i < 3; ++i) CHECK(f.mean[i].read() == f.host.mean[i]);
}
