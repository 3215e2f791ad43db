/// @file
/// RMSNorm: bound by memory.
#include "support/operation.hpp"

#include <dm2/cpu/rms_norm.hpp>

namespace rms_norm_bench {

using namespace dm2;
using namespace dm2::bench;

template <int C>
struct width {
  template <class T>
  struct forward {
    std::size_t count;
    buffer<T> x = normal<T>(count * C, 1), w = normal<T>(C, 2), y{count * C}, rstd{count};

    explicit forward(std::size_t n) : count{n} {}

    void operator()(cpu::context<T>& ctx) {
      cpu::rms_norm(ctx, rows<T const, C>{x.data(), count}, block<T const, space::host, C>{w.data()}, 1e-5,
                    rows<T, C>{y.data(), count}, rstd.data());
    }
    [[nodiscard]] std::vector<std::span<T const>> results() const { return {y.span(), rstd.span()}; }
    [[nodiscard]] std::vector<std::vector<double>> oracle() const {
      std::vector<double> out(y.size()), s(count);
      for (std::size_t r = 0; r < count; ++r) {
        double sum = 0;
        for (std::size_t c = 0; c < C; ++c) sum += double(x.data()[r * C + c]) * double(x.data()[r * C + c]);
        s[r] = 1 / std::sqrt(sum / C + 1e-5);
        for (std::size_t c = 0; c < C; ++c) out[r * C + c] = double(x.data()[r * C + c]) * s[r] * double(w.data()[c]);
      }
      return {out, s};
    }
  };

  template <class T>
  struct backward {
    forward<T> f;
    buffer<T> dy = normal<T>(f.count * C, 3), dx{f.count * C}, dw{C};

    explicit backward(std::size_t n) : f{n} {
      cpu::context<T> ctx{1};
      f(ctx);
    }
    void operator()(cpu::context<T>& ctx) {
      cpu::rms_norm_backward(ctx, rows<T const, C>{f.x.data(), f.count}, block<T const, space::host, C>{f.w.data()},
                             f.rstd.data(), rows<T const, C>{dy.data(), f.count}, rows<T, C>{dx.data(), f.count},
                             block<T, space::host, C>{dw.data()});
    }
    [[nodiscard]] std::vector<std::span<T const>> results() const { return {dx.span(), dw.span()}; }
  };
};

/// Arrays that a row passes: x and y; or x, dy, and dx twice.
template <int C, template <class> class Case>
void run(benchmark::State& state) {
  bool const backward = std::is_same_v<Case<float>, typename width<C>::template backward<float>>;
  std::size_t const count = std::size_t(state.range(0));
  double const bytes = double(count) * C * sizeof(float) * (backward ? 4 : 2);
  time_operation<Case>(state, std::to_string(count), int(state.range(1)), {0, bytes}, 1e-5, count);
}

#define DM2_BENCH_NORM(C, Case)            \
  BENCHMARK(run<C, width<C>::Case>)        \
      ->Name("rms_norm/" #Case "/" #C)     \
      ->ArgNames({"rows", "threads"})      \
      ->ArgsProduct({{197, 1576}, {1, 2}}) \
      ->UseRealTime()
DM2_BENCH_NORM(192, forward);
DM2_BENCH_NORM(384, forward);
DM2_BENCH_NORM(192, backward);
DM2_BENCH_NORM(384, backward);

}  // namespace rms_norm_bench
