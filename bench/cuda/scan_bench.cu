// The scan of long sequences in chunks: ways to cut a block's work, in turn in one program.
//
//   dm2_cuda_scan_bench            Tiny's and Small's shape at several lengths
//   dm2_cuda_scan_bench --once     each once, without times, for a profiler
//
// Forward: two units a block (what ssd takes), two in joint phases, four in joint phases. Backward: the teams in step
// (what ssd_backward takes), and a phase apart. Results are compared before they are timed.
#include <dm2/core/arena.hpp>
#include <dm2/cuda/ssd.cuh>
#include <dm2/cuda/ssd_backward.cuh>

#include "cuda/device_report.cuh"
#include "cuda/timing.cuh"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace {

using namespace dm2;
using namespace dm2::bench;
namespace room = cuda::detail::ssd;

using T = __nv_bfloat16;
constexpr int rounds = 3;
constexpr mixer_shape tiny{.heads = 8, .headdim = 48, .d_state = 128, .groups = 1, .d_conv = 4};
constexpr mixer_shape small{.heads = 8, .headdim = 96, .d_state = 128, .groups = 1, .d_conv = 4};

/// Relative distance in norm; NaN where there is one.
double distance(std::vector<T> const& got, std::vector<T> const& want) {
  double apart = 0, size = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    double const a = double(cuda::detail::to_float(got[i])), b = double(cuda::detail::to_float(want[i]));
    apart += (a - b) * (a - b), size += b * b;
  }
  return std::sqrt(apart / size);
}

/// Sequences of one shape, and what the kernels write.
template <mixer_shape M>
class scan_case {
  static constexpr int inner = M.d_inner(), states = M.groups * M.d_state;
  template <class U, int N>
  using matrix = rows<U, N, space::device>;

 public:
  scan_case(int sequences, int length)
      : sequences_{sequences}, length_{length}, n_{std::size_t(sequences) * std::size_t(length)} {}

  void measure(char const* name, bool once) {
    compare(name);
    if (once) return;
    std::vector<double> us[7];
    for (int round = 0; round < rounds; ++round) {
      int at = 0;
      auto const time = [&](auto const& work) { us[at++].push_back(median_us(stream_, work)); };
      time([&] { forward<2, false>(); });
      time([&] { forward<2, true>(); });
      time([&] { forward<4, true>(); });
      time([&] { walk(); });
      time([&] { backward<false>(); });
      time([&] { backward<true>(); });
      time([&] { forward<2, true>(), backward<true>(); });
    }
    std::printf("| %s |", name);
    for (auto const& of : us) {
      for (std::size_t i = 0; i < of.size(); ++i) std::printf("%s%.1f", i == 0 ? " " : ", ", of[i]);
      std::printf(" |");
    }
    std::printf("\n");
    std::fflush(stdout);
  }

 private:
  template <int Teams, bool Joint>
  void forward() {
    using traits = room::chunked_traits<room::ssd_sizes<M, T>, Teams, Joint>;
    auto const plan = room::chunked_plan::make<traits>(length_, sequences_, ctx_.device());
    room::arguments<T> const p{x_.data(), b_.data(), c_.data(), dt_.data(), a_.data(), d_.data(), y_.data(), length_};
    arena memory{scratch(), scratch_.size()};
    room::launch_chunked<traits>(p, room::take_runs<traits>(memory, plan, sequences_), plan, sequences_, stream_.get());
  }
  template <bool Staggered>
  void backward() {
    using form = room::backward_chunked<M, T, Staggered>;
    if (Staggered && !form::staggers(ctx_.device())) throw std::runtime_error{"the teams are not apart here"};
    form::launch(operands(), scratch(), ctx_.device(), stream_.get());
  }
  /// The first kernel of the backward alone, as often as the backward launches it.
  void walk() {
    using traits = room::backward_walk_traits<room::backward_chunk_traits<M, T>>;
    constexpr unsigned units = unsigned(traits::units * M.groups);
    int const chunks = (length_ - 1) / room::ssd_tile + 1;
    std::size_t const state = std::size_t(units) * traits::state_bytes, one = 2 * state * std::size_t(chunks),
                      fit = std::max<std::size_t>(1, (512 << 20) / one);
    std::size_t const all = std::size_t(sequences_), slices = (all + fit - 1) / fit;
    int const most = int((all + slices - 1) / slices);
    arena memory{scratch(), scratch_.size()};
    room::backward_chunk_scratch const s{memory, std::size_t(most) * std::size_t(chunks), state, std::size_t(M.heads)};
    auto const kernel = room::backward_walk_kernel<traits>;
    cuda::detail::prefer_shared("walk", kernel);
    for (int first = 0; first < sequences_; first += most)
      cuda::detail::launch(
          "walk", kernel,
          {dim3(unsigned(std::min(most, sequences_ - first)) * units, 2), traits::threads, std::size_t(traits::bytes)},
          stream_.get(), operands(), s, first, chunks);
  }
  [[nodiscard]] room::backward_operands<M, T> operands() const {
    auto const wide = [&](auto const& p) { return matrix<T, inner>{p.data(), n_}; };
    auto const narrow = [&](auto const& p) { return matrix<T, states>{p.data(), n_}; };
    auto const steps = [&](auto const& p) { return matrix<float, M.heads>{p.data(), n_}; };
    auto const each = [&](auto const& p) { return block<float, space::device, M.heads>{p.data()}; };
    cuda::ssd_input<M, T> const in{wide(x_), steps(dt_), each(a_), narrow(b_), narrow(c_), each(d_), length_};
    cuda::ssd_gradient<M, T> const grad{wide(dx_), steps(ddt_), each(da_), narrow(db_), narrow(dc_), each(dd_)};
    auto p = room::operands_of<M, T>(in, dy_.data(), grad, sequences_);
    p.da = sums_.data(), p.d_skip = sums_.data() + sequences_ * M.heads;
    return p;
  }
  [[nodiscard]] std::byte* scratch() const { return reinterpret_cast<std::byte*>(scratch_.data()); }
  [[nodiscard]] std::size_t scratch_bytes() const {
    return room::backward_chunked<M, T>::scratch_bytes(sequences_, length_, ctx_.device()) +
           room::most_chunked_bytes<2, M, T>(length_, sequences_, ctx_.device()) + (std::size_t{64} << 20);
  }

  template <class F>
  [[nodiscard]] std::vector<T> result(random_array<T> const& of, std::size_t n, F const& work) {
    std::vector<T> got(n);
    cuda::check(cudaMemsetAsync(of.data(), 0xff, n * sizeof(T), stream_.get()), "clear");  // NaN
    work();
    stream_.synchronize();
    cuda::check(cudaMemcpy(got.data(), of.data(), n * sizeof(T), cudaMemcpyDeviceToHost), "result");
    return got;
  }
  void compare(char const* name) {
    auto const need = [&](char const* what, double apart) {
      std::printf("%s: %s is %.1e from today's\n", name, what, apart);
      if (!(apart < 1e-3)) throw std::runtime_error{std::string{name} + ": " + what + " differs"};
    };
    auto const y = result(y_, n_ * inner, [&] { forward<2, false>(); });
    need("forward, joint", distance(result(y_, n_ * inner, [&] { forward<2, true>(); }), y));
    need("forward, joint, four", distance(result(y_, n_ * inner, [&] { forward<4, true>(); }), y));
    auto const in_step = [&] { backward<false>(); };
    auto const apart = [&] { backward<true>(); };
    need("dx", distance(result(dx_, n_ * inner, apart), result(dx_, n_ * inner, in_step)));
    need("dB", distance(result(db_, n_ * states, apart), result(db_, n_ * states, in_step)));
    need("dC", distance(result(dc_, n_ * states, apart), result(dc_, n_ * states, in_step)));
  }

  int sequences_, length_;
  std::size_t n_;
  cuda::stream stream_;
  cuda::context<> ctx_{stream_.get()};
  random_array<T> x_{n_ * inner}, b_{n_ * states, 0.1f}, c_{n_ * states, 0.1f}, y_{n_ * inner}, dy_{n_ * inner};
  random_array<T> dx_{n_ * inner}, db_{n_ * states}, dc_{n_ * states};
  random_array<float> dt_{n_ * std::size_t(M.heads), 0.01f, 0.05f}, a_{std::size_t(M.heads), 0.1f, -1.f},
      d_{std::size_t(M.heads)}, ddt_{n_ * std::size_t(M.heads)};
  random_array<float> da_{std::size_t(M.heads)}, dd_{std::size_t(M.heads)},
      sums_{2 * std::size_t(sequences_ * M.heads)};
  cuda::device_memory scratch_{scratch_bytes()};
};

template <mixer_shape M>
void measure(char const* name, int sequences, int length, bool once) {
  scan_case<M>{sequences, length}.measure(name, once);
}

void run(bool once) {
  if (!once) print_device();
  std::puts(
      "| us | forward: two units | joint | joint, four units | backward: walk alone | in step | apart |"
      " joint forward, backward apart |");
  std::puts("|---|---:|---:|---:|---:|---:|---:|---:|");
  measure<tiny>("Tiny, 64 x 3137", 64, 3137, once);
  if (once) return;
  measure<tiny>("Tiny, 16 x 3137", 16, 3137, once);
  measure<tiny>("Tiny, 64 x 785", 64, 785, once);
  measure<tiny>("Tiny, 174 x 577", 174, 577, once);
  measure<small>("Small, 32 x 3137", 32, 3137, once);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::vector<std::string_view> const words(argv + 1, argv + argc);
    if (words.size() > 1 || (words.size() == 1 && words[0] != "--once"))
      throw std::runtime_error{"usage: dm2_cuda_scan_bench [--once]"};
    run(!words.empty());
  } catch (std::exception const& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}
