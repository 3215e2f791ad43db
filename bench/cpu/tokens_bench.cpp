/// @file
/// Patches to tokens, and MixToken: copies, bound by memory.
#include "support/operation.hpp"
#include "support/random_model.hpp"

#include <dm2/cpu/tokens.hpp>

#include <algorithm>

namespace tokens_bench {

using namespace dm2;
using namespace dm2::bench;

constexpr config C = shallow(tiny);
constexpr int dim = C.dim, length = sizes<tiny>::length, side = 14;
constexpr mix_box box{2, 9, 3, 12};

template <class T>
struct assembly {
  std::size_t batch;
  random_state<C, T> state;
  buffer<T> grid = normal<T>(batch * (length - 1) * dim, 1), x{batch * length * dim};

  explicit assembly(std::size_t b) : batch{b} {}

  void operator()(cpu::context<T>& ctx) {
    auto const p = state.view().tokens();
    cpu::assemble_tokens(ctx, {grid.data(), batch * (length - 1)}, get<token_layer<C>::cls_token>(p),
                         get<token_layer<C>::pos_embed>(p), {x.data(), batch * length});
  }
  [[nodiscard]] std::vector<std::span<T const>> results() const { return {x.span()}; }
};

template <class T>
struct mixing {
  std::size_t batch;
  buffer<T> grid = normal<T>(batch * side * side * dim, 1);

  explicit mixing(std::size_t b) : batch{b} {}

  void operator()(cpu::context<T>& ctx) {
    cpu::mix_tokens(ctx, rows<T, dim>{grid.data(), batch * side * side}, side, side, box);
  }
  [[nodiscard]] std::vector<std::span<T const>> results() const { return {grid.span()}; }
  [[nodiscard]] std::vector<std::vector<double>> oracle() const {
    auto const before = normal<T>(grid.size(), 1);
    std::vector<double> out(grid.size());
    for (std::size_t i = 0; i < out.size(); ++i) {
      std::size_t const patch = i / dim % (side * side), sample = i / dim / (side * side);
      int const row = int(patch) / side, column = int(patch) % side;
      bool const inside = row >= box.row0 && row < box.row1 && column >= box.col0 && column < box.col1;
      std::size_t const from = inside ? batch - 1 - sample : sample;
      out[i] = double(before.data()[(from * side * side + patch) * dim + i % dim]);
    }
    return {out};
  }
};

template <template <class> class Case>
void run(benchmark::State& state) {
  std::size_t const batch = std::size_t(state.range(0));
  double const patches = std::is_same_v<Case<float>, mixing<float>> ? double(box.area()) : double(length);
  time_operation<Case>(state, std::to_string(batch), int(state.range(1)),
                       {0, 2 * sizeof(float) * double(batch) * patches * dim}, 1e-6, batch);
}

BENCHMARK(run<assembly>)
    ->Name("tokens/assemble")
    ->ArgNames({"batch", "threads"})
    ->ArgsProduct({{8}, {1, 2}})
    ->UseRealTime();
BENCHMARK(run<mixing>)->Name("tokens/mix")->ArgNames({"batch", "threads"})->ArgsProduct({{8}, {1, 2}})->UseRealTime();

}  // namespace tokens_bench
