// The stem's training pass, kernel by kernel, at Tiny's size and batch 256 in bf16.
//
//   dm2_cuda_stem_train_bench            times, three medians of each in turn
//   dm2_cuda_stem_train_bench --once     each once, without times, for a profiler
//
// A row is a step of the pass with the small kernel that ends its sums. GB and TFLOP are counted from the sizes: 411 MB
// for each plane that is read or written, and the products' multiply-adds twice.
#include <dm2/cuda/stem_train.cuh>

#include "cuda/device_report.cuh"
#include "cuda/kernels/stem_train.cuh"
#include "cuda/timing.cuh"

#include <algorithm>
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
  /// Every step once. Throws where a result is not finite.
  passes() {
    forward_.arrange();
    backward_.arrange();
    for (auto const& s : steps()) s.run();
    stream_.synchronize();
    for (auto const* const plane : s_.saved.raw)
      require_finite<cuda::stem_number<T>>("a convolution's output", bytes_at(plane, std::size_t(cost::plane_bytes)));
    for (T const* const plane : d_.dz)
      require_finite<T>("the gradient of a plane", bytes_at(plane, std::size_t(cost::plane_bytes)));
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
    add("forward: second, 3 x 3", 2, cost::conv3,
        [this] { forward_.template inner<false>(1, order::upwards, running_); });
    add("forward: third, 3 x 3", 2, cost::conv3,
        [this] { forward_.template inner<true>(2, order::downwards, running_); });
    add("forward: projection", 1 + cost::grid, cost::project, [this] { forward_.project(s_.grid.data()); });
    add("backward: projection's weights", 1 + cost::grid, cost::project,
        [this, dgrid] { backward_.project_weights(dgrid, grad_); });
    add("backward: patches", 2 + cost::grid, cost::project, [this, dgrid] { backward_.project_input(dgrid, grad_); });
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
