// The stem's training pass, kernel by kernel, at Tiny's size and batch 256 in bf16.
//
//   dm2_cuda_stem_train_bench            times, three medians of each in turn
//   dm2_cuda_stem_train_bench --once     each once, without times, for a profiler
//
// The 3 x 3 convolutions and the gradients of their inputs run in four ways: each warpgroup does all of the work, as
// stem_forward_train and stem_backward have it, or one or two of four only load, and the others multiply as they can or
// in turn (stem_train/conv3_split.cuh). The gradients of their weights run in two: all warps do all of the work, or one
// warpgroup of four loads (stem_train/conv3_weights_split.cuh). The 7 x 7 convolution reads pictures and stores in
// three ways (stem_train/conv1.cuh). Before anything is timed planes are compared, to the last bit, and the weights'
// gradients, by their norm.
//
// A row is a step of the pass with the small kernel that ends its sums. GB and TFLOP are counted from the sizes: 411 MB
// for each plane that is read or written, and the products' multiply-adds twice.
#include <dm2/cuda/stem_train.cuh>

#include "cuda/device_report.cuh"
#include "cuda/kernels/stem_train.cuh"
#include "cuda/timing.cuh"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

using namespace dm2;
using namespace dm2::bench;
namespace stem_train = dm2::cuda::detail::stem_train;

constexpr int batch = 256, rounds = 3;
using T = cuda::element<cuda::precision::bf16>;
using order = stem_train::tile_order;
using way = stem_train::conv3_way;
using first_way = stem_train::conv1_way;

/// What the steps cost.
template <stem_shape S>
struct costs {
  using G = cuda::detail::stem::geometry<S>;
  static constexpr double pixels = 1.0 * batch * G::plane_pixels, plane_bytes = 2 * pixels * S.hidden;
  static constexpr double conv1 = 2 * pixels * S.hidden * 49 * S.channels, conv3 = 2 * pixels * S.hidden * 9 * S.hidden;
  static constexpr double project = 2.0 * batch * S.tokens() * G::depth * S.dim;
  static constexpr double picture = 4.0 * batch * S.channels * S.height * S.width / plane_bytes;  ///< planes, of floats
  static constexpr double grid = 2.0 * batch * S.tokens() * S.dim / plane_bytes;
};

/// A step of a pass.
struct step {
  std::string name;
  double planes, flops;
  std::function<void()> run;
  std::vector<double> us = {};
};

/// Bytes of the device.
std::vector<unsigned char> bytes_at(void const* from, std::size_t bytes) {
  std::vector<unsigned char> to(bytes);
  cuda::check(cudaMemcpy(to.data(), from, bytes, cudaMemcpyDeviceToHost), "read a result");
  return to;
}

std::vector<float> floats_at(float const* from, std::size_t count) {
  std::vector<float> to(count);
  cuda::check(cudaMemcpy(to.data(), from, count * sizeof(float), cudaMemcpyDeviceToHost), "read sums");
  return to;
}

/// The norm of a - b as a part of that of b.
double difference(std::vector<float> const& a, std::vector<float> const& b) {
  double apart = 0, norm = 0;
  for (std::size_t i = 0; i < b.size(); ++i)
    apart += (double(a[i]) - b[i]) * (double(a[i]) - b[i]), norm += double(b[i]) * b[i];
  return std::sqrt(apart / norm);
}

/// Throws where one of the numbers is not finite.
template <class N>
void require_finite(std::string const& what, std::vector<unsigned char> const& bytes) {
  for (std::size_t at = 0; at < bytes.size(); at += sizeof(N)) {
    N v;
    std::memcpy(&v, bytes.data() + at, sizeof v);
    if (float const x = cuda::detail::to_float(v); !(x - x == 0))
      throw std::runtime_error{what + ": a number is not finite"};
  }
}

/// Both passes on memory of their own.
template <stem_shape S>
class passes {
  using cost = costs<S>;
  using reader_type = cuda::detail::planar_reader<cuda::detail::stem::geometry<S>>;

 public:
  /// Every step once, the 3 x 3 convolutions in each way. Throws where ways differ, or a result is not finite.
  passes() {
    T const* const dgrid = s_.dgrid.data();
    forward_.arrange();
    backward_.arrange();
    compare_first();
    compare("forward, second", s_.saved.raw[1], {s_.saved.mean[1], s_.saved.rstd[1]}, [&]<way W>() { second<W>(); });
    compare("forward, third", s_.saved.raw[2], {s_.saved.mean[2], s_.saved.rstd[2]}, [&]<way W>() { third<W>(); });
    forward_.project(s_.grid.data());
    backward_.project_weights(dgrid, grad_);
    backward_.project_input(dgrid, grad_);
    compare_weights("backward, third weights", d_.dz[0], grad_.conv[1].data, [&]<way W>() { third_weights<W>(); });
    compare("backward, third", d_.dz[1], {d_.means, d_.means + S.hidden}, [&]<way W>() { third_input<W>(); });
    compare_weights("backward, second weights", d_.dz[1], grad_.conv[0].data, [&]<way W>() { second_weights<W>(); });
    compare("backward, second", d_.dz[0], {d_.means, d_.means + S.hidden}, [&]<way W>() { second_input<W>(); });
    backward_.first_weights(reader_, grad_);
    stream_.synchronize();
    require_finite<T>("the grid", bytes_at(s_.grid.data(), std::size_t(cost::grid * cost::plane_bytes)));
    require_finite<float>("the weights' gradients", bytes_at(s_.gradients.data(), s_.numbers * sizeof(float)));
  }

  /// All steps, in the passes' order.
  std::vector<step> steps() {
    std::vector<step> all;
    auto const add = [&](char const* name, double planes, double flops, std::function<void()> run) {
      all.push_back({name, planes, flops, std::move(run)});
    };
    T const* const dgrid = s_.dgrid.data();
    add("forward: 7 x 7", cost::picture + 1, cost::conv1, [this] { forward_.first(reader_, running_); });
    add("the same, a tile's pixels read at once, whole stores", cost::picture + 1, cost::conv1,
        [this] { forward_.template first<first_way::at_once>(reader_, running_); });
    add("the same, the next tile's pixels read ahead", cost::picture + 1, cost::conv1,
        [this] { forward_.template first<first_way::ahead>(reader_, running_); });
    add("forward: second, 3 x 3", 2, cost::conv3, [this] { second<way::together>(); });
    add("the same, one warpgroup of four loads", 2, cost::conv3, [this] { second<way::one_loads>(); });
    add("the same, two load", 2, cost::conv3, [this] { second<way::two_load>(); });
    add("the same, two load, the others multiply in turn", 2, cost::conv3, [this] { second<way::in_turn>(); });
    add("forward: third, 3 x 3", 2, cost::conv3, [this] { third<way::together>(); });
    add("the same, one loads", 2, cost::conv3, [this] { third<way::one_loads>(); });
    add("the same, two load", 2, cost::conv3, [this] { third<way::two_load>(); });
    add("the same, two load, the others multiply in turn", 2, cost::conv3, [this] { third<way::in_turn>(); });
    add("forward: projection", 1 + cost::grid, cost::project, [this] { forward_.project(s_.grid.data()); });
    add("backward: projection's weights", 1 + cost::grid, cost::project,
        [this, dgrid] { backward_.project_weights(dgrid, grad_); });
    add("backward: patches", 2 + cost::grid, cost::project, [this, dgrid] { backward_.project_input(dgrid, grad_); });
    add("backward: third, weights", 4, cost::conv3, [this] { third_weights<way::together>(); });
    add("the same, one warpgroup of four loads", 4, cost::conv3, [this] { third_weights<way::one_loads>(); });
    add("backward: third, input", 3, cost::conv3, [this] { third_input<way::together>(); });
    add("the same, one loads", 3, cost::conv3, [this] { third_input<way::one_loads>(); });
    add("the same, two load", 3, cost::conv3, [this] { third_input<way::two_load>(); });
    add("the same, two load, the others multiply in turn", 3, cost::conv3, [this] { third_input<way::in_turn>(); });
    add("backward: second, weights", 4, cost::conv3, [this] { second_weights<way::together>(); });
    add("the same, one warpgroup of four loads", 4, cost::conv3, [this] { second_weights<way::one_loads>(); });
    add("backward: second, input", 3, cost::conv3, [this] { second_input<way::together>(); });
    add("the same, one loads", 3, cost::conv3, [this] { second_input<way::one_loads>(); });
    add("the same, two load", 3, cost::conv3, [this] { second_input<way::two_load>(); });
    add("the same, two load, the others multiply in turn", 3, cost::conv3, [this] { second_input<way::in_turn>(); });
    add("backward: 7 x 7, weights", cost::picture + 2, cost::conv1,
        [this] { backward_.first_weights(reader_, grad_); });
    return all;
  }
  [[nodiscard]] cuda::stream const& stream() const { return stream_; }

 private:
  static constexpr std::size_t plane = std::size_t(cost::plane_bytes);

  template <way W>
  void second() const {
    forward_.template inner<false, W>(1, order::upwards, running_);
  }
  template <way W>
  void third() const {
    forward_.template inner<true, W>(2, order::downwards, running_);
  }
  template <way W>
  void third_weights() const {
    backward_.template weights<2, true, W>(d_.dz[0], grad_);
  }
  template <way W>
  void second_weights() const {
    backward_.template weights<1, false, W>(d_.dz[1], grad_);
  }
  template <way W>
  void third_input() const {
    backward_.template input<2, true, W>(d_.dz[0], d_.dz[1], grad_);
  }
  template <way W>
  void second_input() const {
    backward_.template input<1, false, W>(d_.dz[1], d_.dz[0], grad_);
  }

  /// What a step leaves: the plane that it writes, and the numbers of [hidden] that come of its sums.
  struct result {
    std::vector<unsigned char> plane;
    std::array<std::vector<float>, 2> sums;
  };
  template <class N, class Run>
  result result_of(N* to, std::array<float const*, 2> sums, Run const& run) const {
    cuda::check(cudaMemsetAsync(to, 0xff, plane, stream_.get()), "clear a plane");
    run();
    stream_.synchronize();
    return {bytes_at(to, plane), {floats_at(sums[0], S.hidden), floats_at(sums[1], S.hidden)}};
  }
  /// The plane has to have the same bits; the sums, which may be added in another order, are to differ by 1e-4 of their
  /// norm at most.
  static void require_same(std::string const& what, result const& got, result const& want) {
    if (got.plane != want.plane) throw std::runtime_error{what + ": other bits"};
    for (std::size_t i = 0; i < 2; ++i)
      if (!(difference(got.sums[i], want.sums[i]) < 1e-4)) throw std::runtime_error{what + ": other sums"};
  }
  /// Runs a step in each way.
  template <class N, class Run>
  void compare(std::string const& what, N* to, std::array<float const*, 2> sums, Run const& run) const {
    result const want = result_of(to, sums, [&] { run.template operator()<way::together>(); });
    require_finite<N>(what, want.plane);
    require_same(what, result_of(to, sums, [&] { run.template operator()<way::one_loads>(); }), want);
    require_same(what, result_of(to, sums, [&] { run.template operator()<way::two_load>(); }), want);
    require_same(what, result_of(to, sums, [&] { run.template operator()<way::in_turn>(); }), want);
  }
  /// The same for the first convolution.
  void compare_first() const {
    std::array<float const*, 2> const sums{s_.saved.mean[0], s_.saved.rstd[0]};
    auto const run = [&]<first_way W>() {
      return result_of(s_.saved.raw[0], sums, [&] { forward_.template first<W>(reader_, running_); });
    };
    result const want = run.template operator()<first_way::pixel_by_pixel>();
    require_finite<cuda::stem_number<T>>("forward, first", want.plane);
    require_same("forward, first", run.template operator()<first_way::at_once>(), want);
    require_same("forward, first", run.template operator()<first_way::ahead>(), want);
  }
  /// Runs the step of a convolution's weights in each way, from the same dz: what it leaves there has to have the same
  /// bits, and what it adds to dw, up to 25,088 tiles in other instructions, may differ by 1e-4 of its norm.
  template <class Run>
  void compare_weights(std::string const& what, T* dz, float* dw, Run const& run) const {
    constexpr std::size_t weights = 9 * S.hidden * S.hidden;
    stream_.synchronize();
    auto const before = bytes_at(dz, plane);
    auto const with = [&]<way W>() {
      cuda::check(cudaMemcpyAsync(dz, before.data(), plane, cudaMemcpyHostToDevice, stream_.get()), "put dz back");
      cuda::check(cudaMemsetAsync(dw, 0, weights * sizeof(float), stream_.get()), "clear sums");
      run.template operator()<W>();
      stream_.synchronize();
      return std::pair{bytes_at(dz, plane), floats_at(dw, weights)};
    };
    auto const want = with.template operator()<way::together>(), got = with.template operator()<way::one_loads>();
    require_finite<T>(what, want.first);
    if (got.first != want.first) throw std::runtime_error{what + ": other bits"};
    double const apart = difference(got.second, want.second);
    if (!(apart < 1e-4)) throw std::runtime_error{what + ": other sums, " + std::to_string(apart) + " of their norm"};
  }
  static std::size_t scratch_bytes(cuda::device_properties const& device) {
    return planned_bytes<stem_train::tensor_scratch<S, T>>(device, batch) +
           planned_bytes<stem_train::tensor_gradients<S, T>>(device, batch);
  }

  cuda::stream stream_;
  cuda::context<> ctx_{stream_.get()};
  stem_state<S> s_{batch};
  cuda::device_memory memory_{scratch_bytes(ctx_.device())};
  arena place_{memory_.data(), memory_.size()};
  stem_train::tensor_scratch<S, T> scratch_{place_, ctx_.device(), batch};
  stem_train::tensor_gradients<S, T> d_{place_, ctx_.device(), batch};
  reader_type reader_{s_.picture.data()};
  stem_parameters<S, float const, space::device> p_ = stem_state<S>::template view<float const>(s_.parameters.data());
  stem_parameters<S, float, space::device> grad_ = stem_state<S>::template view<float>(s_.gradients.data());
  stem_statistics<S, float, space::device> running_ = s_.running();
  stem_train::tensor_forward<S, T, reader_type> forward_{ctx_.stream(), ctx_.device(), p_, s_.saved, scratch_, batch};
  stem_train::tensor_backward<S, T, reader_type> backward_{ctx_.stream(), ctx_.device(), p_, s_.saved, d_, batch};
};

constexpr stem_shape tiny_stem{.height = 224, .width = 224, .channels = 3, .hidden = 64, .patch = 16, .dim = 192};

void print(step const& s) {
  std::vector<double> us = s.us;
  std::nth_element(us.begin(), us.begin() + us.size() / 2, us.end());
  double const middle = us[us.size() / 2], bytes = s.planes * costs<tiny_stem>::plane_bytes;
  std::printf("| %s |", s.name.c_str());
  for (std::size_t i = 0; i < s.us.size(); ++i) std::printf("%s%.1f", i == 0 ? " " : ", ", s.us[i]);
  std::printf(" | %.3f | %.2f | %.1f | %.0f |\n", bytes / 1e9, bytes / middle / 1e6, s.flops / 1e9,
              s.flops / middle / 1e6);
}

void run(bool once) {
  if (!once) print_device();
  passes<tiny_stem> p;  // runs and checks each step
  if (once) return;
  std::printf("The stem in training, Tiny, %d pictures of 224 x 224, bf16: us, %d medians each, in turn\n\n", batch,
              rounds);
  std::printf("| step | us | GB | TB/s | GFLOP | TFLOP/s |\n|---|---:|---:|---:|---:|---:|\n");
  auto all = p.steps();
  for (int round = 0; round < rounds; ++round)
    for (auto& s : all) s.us.push_back(median_us(p.stream(), s.run));
  for (auto const& s : all) print(s);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::vector<std::string_view> const words(argv + 1, argv + argc);
    if (words.size() > 1 || (words.size() == 1 && words[0] != "--once"))
      throw std::runtime_error{"usage: dm2_cuda_stem_train_bench [--once]"};
    run(!words.empty());
  } catch (std::exception const& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}
