/// @file
/// A network's mixer cores in evaluation; they may defer their norm.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/mixer_core/few.cuh>
#include <dm2/cuda/mixer_core/few_input.cuh>
#include <dm2/cuda/mixer_core/general.cuh>
#include <dm2/cuda/mixer_core/layout.cuh>
#include <dm2/cuda/mixer_core/scale_by_squares.cuh>
#include <dm2/cuda/mixer_core/segments.cuh>

#include <algorithm>
#include <cstddef>
#include <utility>

namespace dm2::cuda::detail::mixer_core {

/// The memory of all mixer cores of a network, and the choice of their form. The norms' weights are in the output
/// projections; with one group a direction's rows have one factor, which the operation behind a core may apply.
template <precision P, mixer_shape M>
class evaluation {
  using T = element<P>;
  using core = traits<T, M>;
  using parameters = mixer_parameters<M, float const, space::device>;

 public:
  /// Units whose squares a row is left with; 0 where no row is left before its norm.
  static constexpr int units = core::possible && M.groups == 1 ? core::units : 0;

  /// For up to `sequences` sequences.
  evaluation(arena& a, int sequences, int length)
      : scratch_{a, std::size_t(sequences) * std::size_t(length), length}, length_{length} {
    if constexpr (few_possible<T, M>)  // for larger batches too: a plan holds every smaller one
      convolved_ = a.take<T>(few_numbers<M>(std::size_t(std::min(sequences, few_most)) * std::size_t(length)));
  }

  /// The way into a mixer for few sequences: what project_add_norm makes of p, from a core of K channels (0: from the
  /// tokens) with the squares of U units, is p.y, the mixer's zxbcdt; convolved at once for the next call of run().
  /// g is where that one writes. False, and nothing is done, where this is not the way.
  template <int D, int K, int U>
  bool project_into(context<P>& ctx, project_add_norm::arguments<T> const& p, parameters const& next, T* g) {
    if constexpr (few_possible<T, M> && few_input_traits<T, D, M>::possible &&
                  project_add_norm::few_possible<T, D, K, 0, U, 1>) {
      int const sequences = p.count / length_;
      if (!few_fits<T, M>(ctx.device(), sequences, length_) || (U != 0) != (p.squares != nullptr) ||
          project_add_norm::few_row_tiles<T, D, K, M.projected(), U>(ctx.device(), std::size_t(p.count)) != 1 ||
          !project_add_norm::few_aligned(p))
        return false;
      is_convolved_ = true;
      if (!ctx.reserve(0)) return true;
      if constexpr (K != 0) project_add_norm::launch_few_add<D, K, U, 1>(ctx, p);
      launch_few_input<D, M>(ctx, p, few(p.y, next, g, sequences));
      return true;
    }
    return false;
  }

  /// g = the cores' rows. What they are left with before their norm where `defers`, which the reader must allow; else,
  /// and where the kernel has made whole rows, no squares. `ones` [d_inner].
  row_squares<units> run(context<P>& ctx, rows<T const, M.projected(), space::device> zxbcdt, parameters p,
                         rows<T, 2 * M.d_inner(), space::device> g, bool defers, float const* ones) {
    int const sequences = int(zxbcdt.count) / length_;
    if constexpr (few_possible<T, M>) {
      if (few_fits<T, M>(ctx.device(), sequences, length_)) {
        bool const convolves = !std::exchange(is_convolved_, false);
        if (!ctx.reserve(0)) return left(defers);
        launch_few<M>(ctx, few(zxbcdt.data, p, g.data, sequences), convolves);
        return finished(ctx, g, defers);
      }
    }
    if constexpr (core::possible) {
      if (fits<T, M>(ctx.device(), length_)) return run_tensor(ctx, zxbcdt, p, g, defers);
    }
    p.forward.norm = p.backward.norm = block<float const, space::device, M.d_inner()>{ones};
    launch_general<M>(ctx, zxbcdt, p, g, length_, nullptr);
    return {};
  }

 private:
  row_squares<units> run_tensor(context<P>& ctx, rows<T const, M.projected(), space::device> zxbcdt, parameters p,
                                rows<T, 2 * M.d_inner(), space::device> g, bool defers) {
    int const sequences = int(zxbcdt.count) / length_;
    p.forward.norm = p.backward.norm = {};  // the output projection has their weights
    std::size_t const states = state_packets<T, M>(ctx.device(), sequences, length_);
    if (!ctx.reserve(states * sizeof(uint4) + arena::alignment)) return left(defers);
    arena_scope const scope{ctx.shared()};
    auto scratch = scratch_;
    scratch.states = ctx.shared().template take<uint4>(states);
    if (launch_tensor<P, M>(ctx, zxbcdt.data, p, g.data, scratch, sequences, length_, !defers)) return {};
    return finished(ctx, g, defers);
  }
  /// Applies the factor where it is not left to the next operation.
  row_squares<units> finished(context<P>& ctx, rows<T, 2 * M.d_inner(), space::device> g, bool defers) const {
    if (!defers) scale_by_squares<P, M>(ctx, g.data, scratch_.squares, nullptr, nullptr, int(g.count));
    return left(defers);
  }
  [[nodiscard]] row_squares<units> left(bool defers) const { return {defers ? scratch_.squares : nullptr}; }
  [[nodiscard]] few_arguments<T> few(T const* zxbcdt, parameters const& p, T* g, int sequences) const {
    return few_arguments_of(zxbcdt, p, convolved_, g, scratch_.squares, sequences, length_);
  }

  mixer_core::scratch<T, M> scratch_;
  int length_;
  T* convolved_ = nullptr;     ///< what few_numbers() says
  bool is_convolved_ = false;  ///< it is that of the next core
};

}  // namespace dm2::cuda::detail::mixer_core
