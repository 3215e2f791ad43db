// The backward of the mixer's convolutions: one body of code for every channel, and as it was before, in turn.
//
//   dm2_cuda_conv_backward_bench            Tiny and Small, both variants of the mixer
//   dm2_cuda_conv_backward_bench --once     each once, without times, for a profiler
//
// `earlier`: three bodies of code. `three` and `four`: blocks that a multiprocessor holds; mixer_core_backward takes
// conv_backward_resident. Results are compared before they are timed: the projection's gradient to the last bit, the
// parameters' sums to the last bit where as many blocks share them (`three`), else to 1e-5 of their norm.
#include <dm2/cuda/mixer_core_backward.cuh>
#include <dm2/model/config.hpp>

#include "cuda/conv_backward/earlier.cuh"
#include "cuda/device_report.cuh"
#include "cuda/timing.cuh"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace {

using namespace dm2;
using namespace dm2::bench;
namespace core = cuda::detail::mixer_core;

constexpr auto P = cuda::precision::bf16;
using T = cuda::element<P>;
constexpr int rounds = 3;

enum class way { earlier, three, four };
constexpr std::array<way, 3> ways{way::earlier, way::three, way::four};

/// What a way has written: the projection's gradient, and sums over its parts.
struct conv_results {
  std::vector<T> gradient;
  std::vector<double> sums;
};

/// ||a - b|| / ||b||; infinite where one is not finite.
double distance(std::vector<double> const& a, std::vector<double> const& b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) difference += (a[i] - b[i]) * (a[i] - b[i]), norm += b[i] * b[i];
  double const d = std::sqrt(difference / norm);
  return d - d == 0 ? d : INFINITY;
}

template <class N>
std::vector<N> read(N const* from, std::size_t count) {
  std::vector<N> to(count);
  cuda::check(cudaMemcpy(to.data(), from, count * sizeof(N), cudaMemcpyDeviceToHost), "read a result");
  return to;
}

/// A batch of one shape.
template <mixer_shape M>
class conv_case {
  static constexpr int widest = core::backward_plan<M, T>::widest;
  using narrow = core::backward_traits<M, std::min(widest, 2)>;
  using wide = core::backward_traits<M, widest>;
  using shares = core::conv_backward_shares<narrow, wide>;
  static constexpr std::size_t inner = M.d_inner(), states = std::size_t(M.groups) * M.d_state, H = M.heads;
  static constexpr std::size_t channels = M.conv_dim(), of_part = 2 * channels * (M.d_conv + 1);
  static constexpr int most = core::most_conv_parts<narrow, wide>(4);

 public:
  conv_case(int sequences, int length)
      : sequences_{sequences}, length_{length}, n_{std::size_t(sequences) * std::size_t(length)} {}

  /// Times of all ways, `rounds` of each in turn, after a comparison.
  void measure(char const* name, bool once) {
    compare(name);
    if (once) return;
    std::array<std::vector<double>, ways.size()> us;
    for (int round = 0; round < rounds; ++round)
      for (way const w : ways) us[std::size_t(w)].push_back(median_us(stream_, [&] { run(w); }));
    std::printf("| %s |", name);
    for (auto const& of : us) {
      for (std::size_t i = 0; i < of.size(); ++i) std::printf("%s%.1f", i == 0 ? " " : ", ", of[i]);
      std::printf(" |");
    }
    std::printf("\n");
    std::fflush(stdout);
  }

 private:
  [[nodiscard]] core::conv_cut cut(way w) const {
    return core::conv_cut::make(sequences_, length_, M.d_conv,
                                core::most_conv_parts<narrow, wide>(w == way::four ? 4 : 3));
  }
  template <class Operands>
  [[nodiscard]] Operands operands(core::conv_cut const& cut) const {
    auto const of = [](auto const& d) {
      return core::direction_parameters{d.conv.data(), d.bias.data(), d.dt_bias.data(), nullptr, nullptr, nullptr};
    };
    return {.zxbcdt = zxbcdt_.data(),
            .dx = dx_.data(),
            .db = db_.data(),
            .dc = dc_.data(),
            .dzxbcdt = out_.data(),
            .parts = parts_.data(),
            .ddt = ddt_.data(),
            .step_parts = step_parts_.data(),
            .p = {{of(first_), of(second_)}},
            .n = n_,
            .length = length_,
            .sequences = sequences_,
            .runs = cut.runs,
            .run = cut.run};
  }
  template <class Operands>
  void start(void (*kernel)(Operands), core::conv_cut const& cut) {
    cuda::detail::launch("convolution's backward", kernel,
                         {dim3(unsigned(cut.parts), unsigned(shares::blocks)), narrow::threads}, stream_.get(),
                         operands<Operands>(cut));
  }
  void run(way w) {
    if (w == way::earlier) return start(earlier::conv_backward_kernel<narrow, wide, T>, cut(w));
    if (w == way::three) return start(core::conv_backward_kernel<narrow, wide, 3, T>, cut(w));
    start(core::conv_backward_kernel<narrow, wide, 4, T>, cut(w));
  }

  /// What a way makes of the same start.
  conv_results result(char const* name, way w) {
    std::size_t const all = n_ * M.projected(), parts = std::size_t(cut(w).parts);
    cuda::check(cudaMemcpy(out_.data(), held_.data(), all * sizeof(T), cudaMemcpyDeviceToDevice), "reset a result");
    cuda::check(cudaMemset(parts_.data(), 0xff, parts * of_part * sizeof(float)), "clear sums");
    cuda::check(cudaMemset(step_parts_.data(), 0xff, parts * shares::step_warps * 2 * H * sizeof(float)), "clear sums");
    cuda::check(cudaDeviceSynchronize(), "a result's start");
    run(w);
    stream_.synchronize();
    conv_results r{read(out_.data(), all), std::vector<double>(of_part + 2 * H)};
    auto const taps = read(parts_.data(), parts * of_part);
    auto const steps = read(step_parts_.data(), parts * shares::step_warps * 2 * H);
    for (std::size_t i = 0; i < taps.size(); ++i) r.sums[i % of_part] += double(taps[i]);
    for (std::size_t i = 0; i < steps.size(); ++i) r.sums[of_part + i % (2 * H)] += double(steps[i]);
    for (T const v : r.gradient)
      if (float const x = cuda::detail::to_float(v); !(x - x == 0))
        throw std::runtime_error{std::string{name} + ": a result is not finite"};
    if (std::memcmp(r.gradient.data(), read(held_.data(), all).data(), all * sizeof(T)) == 0)
      throw std::runtime_error{std::string{name} + ": nothing was written"};
    return r;
  }
  void compare(char const* name) {
    conv_results const want = result(name, way::earlier);
    for (way const w : {way::three, way::four}) {
      conv_results const got = result(name, w);
      if (std::memcmp(got.gradient.data(), want.gradient.data(), got.gradient.size() * sizeof(T)) != 0)
        throw std::runtime_error{std::string{name} + ": the projection's gradient has other bits"};
      double const d = distance(got.sums, want.sums);
      if (!(d <= (w == way::three ? 0 : 1e-5)))
        throw std::runtime_error{std::string{name} + ": sums differ by " + std::to_string(d * 1e6) + "e-6"};
    }
  }

  /// A direction's parameters, of ordinary sizes.
  struct direction_memory {
    random_array<float> conv{channels * M.d_conv, 0.3f}, bias{channels, 0.1f}, dt_bias{H, 0.5f, -3};
  };
  cuda::stream stream_;
  int sequences_, length_;
  std::size_t n_;
  random_array<T> zxbcdt_{n_ * M.projected()}, held_{n_ * M.projected() + 1}, out_{n_ * M.projected()};
  random_array<T> dx_{2 * n_ * inner}, db_{2 * n_ * states}, dc_{2 * n_ * states + 8};
  random_array<float> ddt_{2 * n_ * H};
  random_array<float> parts_{most * of_part}, step_parts_{std::size_t(most) * shares::step_warps * 2 * H};
  direction_memory first_, second_;
};

constexpr mixer_shape tiny_mixer = sizes<tiny>::mixer;
constexpr mixer_shape small_mixer = sizes<small>::mixer;
constexpr mixer_shape turned(mixer_shape m) {
  m.variant = mixer_variant::bidirectional;
  return m;
}

void run(bool once) {
  if (!once) {
    print_device();
    std::printf("\nconvolution's backward, bf16, us, %d medians each, in turn\n\n", rounds);
    std::printf("| shape | earlier | three | four |\n|---|---:|---:|---:|\n");
  }
  conv_case<tiny_mixer>{256, 197}.measure("Tiny, 256 of 197", once);
  conv_case<tiny_mixer>{64, 197}.measure("Tiny, 64 of 197", once);
  conv_case<small_mixer>{256, 197}.measure("Small, 256 of 197", once);
  conv_case<turned(tiny_mixer)>{256, 197}.measure("Tiny, bidirectional, 256 of 197", once);
  conv_case<turned(tiny_mixer)>{64, 197}.measure("Tiny, bidirectional, 64 of 197", once);
  conv_case<turned(small_mixer)>{256, 197}.measure("Small, bidirectional, 256 of 197", once);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::vector<std::string_view> const words(argv + 1, argv + argc);
    if (words.size() > 1 || (words.size() == 1 && words[0] != "--once"))
      throw std::runtime_error{"usage: dm2_cuda_conv_backward_bench [--once]"};
    run(!words.empty());
  } catch (std::exception const& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}
