/// @file
/// Project-add-norm of two mixers: output projection, residual addition, norm, next input projection; forward and
/// backward.
#include "support/flops.hpp"
#include "support/operation.hpp"
#include "support/random_model.hpp"

#include <dm2/cpu/fold_output_projection.hpp>
#include <dm2/cpu/project_add_norm.hpp>
#include <dm2/model/blocks.hpp>

namespace project_add_norm_bench {

using namespace dm2;
using namespace dm2::bench;

template <config C>
struct case_of {
  static constexpr config L = shallow(C);
  using mixer = dm2::detail::mixer_block<L>;
  static constexpr int wide = mixer::wide, inner = mixer::inner, dim = C.dim;

  template <class T>
  struct forward {
    std::size_t count;
    random_state<L, T> state;
    buffer<T> g = normal<T>(count * inner, 1), before = normal<T>(count * dim, 2), merged{std::size_t(dim) * inner},
              after{count * dim}, rstd{count}, y{count * wide};
    linear_parameters<T const, dim, inner> out;

    explicit forward(std::size_t n) : count{n} {
      cpu::context<T> ctx{1};
      mixer::merge_out(ctx, state.view(), 0, merged.data());
      out = mixer::out(ctx, state.view(), 0, merged.data());
    }
    [[nodiscard]] norm_point<T, dim> point() const { return {{after.data(), count}, rstd.data()}; }
    [[nodiscard]] auto next() const { return mixer::in(state.view(), 0); }

    void operator()(cpu::context<T>& ctx) {
      cpu::project_add_norm_project(ctx, {g.data(), count}, out, {before.data(), count}, point(), next(), C.eps,
                                    {y.data(), count});
    }
    [[nodiscard]] std::vector<std::span<T const>> results() const { return {after.span(), rstd.span(), y.span()}; }
  };

  template <class T>
  struct backward {
    forward<T> f;
    buffer<T> dy = normal<T>(f.count * wide, 3), dresidual = normal<T>(f.count * dim, 4), dg{f.count * inner},
              dmerged{f.merged.size()}, grad{state_extent<L>};

    explicit backward(std::size_t n) : f{n} {
      cpu::context<T> ctx{1};
      f(ctx);
    }
    void operator()(cpu::context<T>& ctx) {
      linear_parameters<T, dim, inner> const dout{block<T, space::host, dim, inner>{dmerged.data()}, {}};
      cpu::project_add_norm_project_backward(ctx, core_projection<T const, dim, inner>{{f.g.data(), f.count}, f.out},
                                             f.point(), f.next(), {dy.data(), f.count}, {dresidual.data(), f.count},
                                             core_projection<T, dim, inner>{{dg.data(), f.count}, dout},
                                             mixer::in(network_view<L, T>{grad.data()}, 0));
    }
    [[nodiscard]] std::vector<std::span<T const>> results() const {
      return {dresidual.span(), dg.span(), dmerged.span(), grad.span()};
    }
  };
};

template <config C, template <class> class Case>
void run(benchmark::State& state) {
  bool const backward = std::is_same_v<Case<float>, typename case_of<C>::template backward<float>>;
  std::size_t const count = std::size_t(state.range(0));
  double const flops = mixer_projection_flops<C>() / sizes<C>::length * double(count) * (backward ? 2 : 1);
  time_operation<Case>(state, std::to_string(count), int(state.range(1)), {flops, 0}, 1e-5, count);
}

void row_counts(benchmark::internal::Benchmark* b) {
  b->ArgNames({"rows", "threads"})->ArgsProduct({{197, 1576}, {1, 2}})->UseRealTime();
}

BENCHMARK(run<tiny, case_of<tiny>::forward>)->Name("project_add_norm/forward/tiny")->Apply(row_counts);
BENCHMARK(run<small, case_of<small>::forward>)->Name("project_add_norm/forward/small")->Apply(row_counts);
BENCHMARK(run<tiny, case_of<tiny>::backward>)->Name("project_add_norm/backward/tiny")->Apply(row_counts);
BENCHMARK(run<small, case_of<small>::backward>)->Name("project_add_norm/backward/small")->Apply(row_counts);

}  // namespace project_add_norm_bench
