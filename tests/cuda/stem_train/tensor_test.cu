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

/// Compute capability 9 has kernels of its own; they are not there in code for another one.
constexpr int capabilities[] = {9, 8};

/// A device as F's, with that many multiprocessors and of that compute capability.
template <class F>
cuda::device_properties device_of(F& f, int multiprocessors, int capability) {
  auto device = f.ctx.device();
  device.multiprocessors = multiprocessors, device.major = capability;
  return device;
}

using way = cuda::detail::stem_train::project_way;

/// The tensor kernels on a device; Way: of the projection.
template <way Way, class F>
void run_tensor(F& f, cuda::device_properties const& device) {
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
void check_tensor(int batch, int multiprocessors, int capability) {
  constexpr double tolerance = 2 * product_tolerance<F::precision>;
  constexpr double raw_tolerance = 2 * product_tolerance<stem_precision<F::precision>>;
  CAPTURE(multiprocessors);
  CAPTURE(capability);
  F f{batch};
  if (!cuda::detail::stem_train::tensor_fits<F::shape>(f.ctx.device(), f.grid.data())) return;
  f.host.forward();
  auto const before = f.gradients.read();
  run_tensor<Way>(f, device_of(f, multiprocessors, capability));
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

/// The backward's steps up to the second convolution's weights.
template <class F>
class weights_steps {
  static constexpr stem_shape S = F::shape;
  using T = typename F::T;
  using reader_type = cuda::detail::planar_reader<cuda::detail::stem::geometry<S>>;
  using gradients_type = cuda::detail::stem_train::tensor_gradients<S, T>;
  using backward_type = cuda::detail::stem_train::tensor_backward<S, T, reader_type>;

 public:
  /// After a forward.
  weights_steps(F& f, int multiprocessors)
      : f_{f},
        devices_{device_of(f, multiprocessors, capabilities[0]), device_of(f, multiprocessors, capabilities[1])},
        memory_{planned_bytes<gradients_type>(devices_[0], f.host.batch)} {
    cuda::check(cudaMemset(memory_.data(), 0xff, memory_.size()), "poison");
  }

  /// Both convolutions' weights, each by the kernels of every capability from the same dz.
  void compare() {
    arena place{memory_.data(), memory_.size()};
    gradients_type const d{place, devices_[0], f_.host.batch};
    auto const p = f_.parameters.template view<float const>();
    auto const grad = f_.gradients.template view<float>();
    backward_type const hopper{f_.ctx.stream(), devices_[0], p, f_.saved, d, f_.host.batch};
    backward_type const other{f_.ctx.stream(), devices_[1], p, f_.saved, d, f_.host.batch};
    hopper.arrange();
    hopper.project_input(f_.dgrid.data(), grad);
    check(
        d.dz[0], grad.conv[1].data, [&] { hopper.template weights<2, true>(d.dz[0], grad); },
        [&] { other.template weights<2, true>(d.dz[0], grad); });
    hopper.template input<2, true>(d.dz[0], d.dz[1], grad);
    check(
        d.dz[1], grad.conv[0].data, [&] { hopper.template weights<1, false>(d.dz[1], grad); },
        [&] { other.template weights<1, false>(d.dz[1], grad); });
  }

 private:
  template <class N>
  static std::vector<N> read(N const* from, std::size_t n) {
    std::vector<N> there(n);
    cuda::check(cudaDeviceSynchronize(), "the work before");
    cuda::check(cudaMemcpy(there.data(), from, n * sizeof(N), cudaMemcpyDeviceToHost), "read");
    return there;
  }
  template <class N>
  static std::vector<double> numbers(N const* from, std::size_t n) {
    std::vector<double> v;
    for (N const& x : read(from, n)) v.push_back(double(cuda::detail::to_float(x)));
    return v;
  }
  /// What the runs add to dw is near each other, and what they leave in dz has the same bits.
  template <class Run, class Other>
  void check(T* dz, float* dw, Run const& run, Other const& other) const {
    std::size_t const n = std::size_t(f_.host.batch) * cuda::stem_saved<S, T>::plane, weights = 9 * S.hidden * S.hidden;
    std::vector<T> const before = read(dz, n);
    auto const result = [&](auto const& work) {
      cuda::check(cudaMemcpy(dz, before.data(), n * sizeof(T), cudaMemcpyHostToDevice), "write");
      cuda::check(cudaMemset(dw, 0, weights * sizeof(float)), "sums from nothing");
      work();
      return std::array{numbers(dz, n), numbers(dw, weights)};
    };
    auto const want = result(other), got = result(run);
    CHECK(got[0] == want[0]);
    CHECK(relative_error(got[1], want[1]) < 1e-5);
  }

  F& f_;
  std::array<cuda::device_properties, 2> devices_;
  cuda::device_memory memory_;
};

}  // namespace

TEST_CASE_TEMPLATE("cuda stem_train on tensor cores: equals the CPU's in double, however many tiles a block has", F,
                   train_stem<wide, precision::bf16>, train_stem<deep, precision::fp16>,
                   train_stem<single, precision::bf16>, train_stem<whole, precision::bf16>) {
  for (int const capability : capabilities)
    for (int const multiprocessors : {1, 3, 132}) check_tensor<F>(3, multiprocessors, capability);
}

TEST_CASE_TEMPLATE("cuda stem_train on tensor cores: either kernel of the 3 x 3 weights leaves the same bits in dz", F,
                   train_stem<wide, precision::bf16>, train_stem<deep, precision::fp16>,
                   train_stem<single, precision::bf16>, train_stem<whole, precision::bf16>) {
  for (int const multiprocessors : {1, 3, 132}) {
    CAPTURE(multiprocessors);
    F f{3};
    if (!cuda::detail::stem_train::tensor_fits<F::shape>(f.ctx.device(), f.grid.data())) continue;
    f.forward();
    weights_steps<F>{f, multiprocessors}.compare();
  }
}

// 15 to 297 patches: parts of a step of 64 and of a tile of 192. 64, four and one pixel of a patch.
TEST_CASE_TEMPLATE("cuda stem_train on tensor cores: equals the CPU's with the projection in warpgroups", F,
                   train_stem<wide, precision::bf16>, train_stem<deep, precision::fp16>,
                   train_stem<single, precision::bf16>) {
  for (int const multiprocessors : {1, 3, 132}) check_tensor<F, way::warpgroups>(3, multiprocessors, capabilities[0]);
  check_tensor<F, way::warpgroups>(1, 3, capabilities[0]);
}

TEST_CASE_TEMPLATE("cuda stem_train on tensor cores: equals the CPU's in double at the sizes of Tiny and Small [long]",
                   F, train_stem<tiny_stem, precision::bf16>, train_stem<tiny_stem, precision::fp16>,
                   train_stem<small_stem, precision::bf16>) {
  check_tensor<F>(2, 132, capabilities[0]);
  check_tensor<F, way::warpgroups>(2, 6, capabilities[0]);
}
