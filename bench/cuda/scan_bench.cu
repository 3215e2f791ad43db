// The scan of long sequences in chunks: the forward's kernels, and ways to cut its backward up.
//
//   dm2_cuda_scan_bench            Tiny's and Small's shape at several lengths
//   dm2_cuda_scan_bench --once     each way once, without times, for a profiler
//
// The forward's kernels are chunked.cuh's with four units a block and a Hopper's; their results are compared before
// they are timed. The walk is the first of the backward's kernels alone, which leaves the states between chunks. Ways
// of the backward: slices of sequences walked by themselves, two or four units a block; or beside the chunks of the
// slice before, as many sequences as there are multiprocessors for; early: a launch may start before the one ahead has
// ended. Each way's gradients are compared with the first's, bit for bit, before anything is timed.
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
using cuda::has_early_starts;
namespace room = cuda::detail::ssd;

using T = __nv_bfloat16;
constexpr int rounds = 3;
constexpr mixer_shape tiny{.heads = 8, .headdim = 48, .d_state = 128, .groups = 1, .d_conv = 4};
constexpr mixer_shape small{.heads = 8, .headdim = 96, .d_state = 128, .groups = 1, .d_conv = 4};

/// Sequences of one shape, and what the kernels write.
template <mixer_shape M>
class scan_case {
  static constexpr int inner = M.d_inner(), states = M.groups * M.d_state;
  template <class U, int N>
  using matrix = rows<U, N, space::device>;
  using four_units = room::chunked_traits<room::ssd_sizes<M, T>, 4>;
  using warpgroups = room::chunked_hopper_traits<room::ssd_sizes<M, T>>;

 public:
  scan_case(int sequences, int length)
      : sequences_{sequences}, length_{length}, n_{std::size_t(sequences) * std::size_t(length)} {}

  void measure(char const* name, bool once) {
    auto const all = ways();
    if (once) {
      forward();
      for (auto const& way : all) backward(way);
      return stream_.synchronize();
    }
    bool const hopper = room::chunked_hopper_runs<warpgroups>(ctx_.device());
    if (hopper) compare_forwards();
    compare(name, all);
    std::vector<std::vector<double>> us(all.size() + 7);
    for (int round = 0; round < rounds; ++round) {
      std::size_t at = 0;
      us[at++].push_back(median_us(stream_, [&] { forward_by<four_units>(y_); }));
      if (hopper) us[at].push_back(median_us(stream_, [&] { forward_by<warpgroups>(y_); }));
      ++at;
      us[at++].push_back(median_us(stream_, [&] { forward(); }));
      us[at++].push_back(median_us(stream_, [&] { walk<2>(); }));
      us[at++].push_back(median_us(stream_, [&] { walk<4>(); }));
      for (auto const& way : all) us[at++].push_back(median_us(stream_, [&] { backward(way); }));
      us[at++].push_back(median_us(stream_, [&] { backward(); }));
      us[at++].push_back(median_us(stream_, [&] { forward(), backward(); }));
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
  using form = room::backward_chunked<M, T>;
  using plan = room::backward_chunk_plan;
  using walks = room::backward_walks;

  [[nodiscard]] std::vector<plan> ways() const {
    int const alone = form::slice(sequences_, length_, ctx_.device());
    int const most = ctx_.device().multiprocessors / (room::backward_chunk_traits<M, T>::units * M.groups);
    int const beside = std::clamp(most, 1, sequences_);
    std::vector<plan> all{{alone, 2}, {alone, 4}};
    if (!form::shares(ctx_.device())) return all;
    all.push_back({beside, 2, walks::beside});
    if (has_early_starts(ctx_.device())) all.push_back({beside, 2, walks::early});
    return all;
  }
  void forward() { cuda::ssd(ctx_, input(), matrix<T, inner>{y_.data(), n_}); }
  /// One of the forward's kernels, in as many runs as ssd would take of it.
  template <class Tr>
  void forward_by(random_array<T> const& y) {
    auto const plan = room::chunked_plan::make<Tr>(length_, sequences_, ctx_.device());
    arena memory{scratch_.data(), scratch_.size()};
    auto const runs = room::take_runs<Tr>(memory, plan, sequences_);
    room::launch_chunked<Tr>(room::kernel_arguments<M>(input(), matrix<T, inner>{y.data(), n_}), runs, plan, sequences_,
                             stream_.get());
  }
  /// Throws unless the kernels' results are finite and no farther apart than rounding to T leads.
  void compare_forwards() {
    forward_by<four_units>(y_), forward_by<warpgroups>(dx_);
    stream_.synchronize();
    std::vector<T> want(n_ * inner), got(n_ * inner);
    cuda::check(cudaMemcpy(want.data(), y_.data(), want.size() * sizeof(T), cudaMemcpyDeviceToHost), "y");
    cuda::check(cudaMemcpy(got.data(), dx_.data(), got.size() * sizeof(T), cudaMemcpyDeviceToHost), "y");
    double apart = 0, size = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      double const x = double(__bfloat162float(got[i])), y = double(__bfloat162float(want[i]));
      apart += (x - y) * (x - y), size += y * y;
    }
    if (!(apart < 4e-5 * size))
      throw std::runtime_error{"the forward's kernels differ by " + std::to_string(std::sqrt(apart / size))};
  }
  void backward() { cuda::ssd_backward(ctx_, input(), matrix<T, inner>{dy_.data(), n_}, gradients()); }
  /// Without the sums of dA and dD over sequences.
  void backward(plan const& way) {
    auto p = room::operands_of<M, T>(input(), dy_.data(), gradients(), sequences_);
    p.da = sums_.data(), p.d_skip = sums_.data() + std::ptrdiff_t{sequences_} * M.heads;
    form::launch(p, scratch_.data(), ctx_.device(), stream_.get(), way);
  }
  using bytes = std::vector<std::vector<unsigned char>>;

  /// The gradients of a way, which nothing had written before.
  bytes gradients_of(plan const& way) {
    bytes all;
    auto const each = [&](auto const& f) {
      f(dx_.data(), n_ * inner * sizeof(T)), f(db_.data(), n_ * states * sizeof(T));
      f(dc_.data(), n_ * states * sizeof(T)), f(ddt_.data(), n_ * std::size_t(M.heads) * sizeof(float));
      f(sums_.data(), 2 * std::size_t(sequences_) * std::size_t(M.heads) * sizeof(float));
    };
    each([](void* at, std::size_t n) { cuda::check(cudaMemset(at, 0xff, n), "gradients"); });
    cuda::check(cudaDeviceSynchronize(), "gradients");
    backward(way);
    stream_.synchronize();
    each([&](void const* at, std::size_t n) {
      all.emplace_back(n);
      cuda::check(cudaMemcpy(all.back().data(), at, n, cudaMemcpyDeviceToHost), "gradients");
    });
    return all;
  }
  /// Throws error where a way's gradients have other bits than the first's.
  void compare(char const* name, std::vector<plan> const& all) {
    bytes const first = gradients_of(all[0]);
    for (std::size_t i = 1; i < all.size(); ++i) {
      plan const& way = all[i];
      bool const same = gradients_of(way) == first;
      std::printf("%s, slices of %d, %d units a block%s: %s as slices of %d by themselves, two units\n", name,
                  way.slice, way.teams,
                  way.walks == walks::early    ? ", beside chunks, early"
                  : way.walks == walks::beside ? ", beside chunks"
                                               : "",
                  same ? "the same bits" : "OTHER BITS", all[0].slice);
      if (!same) throw std::runtime_error{"a way's gradients have other bits"};
    }
  }
  /// The first kernel of the backward alone, with so many units a block, as often as the backward launches it.
  template <int Teams>
  void walk() {
    using traits = room::backward_walk_traits<room::backward_chunk_traits<M, T>, Teams>;
    constexpr unsigned units = unsigned(traits::units * M.groups);
    int const chunks = (length_ - 1) / room::ssd_tile + 1, most = form::slice(sequences_, length_, ctx_.device());
    std::size_t const states = std::size_t(most) * std::size_t(chunks) * units * std::size_t(traits::state_bytes);
    arena memory{scratch_.data(), scratch_.size()};
    room::backward_chunk_scratch const s{memory, states, 0};
    auto const kernel = room::backward_walk_kernel<traits>;
    cuda::detail::prefer_shared("walk", kernel);
    for (int first = 0; first < sequences_; first += most)
      cuda::detail::launch("walk", kernel,
                           {dim3(unsigned(std::min(most, sequences_ - first)) * (units / Teams), 2), traits::threads,
                            std::size_t(traits::bytes)},
                           stream_.get(), operands(), s, first, chunks);
  }
  [[nodiscard]] cuda::ssd_gradient<M, T> gradients() const {
    return {matrix<T, inner>{dx_.data(), n_},  matrix<float, M.heads>{ddt_.data(), n_}, parameters(da_),
            matrix<T, states>{db_.data(), n_}, matrix<T, states>{dc_.data(), n_},       parameters(dd_)};
  }
  [[nodiscard]] static block<float, space::device, M.heads> parameters(random_array<float> const& p) {
    return block<float, space::device, M.heads>{p.data()};
  }
  [[nodiscard]] cuda::ssd_input<M, T> input() const {
    return {matrix<T, inner>{x_.data(), n_},
            matrix<float, M.heads>{dt_.data(), n_},
            parameters(a_),
            matrix<T, states>{b_.data(), n_},
            matrix<T, states>{c_.data(), n_},
            parameters(d_),
            length_};
  }
  [[nodiscard]] room::backward_operands<M, T> operands() const {
    cuda::ssd_gradient<M, T> const none{};
    return room::operands_of<M, T>(input(), dy_.data(), none, sequences_);
  }
  template <class Tr>
  [[nodiscard]] std::size_t forward_bytes() const {
    arena ruler;
    static_cast<void>(
        room::take_runs<Tr>(ruler, room::chunked_plan::make<Tr>(length_, sequences_, ctx_.device()), sequences_));
    return ruler.peak();
  }
  [[nodiscard]] std::size_t scratch_bytes() const {
    std::size_t most = std::max(forward_bytes<four_units>(), forward_bytes<warpgroups>());
    for (auto const& way : ways()) most = std::max(most, form::scratch_bytes(sequences_, length_, way));
    return most;
  }

  int sequences_, length_;
  std::size_t n_;
  cuda::stream stream_;
  cuda::context<> ctx_{stream_.get()};
  random_array<T> x_{n_ * inner}, b_{n_ * states, 0.1f}, c_{n_ * states, 0.1f}, y_{n_ * inner}, dy_{n_ * inner};
  random_array<T> dx_{n_ * inner}, db_{n_ * states}, dc_{n_ * states};
  random_array<float> dt_{n_ * std::size_t(M.heads), 0.005f, 0.05f};  // never negative
  random_array<float> a_{std::size_t(M.heads), 0.1f, -1.f}, d_{std::size_t(M.heads)}, ddt_{n_ * std::size_t(M.heads)};
  random_array<float> da_{std::size_t(M.heads)}, dd_{std::size_t(M.heads)},
      sums_{2 * std::size_t(sequences_) * std::size_t(M.heads)};
  cuda::device_memory scratch_{scratch_bytes()};
};

template <mixer_shape M>
void measure(char const* name, int sequences, int length, bool once) {
  scan_case<M>{sequences, length}.measure(name, once);
}

void run(bool once) {
  if (!once) print_device();
  std::puts(
      "| us | forward: four units | warpgroups | as taken | walk alone: two units a block | four | slices by "
      "themselves, two | four | beside chunks | early | backward, as taken | forward, backward |");
  std::puts("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
  measure<tiny>("Tiny, 64 x 3137", 64, 3137, once);
  if (once) return;
  measure<tiny>("Tiny, 32 x 3137", 32, 3137, once);
  measure<tiny>("Tiny, 16 x 3137", 16, 3137, once);
  measure<tiny>("Tiny, 4 x 3137", 4, 3137, once);
  measure<tiny>("Tiny, 1 x 3137", 1, 3137, once);
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
