#include <doctest/doctest.h>

#include "cuda/stem_train/case.cuh"
#include "cuda/support/precisions.cuh"
#include "support/compare.hpp"

#include <cmath>
#include <vector>

using namespace dm2;
using namespace dm2::test;
using cuda::precision;

namespace {

constexpr stem_shape wide{.height = 48, .width = 80, .channels = 3, .hidden = 64, .patch = 16, .dim = 48};
constexpr stem_shape deep{.height = 36, .width = 28, .channels = 4, .hidden = 64, .patch = 4, .dim = 200};
constexpr stem_shape single{.height = 18, .width = 22, .channels = 1, .hidden = 64, .patch = 2, .dim = 8};

constexpr stem_shape tiny_stem{.height = 224, .width = 224, .channels = 3, .hidden = 64, .patch = 16, .dim = 192};
constexpr stem_shape small_stem{.height = 224, .width = 224, .channels = 3, .hidden = 64, .patch = 16, .dim = 384};

using way = cuda::detail::stem_train::project_way;

/// The tensor kernels on a device with that many multiprocessors; Way: of the projection.
template <way Way, class F>
void run_tensor(F& f, int multiprocessors) {
  auto device = f.ctx.device();
  device.multiprocessors = multiprocessors;
  using namespace cuda::detail;
  constexpr stem_shape S = F::shape;
  auto const reader = reader_of<stem::geometry<S>>(static_cast<float const*>(f.picture.data()));
  auto const p = f.parameters.template view<float const>();
  stem_train::forward_tensor<S, Way>(f.ctx, device, reader, p, f.running(), f.grid.data(), f.saved, f.host.batch);
  f.poison_scratch();
  stem_train::backward_tensor<S, Way>(f.ctx, device, reader, p, f.saved,
                                      static_cast<typename F::T const*>(f.dgrid.data()),
                                      f.gradients.template view<float>(), f.host.batch);
}

/// Forward and backward against the oracle in double.
template <class F, way Way = way::warps>
void check_tensor(int batch, int multiprocessors) {
  constexpr double tolerance = 2 * product_tolerance<F::precision>;
  constexpr double raw_tolerance = 2 * product_tolerance<stem_precision<F::precision>>;
  CAPTURE(multiprocessors);
  F f{batch};
  if (!cuda::detail::stem_train::tensor_fits<F::shape>(f.ctx.device(), f.grid.data())) return;
  f.host.forward();
  auto const before = f.gradients.read();
  run_tensor<Way>(f, multiprocessors);
  CHECK(relative_error(f.grid.read(), f.host.grid) < tolerance);
  for (std::size_t i = 0; i < 3; ++i) {
    CAPTURE(i);
    std::vector<double> const want(f.host.saved.raw[i], f.host.saved.raw[i] + f.raw(i).size());
    CHECK(relative_error(f.raw(i), want) < raw_tolerance);
    CHECK(relative_error(f.mean[i].read(), f.host.mean[i]) < raw_tolerance);
    CHECK(relative_error(f.var[i].read(), f.host.var[i]) < raw_tolerance);
  }
  f.adopt_saved();
  f.host.backward();
  auto const got = f.gradients.read();
  auto const want = f.host.grad.all();
  for (std::size_t i = 0; i < got.size(); ++i) {
    CAPTURE(i);
    std::vector<double> added(got[i].size()), sum(got[i].size());
    for (std::size_t k = 0; k < added.size(); ++k)
      added[k] = got[i][k] - before[i][k], sum[k] = (*want[i])[k] - before[i][k];
    CHECK(relative_error(added, sum) < tolerance);
  }
}

}  // namespace

TEST_CASE_TEMPLATE("cuda stem_train on tensor cores: equals the CPU's in double, however many tiles a block has", F,
                   train_stem<wide, precision::bf16>, train_stem<deep, precision::fp16>,
                   train_stem<single, precision::bf16>) {
  for (int const multiprocessors : {1, 3, 132}) check_tensor<F>(3, multiprocessors);
}

// 15 to 297 patches: parts of a step of 64 and of a tile of 192. 64, four and one pixel of a patch.
TEST_CASE_TEMPLATE("cuda stem_train on tensor cores: equals the CPU's with the projection in warpgroups", F,
                   train_stem<wide, precision::bf16>, train_stem<deep, precision::fp16>,
                   train_stem<single, precision::bf16>) {
  for (int const multiprocessors : {1, 3, 132}) check_tensor<F, way::warpgroups>(3, multiprocessors);
  check_tensor<F, way::warpgroups>(1, 3);
}

TEST_CASE_TEMPLATE("cuda stem_train on tensor cores: equals the CPU's in double at the sizes of Tiny and Small [long]",
                   F, train_stem<tiny_stem, precision::bf16>, train_stem<tiny_stem, precision::fp16>,
                   train_stem<small_stem, precision::bf16>) {
  check_tensor<F>(2, 132);
  check_tensor<F, way::warpgroups>(2, 6);
}
