#include <doctest/doctest.h>

#include "cuda/stem_train/case.cuh"
#include "cuda/support/precisions.cuh"
#include "support/compare.hpp"

#include <array>
#include <cmath>
#include <cstddef>
#include <vector>

using namespace dm2;
using namespace dm2::test;
using cuda::precision;

namespace {

constexpr stem_shape wide{.height = 48, .width = 80, .channels = 3, .hidden = 64, .patch = 16, .dim = 48};
// Its planes are whole tiles, and patches are as high as one.
constexpr stem_shape whole{.height = 32, .width = 64, .channels = 3, .hidden = 64, .patch = 16, .dim = 8};
constexpr stem_shape deep{.height = 36, .width = 28, .channels = 4, .hidden = 64, .patch = 4, .dim = 200};
constexpr stem_shape single{.height = 18, .width = 22, .channels = 1, .hidden = 64, .patch = 2, .dim = 8};

constexpr stem_shape tiny_stem{.height = 224, .width = 224, .channels = 3, .hidden = 64, .patch = 16, .dim = 192};
constexpr stem_shape small_stem{.height = 224, .width = 224, .channels = 3, .hidden = 64, .patch = 16, .dim = 384};

using way = cuda::detail::stem_train::conv3_way;

/// The tensor kernels on a device with that many multiprocessors; Way: of the gradients of the 3 x 3 weights.
template <way Way, class F>
void run_tensor(F& f, int multiprocessors) {
  auto device = f.ctx.device();
  device.multiprocessors = multiprocessors;
  using namespace cuda::detail;
  constexpr stem_shape S = F::shape;
  auto const reader = reader_of<stem::geometry<S>>(static_cast<float const*>(f.picture.data()));
  auto const p = f.parameters.template view<float const>();
  stem_train::forward_tensor<S>(f.ctx, device, reader, p, f.running(), f.grid.data(), f.saved, f.host.batch);
  f.poison_scratch();
  stem_train::backward_tensor<S, Way>(f.ctx, device, reader, p, f.saved,
                                      static_cast<typename F::T const*>(f.dgrid.data()),
                                      f.gradients.template view<float>(), f.host.batch);
}

/// Forward and backward against the oracle in double.
template <class F, way Way = way::together>
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

/// Both passes, step by step.
template <class F>
class step_by_step {
  static constexpr stem_shape S = F::shape;
  using T = typename F::T;
  using first_way = cuda::detail::stem_train::conv1_way;
  using reader_type = cuda::detail::planar_reader<cuda::detail::stem::geometry<S>>;
  using scratch_type = cuda::detail::stem_train::tensor_scratch<S, T>;
  using gradients_type = cuda::detail::stem_train::tensor_gradients<S, T>;

 public:
  step_by_step(F& f, int multiprocessors) : f_{f}, device_{f.ctx.device()} {
    device_.multiprocessors = multiprocessors;
    memory_ = cuda::device_memory{planned_bytes<scratch_type>(device_, f.host.batch) +
                                  planned_bytes<gradients_type>(device_, f.host.batch)};
    cuda::check(cudaMemset(memory_.data(), 0xff, memory_.size()), "poison");
  }

  /// The ways of every convolution: each plane has the same bits, its sums are near.
  void compare() {
    using cuda::detail::stem_train::tile_order;
    arena place{memory_.data(), memory_.size()};
    scratch_type const scratch{place, device_, f_.host.batch};
    gradients_type const d{place, device_, f_.host.batch};
    auto const p = f_.parameters.template view<float const>();
    auto const grad = f_.gradients.template view<float>();
    cuda::detail::stem_train::tensor_forward<S, T, reader_type> const forward{f_.ctx.stream(), device_, p,
                                                                              f_.saved,        scratch, f_.host.batch};
    cuda::detail::stem_train::tensor_backward<S, T, reader_type> const backward{
        f_.ctx.stream(), device_, p, f_.saved, d, f_.host.batch};
    reader_type const reader{f_.picture.data()};
    forward.arrange();
    backward.arrange();
    check_first([&]<first_way W>() { forward.template first<W>(reader, f_.running()); });
    check(f_.saved.raw[1], {f_.saved.mean[1], f_.saved.rstd[1]},
          [&]<way W>() { forward.template inner<false, W>(1, tile_order::upwards, f_.running()); });
    check(f_.saved.raw[2], {f_.saved.mean[2], f_.saved.rstd[2]},
          [&]<way W>() { forward.template inner<true, W>(2, tile_order::downwards, f_.running()); });
    backward.project_input(f_.dgrid.data(), grad);
    check_weights(d.dz[0], grad.conv[1].data, [&]<way W>() { backward.template weights<2, true, W>(d.dz[0], grad); });
    check(d.dz[1], {d.means, d.means + S.hidden},
          [&]<way W>() { backward.template input<2, true, W>(d.dz[0], d.dz[1], grad); });
    check_weights(d.dz[1], grad.conv[0].data, [&]<way W>() { backward.template weights<1, false, W>(d.dz[1], grad); });
    check(d.dz[0], {d.means, d.means + S.hidden},
          [&]<way W>() { backward.template input<1, false, W>(d.dz[1], d.dz[0], grad); });
  }

 private:
  template <class N>
  static std::vector<double> read(N const* from, std::size_t n) {
    std::vector<N> there(n);
    cuda::check(cudaDeviceSynchronize(), "the work before");
    cuda::check(cudaMemcpy(there.data(), from, n * sizeof(N), cudaMemcpyDeviceToHost), "read");
    std::vector<double> numbers(n);
    for (std::size_t i = 0; i < n; ++i) numbers[i] = double(cuda::detail::to_float(there[i]));
    return numbers;
  }
  using numbers = std::array<std::vector<double>, 3>;  ///< a plane, and what comes of its two sums
  template <class N, class Run>
  numbers result(N* to, std::array<float const*, 2> sums, Run const& run) const {
    std::size_t const n = std::size_t(f_.host.batch) * cuda::stem_saved<S, T>::plane;
    cuda::check(cudaMemset(to, 0xff, n * sizeof(N)), "poison");
    run();
    return {read(to, n), read(sums[0], S.hidden), read(sums[1], S.hidden)};
  }
  static void check_same(numbers const& got, numbers const& want, double tolerance) {
    CHECK(got[0] == want[0]);
    for (std::size_t i = 1; i < 3; ++i) CHECK(relative_error(got[i], want[i]) <= tolerance);
  }
  template <class N, class Run>
  void check(N* to, std::array<float const*, 2> sums, Run const& run) const {
    auto const with = [&]<way W>() { return result(to, sums, [&] { run.template operator()<W>(); }); };
    numbers const want = with.template operator()<way::together>();
    check_same(with.template operator()<way::one_loads>(), want, 1e-5);
    check_same(with.template operator()<way::two_load>(), want, 1e-5);
    check_same(with.template operator()<way::in_turn>(), want, 1e-5);
  }
  /// The first convolution's ways add their sums in the same order.
  template <class Run>
  void check_first(Run const& run) const {
    auto const with = [&]<first_way W>() {
      return result(f_.saved.raw[0], {f_.saved.mean[0], f_.saved.rstd[0]}, [&] { run.template operator()<W>(); });
    };
    numbers const want = with.template operator()<first_way::pixel_by_pixel>();
    check_same(with.template operator()<first_way::at_once>(), want, 0);
    check_same(with.template operator()<first_way::ahead>(), want, 0);
  }
  /// The gradients of weights that `run` adds to dw are near each other, and what it leaves in dz has the same bits.
  template <class Run>
  void check_weights(T* dz, float* dw, Run const& run) const {
    std::size_t const n = std::size_t(f_.host.batch) * cuda::stem_saved<S, T>::plane, weights = 9 * S.hidden * S.hidden;
    std::vector<T> before(n);
    cuda::check(cudaDeviceSynchronize(), "the work before");
    cuda::check(cudaMemcpy(before.data(), dz, n * sizeof(T), cudaMemcpyDeviceToHost), "read");
    auto const with = [&]<way W>() {
      cuda::check(cudaMemcpy(dz, before.data(), n * sizeof(T), cudaMemcpyHostToDevice), "write");
      cuda::check(cudaMemset(dw, 0, weights * sizeof(float)), "sums from nothing");
      run.template operator()<W>();
      return std::array{read(dz, n), read(dw, weights)};
    };
    auto const want = with.template operator()<way::together>(), got = with.template operator()<way::one_loads>();
    CHECK(got[0] == want[0]);
    CHECK(relative_error(got[1], want[1]) < 1e-5);
  }

  F& f_;
  cuda::device_properties device_;
  cuda::device_memory memory_;
};

}  // namespace

TEST_CASE_TEMPLATE("cuda stem_train on tensor cores: ways of a convolution change no bit of a plane", F,
                   train_stem<wide, precision::bf16>, train_stem<deep, precision::fp16>,
                   train_stem<single, precision::bf16>, train_stem<whole, precision::bf16>) {
  for (int const multiprocessors : {1, 3, 132}) {
    CAPTURE(multiprocessors);
    F f{3};
    if (!cuda::detail::stem_train::tensor_fits<F::shape>(f.ctx.device(), f.grid.data())) continue;
    step_by_step<F>{f, multiprocessors}.compare();
  }
}

TEST_CASE_TEMPLATE("cuda stem_train on tensor cores: equals the CPU's in double, however many tiles a block has", F,
                   train_stem<wide, precision::bf16>, train_stem<deep, precision::fp16>,
                   train_stem<single, precision::bf16>) {
  for (int const multiprocessors : {1, 3, 132}) check_tensor<F>(3, multiprocessors);
}

TEST_CASE_TEMPLATE("cuda stem_train on tensor cores: gradients equal the CPU's with a warpgroup that loads", F,
                   train_stem<wide, precision::bf16>, train_stem<deep, precision::fp16>,
                   train_stem<single, precision::bf16>, train_stem<whole, precision::bf16>) {
  for (int const multiprocessors : {1, 3, 132}) check_tensor<F, way::one_loads>(3, multiprocessors);
}

TEST_CASE_TEMPLATE("cuda stem_train on tensor cores: equals the CPU's in double at the sizes of Tiny and Small [long]",
                   F, train_stem<tiny_stem, precision::bf16>, train_stem<tiny_stem, precision::fp16>,
                   train_stem<small_stem, precision::bf16>) {
  check_tensor<F>(2, 132);
}
