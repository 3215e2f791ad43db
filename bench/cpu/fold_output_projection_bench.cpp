/// @file
/// The merging of a mixer's two output projections, which every forward does once a layer: bound by memory.
#include "support/operation.hpp"

#include <dm2/cpu/fold_output_projection.hpp>
#include <dm2/model/config.hpp>

namespace fold_output_projection_bench {

using namespace dm2;
using namespace dm2::bench;

template <config C>
struct fold {
  static constexpr int D = C.dim, I = sizes<C>::d_inner;

  template <class T>
  struct of {
    buffer<T> one = normal<T>(std::size_t(D) * I, 1), other = normal<T>(std::size_t(D) * I, 2),
              merged{2 * std::size_t(D) * I};

    void operator()(cpu::context<T>& ctx) {
      using half = block<T const, space::host, D, I>;
      cpu::fold_output_projection<C.variant>(ctx, half{one.data()}, half{other.data()},
                                             block<T, space::host, D, 2 * I>{merged.data()});
    }
    [[nodiscard]] std::vector<std::span<T const>> results() const { return {merged.span()}; }
    [[nodiscard]] std::vector<std::vector<double>> oracle() const {
      static_assert(C.variant == mixer_variant::published);
      std::vector<double> out(merged.size());
      for (int r = 0; r < D; ++r)
        for (int i = 0; i < I; ++i) {
          out[std::size_t(r * 2 * I + i)] = double(one.data()[r * I + i]) / 2;
          out[std::size_t(r * 2 * I + I + i)] = double(other.data()[(D - 1 - r) * I + I - 1 - i]) / 2;
        }
      return {out};
    }
  };
};

template <config C>
void run(benchmark::State& state) {
  double const bytes = 4.0 * C.dim * sizes<C>::d_inner * sizeof(float);
  time_operation<fold<C>::template of>(state, "", int(state.range(0)), {0, bytes}, 1e-6);
}

BENCHMARK(run<tiny>)->Name("fold_output_projection/tiny")->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime();
BENCHMARK(run<small>)->Name("fold_output_projection/small")->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime();

}  // namespace fold_output_projection_bench
