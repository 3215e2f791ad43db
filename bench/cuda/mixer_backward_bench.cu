// The mixer's backward with the convolution in the scan's kernel and without, in turn in one program.
//
//   dm2_cuda_mixer_backward_bench            Tiny and Small at batch 256, Tiny at fewer sequences, both variants
//   dm2_cuda_mixer_backward_bench --once     each once, without times, for a profiler
//
// `taken` is mixer_core_backward: up to 208 tokens the scan's free warps convolve. `ready`, what it takes for longer
// sequences and for half: a kernel makes x, B and C. Both are compared before they are timed: steps' gradients, which
// are sums in another order, by their norm, all others to the last bit.
#include <dm2/cuda/mixer_core.cuh>
#include <dm2/cuda/mixer_core_backward.cuh>
#include <dm2/model/config.hpp>

#include "cuda/device_report.cuh"
#include "cuda/timing.cuh"

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

constexpr auto P = cuda::precision::bf16;
using T = cuda::element<P>;
constexpr int rounds = 3;

/// A direction's parameters or their gradients, of ordinary sizes.
template <mixer_shape M>
struct direction_memory {
  static constexpr std::size_t inner = M.d_inner(), channels = M.conv_dim(), heads = M.heads;
  random_array<float> conv{channels * M.d_conv, 0.3f}, conv_bias{channels, 0.1f}, dt_bias{heads, 0.5f, -3};
  random_array<float> a_log{heads, 0.5f, 1}, d{heads, 0.1f, 1}, norm{inner, 0.1f, 1};

  template <class N>
  [[nodiscard]] mixer_direction<M, N, space::device> view() const {
    return {block<N, space::device, M.conv_dim(), 1, M.d_conv>{conv.data()},
            block<N, space::device, M.conv_dim()>{conv_bias.data()},
            block<N, space::device, M.heads>{dt_bias.data()},
            block<N, space::device, M.heads>{a_log.data()},
            block<N, space::device, M.heads>{d.data()},
            block<N, space::device, M.d_inner()>{norm.data()}};
  }
};

/// A batch of one shape.
template <mixer_shape M>
class backward_case {
 public:
  backward_case(int sequences, int length) : length_{length}, n_{std::size_t(sequences) * std::size_t(length)} {
    cuda::mixer_core<M>(ctx_, projection(), parameters(), rows<T, 2 * M.d_inner(), space::device>{g_.data(), n_},
                        length_, factors_.data());
    stream_.synchronize();
  }

  /// Times of both ways, `rounds` of each in turn, after a comparison.
  void measure(char const* name, bool once) {
    std::vector<double> us[2];
    auto const ready = result(name, false), taken = result(name, true);
    if (!same(taken, ready))
      throw std::runtime_error{std::string{name} + ": the convolution in the scan's kernel gives other gradients"};
    if (once) return;
    for (int round = 0; round < rounds; ++round)
      for (bool const convolve : {true, false})
        us[convolve ? 0 : 1].push_back(median_us(stream_, [&] { run(convolve); }));
    std::printf("| %s |", name);
    for (auto const& of : us) {
      for (std::size_t i = 0; i < of.size(); ++i) std::printf("%s%.1f", i == 0 ? " " : ", ", of[i]);
      std::printf(" |");
    }
    std::printf("\n");
    std::fflush(stdout);
  }

 private:
  [[nodiscard]] rows<T const, M.projected(), space::device> projection() const { return {zxbcdt_.data(), n_}; }
  [[nodiscard]] mixer_parameters<M, float const, space::device> parameters() const {
    return {first_.template view<float const>(), second_.template view<float const>()};
  }

  /// Whether dzxbcdt has the same bits but for the steps' columns, and those are near.
  static bool same(std::vector<T> const& a, std::vector<T> const& b) {
    using traits = cuda::detail::mixer_core::backward_traits<M, 1>;
    constexpr int width = M.projected(), first = traits::first::dt, second = traits::second::dt;
    double apart = 0, size = 0;
    for (std::size_t i = 0; i < b.size(); ++i) {
      int const column = int(i % std::size_t{width});
      if ((column >= first && column < first + M.heads) || (column >= second && column < second + M.heads)) {
        double const x = cuda::detail::to_float(a[i]), y = cuda::detail::to_float(b[i]);
        apart += (x - y) * (x - y), size += y * y;
      } else if (std::memcmp(&a[i], &b[i], sizeof(T)) != 0) {
        return false;
      }
    }
    return std::sqrt(apart) < 1e-3 * std::sqrt(size);
  }

  void run(bool convolve) {
    using cuda::detail::mixer_core::run_backward;
    run_backward<M>(
        ctx_, projection(), parameters(), rows<T const, 2 * M.d_inner(), space::device>{dg_.data(), n_},
        rows<T, M.projected(), space::device>{dzxbcdt_.data(), n_},
        mixer_parameters<M, float, space::device>{dfirst_.template view<float>(), dsecond_.template view<float>()},
        length_, {rows<T const, 2 * M.d_inner(), space::device>{g_.data(), n_}, factors_.data()}, convolve);
  }
  std::vector<T> result(char const* name, bool convolve) {
    std::size_t const all = n_ * M.projected();
    cuda::check(cudaMemsetAsync(dzxbcdt_.data(), 0xff, all * sizeof(T), stream_.get()), "clear a result");
    run(convolve);
    stream_.synchronize();
    std::vector<T> out(all);
    cuda::check(cudaMemcpy(out.data(), dzxbcdt_.data(), all * sizeof(T), cudaMemcpyDeviceToHost), "read a result");
    for (T const v : out)
      if (float const x = cuda::detail::to_float(v); !(x - x == 0))
        throw std::runtime_error{std::string{name} + ": a result is not finite"};
    return out;
  }

  cuda::stream stream_;
  cuda::context<P> ctx_{stream_.get()};
  int length_;
  std::size_t n_;
  random_array<T> zxbcdt_{n_ * M.projected()}, dg_{n_ * 2 * M.d_inner()}, g_{n_ * 2 * M.d_inner()};
  random_array<T> dzxbcdt_{n_ * M.projected()};
  random_array<float> factors_{n_ * 2 * M.groups};
  direction_memory<M> first_, second_, dfirst_, dsecond_;
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
    std::printf("\nmixer_core_backward, bf16, us, %d medians each, in turn\n\n", rounds);
    std::printf("| shape | taken | ready |\n|---|---:|---:|\n");
  }
  backward_case<tiny_mixer>{256, 197}.measure("Tiny, 256 of 197", once);
  backward_case<tiny_mixer>{264, 208}.measure("Tiny, 264 of 208", once);
  backward_case<tiny_mixer>{256, 145}.measure("Tiny, 256 of 145", once);
  backward_case<tiny_mixer>{64, 197}.measure("Tiny, 64 of 197", once);
  backward_case<tiny_mixer>{16, 197}.measure("Tiny, 16 of 197", once);
  backward_case<tiny_mixer>{1, 197}.measure("Tiny, 1 of 197", once);
  backward_case<turned(tiny_mixer)>{256, 197}.measure("Tiny, bidirectional, 256 of 197", once);
  backward_case<small_mixer>{256, 197}.measure("Small, 256 of 197", once);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::vector<std::string_view> const words(argv + 1, argv + argc);
    if (words.size() > 1 || (words.size() == 1 && words[0] != "--once"))
      throw std::runtime_error{"usage: dm2_cuda_mixer_backward_bench [--once]"};
    run(!words.empty());
  } catch (std::exception const& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}
