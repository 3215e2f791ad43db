/// @file
/// The selective scan: both forms of the forward, and the backward, with the heads of Tiny and of Small.
#include "support/flops.hpp"
#include "support/operation.hpp"

#include <dm2/cpu/ssd_backward.hpp>

#include <cmath>

namespace ssd_bench {

using namespace dm2;
using namespace dm2::bench;
using cpu::scan_form;

constexpr mixer_shape tiny_heads = sizes<tiny>::mixer, small_heads = sizes<small>::mixer;

template <mixer_shape M>
struct heads {
  static constexpr std::size_t inner = std::size_t(M.d_inner()), state = std::size_t(M.groups * M.d_state);

  template <class T>
  struct forward {
    int length, count;
    scan_form form;
    std::size_t n = std::size_t(length) * std::size_t(count);
    buffer<T> x = normal<T>(n * inner, 1), dt = uniform<T>(n * std::size_t(M.heads), 2, 0.001f, 0.2f),
              a = uniform<T>(std::size_t(M.heads), 3, -8, -1), b = normal<T>(n * state, 4), c = normal<T>(n * state, 5),
              d = normal<T>(std::size_t(M.heads), 6), y{n * inner};

    forward(int l, int sequences, scan_form f) : length{l}, count{sequences}, form{f} {}

    [[nodiscard]] cpu::ssd_input<M, T> input() const {
      using block_h = block<T const, space::host, M.heads>;
      return {{x.data(), n},     {dt.data(), n}, block_h{a.data()}, {b.data(), n}, {c.data(), n},
              block_h{d.data()}, length};
    }
    void operator()(cpu::context<T>& ctx) { cpu::ssd(ctx, input(), rows<T, M.d_inner()>{y.data(), n}, form); }
    [[nodiscard]] std::vector<std::span<T const>> results() const { return {y.span()}; }

    /// The recurrence, token after token.
    [[nodiscard]] std::vector<std::vector<double>> oracle() const {
      std::vector<double> out(y.size());
      constexpr std::size_t N = std::size_t(M.d_state), P = std::size_t(M.headdim), H = std::size_t(M.heads);
      for (std::size_t s = 0; s < std::size_t(count); ++s)
        for (std::size_t h = 0; h < H; ++h) {
          std::vector<double> memory(N * P);
          std::size_t const group = h / (H / std::size_t(M.groups)) * N;
          for (std::size_t t = s * std::size_t(length); t < (s + 1) * std::size_t(length); ++t) {
            double const step = double(dt.data()[t * H + h]), keep = std::exp(step * double(a.data()[h]));
            for (std::size_t p = 0; p < P; ++p)
              out[t * inner + h * P + p] = double(d.data()[h]) * double(x.data()[t * inner + h * P + p]);
            for (std::size_t k = 0; k < N; ++k) {
              double const in = step * double(b.data()[t * state + group + k]),
                           read = double(c.data()[t * state + group + k]);
              for (std::size_t p = 0; p < P; ++p) {
                double& m = memory[k * P + p];
                m = keep * m + in * double(x.data()[t * inner + h * P + p]);
                out[t * inner + h * P + p] += read * m;
              }
            }
          }
        }
      return {out};
    }
  };

  template <class T>
  struct backward {
    forward<T> f;
    buffer<T> dy = normal<T>(f.n * inner, 7), dx{f.n * inner}, ddt{f.n * std::size_t(M.heads)},
              da{std::size_t(M.heads)}, db{f.n * state}, dc{f.n * state}, dd{std::size_t(M.heads)};

    backward(int l, int sequences, scan_form form) : f{l, sequences, form} {}

    void operator()(cpu::context<T>& ctx) {
      using block_h = block<T, space::host, M.heads>;
      ssd_gradient<M, T> const grad{{dx.data(), f.n}, {ddt.data(), f.n}, block_h{da.data()},
                                    {db.data(), f.n}, {dc.data(), f.n},  block_h{dd.data()}};
      cpu::ssd_backward(ctx, f.input(), rows<T const, M.d_inner()>{dy.data(), f.n}, grad);
    }
    [[nodiscard]] std::vector<std::span<T const>> results() const {
      return {dx.span(), ddt.span(), da.span(), db.span(), dc.span(), dd.span()};
    }
  };
};

template <mixer_shape M, scan_form Form>
void run_forward(benchmark::State& state) {
  int const length = int(state.range(0)), count = int(state.range(1)), threads = int(state.range(2));
  double const flops = Form == scan_form::chunked ? chunked_scan_flops(M, length) : scan_flops(M, length);
  time_operation<heads<M>::template forward>(state, std::to_string(length) + (Form == scan_form::chunked ? "c" : "q"),
                                             threads, {count * flops, 0}, 2e-5, length, count, Form);
}

/// Twice the chunked forward, the form in which the backward runs.
template <mixer_shape M>
void run_backward(benchmark::State& state) {
  int const length = int(state.range(0)), count = int(state.range(1)), threads = int(state.range(2));
  double const flops = 2 * chunked_scan_flops(M, length);
  time_operation<heads<M>::template backward>(state, std::to_string(length), threads, {count * flops, 0}, 1e-4, length,
                                              count, scan_form::automatic);
}

void lengths(benchmark::internal::Benchmark* b) {
  b->ArgNames({"length", "sequences", "threads"})->UseRealTime();
  for (int threads : {1, 2}) b->Args({197, 8, threads})->Args({785, 2, threads})->Args({3137, 2, threads});
}

BENCHMARK(run_forward<tiny_heads, scan_form::quadratic>)->Name("ssd/quadratic/tiny")->Apply(lengths);
BENCHMARK(run_forward<tiny_heads, scan_form::chunked>)->Name("ssd/chunked/tiny")->Apply(lengths);
BENCHMARK(run_forward<small_heads, scan_form::quadratic>)->Name("ssd/quadratic/small")->Apply(lengths);
BENCHMARK(run_forward<small_heads, scan_form::chunked>)->Name("ssd/chunked/small")->Apply(lengths);
BENCHMARK(run_backward<tiny_heads>)->Name("ssd/backward/tiny")->Apply(lengths);
BENCHMARK(run_backward<small_heads>)->Name("ssd/backward/small")->Apply(lengths);

}  // namespace ssd_bench
