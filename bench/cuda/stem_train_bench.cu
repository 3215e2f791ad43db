// The stem's training pass, kernel by kernel, at Tiny's size and batch 256 in bf16.
//
//   dm2_cuda_stem_train_bench            times, three medians of each in turn
//   dm2_cuda_stem_train_bench --once     each once, without times, for a profiler
//
// The products of the projection run in two ways: with warps, as stem_forward_train and stem_backward have them, or
// with warpgroups that a thread copies for (stem_train/project_hopper.cuh, project_weights_hopper.cuh and
// project_input_hopper.cuh). Before anything is timed their results are compared, by their norm, and two runs of the
// second way, bit by bit.
//
// A row is a step of the pass with the small kernel that ends its sums. GB and TFLOP are counted from the sizes: 411 MB
// for each plane that is read or written, and the products' multiply-adds twice.
#include <dm2/cuda/stem_train.cuh>

#include "cuda/device_report.cuh"
#include "cuda/kernels/stem_train.cuh"
#include "cuda/timing.cuh"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
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
using way = stem_train::project_way;

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

/// Numbers of the device, as float.
template <class N>
std::vector<float> numbers_at(N const* from, std::size_t count) {
  std::vector<N> there(count);
  cuda::check(cudaMemcpy(there.data(), from, count * sizeof(N), cudaMemcpyDeviceToHost), "read a result");
  std::vector<float> to(count);
  std::transform(there.begin(), there.end(), to.begin(), [](N v) { return cuda::detail::to_float(v); });
  return to;
}

/// The norm of a - b as a part of that of b; not a number where one of them is not finite.
double difference(std::vector<float> const& a, std::vector<float> const& b) {
  double apart = 0, norm = 0;
  for (std::size_t i = 0; i < b.size(); ++i)
    apart += (double(a[i]) - b[i]) * (double(a[i]) - b[i]), norm += double(b[i]) * b[i];
  return std::sqrt(apart / norm);
}

/// Throws where the ways' results are further apart than that part of their norm, or not finite.
void require_near(std::string const& what, std::vector<float> const& got, std::vector<float> const& want, double most) {
  double const apart = difference(got, want);
  std::printf("%s: the ways differ by %.1e of the norm\n", what.c_str(), apart);
  if (!(apart <= most)) throw std::runtime_error{what + ": other numbers"};
}

/// Both passes on memory of their own.
template <stem_shape S>
class passes {
  using cost = costs<S>;
  using reader_type = cuda::detail::planar_reader<cuda::detail::stem::geometry<S>>;

 public:
  /// Every step once, the projection in each way. Throws where ways differ, or a result is not finite.
  passes() {
    forward_.arrange();
    grouped_.template arrange<way::warpgroups>();
    backward_.arrange();
    grouped_backward_.template arrange<way::warpgroups>();
    forward_.first(reader_, running_);
    second();
    third();
    compare("forward: projection", s_.grid.data(), std::size_t(batch) * S.tokens() * S.dim, 1e-3,
            [&]<way W>() { projection<W>(); });
    compare("backward: projection's weights", grad_.proj.data, grad_.proj.size, 1e-4, [&]<way W>() { weights<W>(); });
    compare("backward: patches", d_.dz[0], std::size_t(cost::plane_bytes) / sizeof(T), 1e-3,
            [&]<way W>() { patches<W>(); });
    compare("backward: patches, their means", d_.means, 2 * S.hidden, 1e-3, [&]<way W>() { patches<W>(); });
    for (auto const& s : steps()) s.run();
    stream_.synchronize();
    for (float const v : numbers_at(s_.gradients.data(), s_.numbers))
      if (!(v - v == 0)) throw std::runtime_error{"a parameter's gradient is not finite"};
  }

  /// All steps, in the passes' order.
  std::vector<step> steps() {
    std::vector<step> all;
    auto const add = [&](char const* name, double planes, double flops, std::function<void()> run) {
      all.push_back({name, planes, flops, std::move(run)});
    };
    add("forward: 7 x 7", cost::picture + 1, cost::conv1, [this] { forward_.first(reader_, running_); });
    add("forward: second, 3 x 3", 2, cost::conv3, [this] { second(); });
    add("forward: third, 3 x 3", 2, cost::conv3, [this] { third(); });
    add("forward: projection", 1 + cost::grid, cost::project, [this] { projection<way::warps>(); });
    add("the same, warpgroups", 1 + cost::grid, cost::project, [this] { projection<way::warpgroups>(); });
    add("backward: projection's weights", 1 + cost::grid, cost::project, [this] { weights<way::warps>(); });
    add("the same, warpgroups", 1 + cost::grid, cost::project, [this] { weights<way::warpgroups>(); });
    add("backward: patches", 2 + cost::grid, cost::project, [this] { patches<way::warps>(); });
    add("the same, warpgroups", 2 + cost::grid, cost::project, [this] { patches<way::warpgroups>(); });
    add("backward: third, weights", 4, cost::conv3, [this] { backward_.template weights<2, true>(d_.dz[0], grad_); });
    add("backward: third, input", 3, cost::conv3,
        [this] { backward_.template input<2, true>(d_.dz[0], d_.dz[1], grad_); });
    add("backward: second, weights", 4, cost::conv3, [this] { backward_.template weights<1, false>(d_.dz[1], grad_); });
    add("backward: second, input", 3, cost::conv3,
        [this] { backward_.template input<1, false>(d_.dz[1], d_.dz[0], grad_); });
    add("backward: 7 x 7, weights", cost::picture + 2, cost::conv1,
        [this] { backward_.first_weights(reader_, grad_); });
    return all;
  }
  [[nodiscard]] cuda::stream const& stream() const { return stream_; }

 private:
  void second() const { forward_.template inner<false>(1, order::upwards, running_); }
  void third() const { forward_.template inner<true>(2, order::downwards, running_); }
  template <way W>
  void projection() const {
    (W == way::warps ? forward_ : grouped_).template project<W>(s_.grid.data());
  }
  template <way W>
  void weights() const {
    backward_.template project_weights<W>(s_.dgrid.data(), grad_);
  }
  template <way W>
  void patches() const {
    (W == way::warps ? backward_ : grouped_backward_).template project_input<W>(s_.dgrid.data(), grad_);
  }
  /// Runs a step that writes `to`, or adds to it, in both ways; results start from zeros, and none may stay.
  template <class N, class Run>
  void compare(std::string const& what, N* to, std::size_t count, double most, Run const& run) const {
    auto const with = [&]<way W>() {
      cuda::check(cudaMemsetAsync(to, 0, count * sizeof(N), stream_.get()), "clear a result");
      run.template operator()<W>();
      stream_.synchronize();
      return numbers_at(to, count);
    };
    auto const want = with.template operator()<way::warps>(), got = with.template operator()<way::warpgroups>();
    require_near(what, got, want, most);
    if (with.template operator()<way::warpgroups>() != got)
      throw std::runtime_error{what + ": other bits in a second run"};
  }
  /// The other way's weights, and d_'s planes and means.
  stem_train::tensor_gradients<S, T> shared_planes() {
    stem_train::tensor_gradients<S, T> other{place_, ctx_.device(), batch};
    other.dz = d_.dz, other.means = d_.means;
    return other;
  }
  static std::size_t scratch_bytes(cuda::device_properties const& device) {
    return 2 * planned_bytes<stem_train::tensor_scratch<S, T>>(device, batch) +
           2 * planned_bytes<stem_train::tensor_gradients<S, T>>(device, batch);
  }

  cuda::stream stream_;
  cuda::context<> ctx_{stream_.get()};
  stem_state<S> s_{batch};
  cuda::device_memory memory_{scratch_bytes(ctx_.device())};
  arena place_{memory_.data(), memory_.size()};
  stem_train::tensor_scratch<S, T> scratch_{place_, ctx_.device(), batch};
  stem_train::tensor_scratch<S, T> grouped_scratch_{place_, ctx_.device(), batch};
  stem_train::tensor_gradients<S, T> d_{place_, ctx_.device(), batch};
  stem_train::tensor_gradients<S, T> grouped_gradients_ = shared_planes();
  reader_type reader_{s_.picture.data()};
  stem_parameters<S, float const, space::device> p_ = stem_state<S>::template view<float const>(s_.parameters.data());
  stem_parameters<S, float, space::device> grad_ = stem_state<S>::template view<float>(s_.gradients.data());
  stem_statistics<S, float, space::device> running_ = s_.running();
  using forward_type = stem_train::tensor_forward<S, T, reader_type>;
  forward_type forward_{ctx_.stream(), ctx_.device(), p_, s_.saved, scratch_, batch};
  forward_type grouped_{ctx_.stream(), ctx_.device(),    p_,
                        s_.saved,      grouped_scratch_, batch};  ///< other weights' layout
  using backward_type = stem_train::tensor_backward<S, T, reader_type>;
  backward_type backward_{ctx_.stream(), ctx_.device(), p_, s_.saved, d_, batch};
  backward_type grouped_backward_{ctx_.stream(), ctx_.device(), p_, s_.saved, grouped_gradients_, batch};
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
