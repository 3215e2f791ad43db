/// @file
/// The trunk: blocks on the residual stream, forward and backward.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/model/blocks.hpp>
#include <dm2/model/config.hpp>
#include <dm2/model/parameter_table.hpp>

#include <array>
#include <cstddef>

namespace dm2::detail {

/// Where the trunk's activations lie. In evaluation every block uses the same memory; in training each keeps its own,
/// since backward reads it. T is the residual stream's type, E that of what operations hand on.
template <config C, class T, class E = T>
struct trunk_activations {
  static constexpr std::size_t blocks = block_count<C>;
  std::size_t count;                    ///< rows: batch * length
  std::array<T*, blocks + 1> residual;  ///< [count, dim] before each block, and after the last
  std::array<T*, blocks + 1> rstd;      ///< [count], of the norm that reads it
  std::array<E*, blocks> wide, inner;   ///< each core's input and output
  std::array<T*, blocks> factors;       ///< [count, Block::factors] of a mixer's norms, or null: backward reads them
  std::byte* cores;                     ///< where wide, inner and factors lie; free but for the trunk's own work
  std::size_t core_bytes;               ///< their bytes
  std::array<E*, blocks> merged;        ///< [dim, 2 d_inner], a mixer's output projection, which backward reads too
  E* features;                          ///< [count, dim], after the last norm

  trunk_activations(arena& a, int batch, bool training, bool keeps_factors = false)
      : count{std::size_t(batch) * sizes<C>::length} {
    E* const one = training ? nullptr : a.take<E>(std::size_t(mixer_block<C>::merged));
    for (std::size_t k = 0; k < blocks; ++k) {
      int numbers = 0;
      with_block<C>(int(k), [&]<class Block>() { numbers = Block::merged; });
      merged[k] = training && numbers != 0 ? a.take<E>(std::size_t(numbers)) : one;
    }
    for (std::size_t k = 0; k <= blocks; ++k) {
      bool const own = training || k == 0;
      residual[k] = own ? a.take<T>(count * C.dim) : residual[0];
      rstd[k] = own ? a.take<T>(count) : rstd[0];
    }
    cores = a.take<std::byte>(0), core_bytes = a.used();
    for (std::size_t k = 0; k < blocks; ++k) {
      bool const own = training || k == 0;
      int x = widest_input<C>, g = widest_output<C>, f = 0;
      if (training)
        with_block<C>(int(k), [&]<class Block>() { x = Block::wide, g = Block::inner, f = Block::factors; });
      wide[k] = own ? a.take<E>(count * std::size_t(x)) : wide[0];
      inner[k] = own ? a.take<E>(count * std::size_t(g)) : inner[0];
      factors[k] = keeps_factors && f != 0 ? a.take<T>(count * std::size_t(f)) : nullptr;
    }
    core_bytes = a.used() - core_bytes;
    features = a.take<E>(count * C.dim);
  }

  template <space S>
  [[nodiscard]] norm_point<T, C.dim, S> point(int k) const {
    return {{residual[std::size_t(k)], count}, rstd[std::size_t(k)]};
  }
  template <class Block, space S>
  [[nodiscard]] rows<E, Block::wide, S> wide_of(int k) const {
    return {wide[std::size_t(k)], count};
  }
  template <class Block, space S>
  [[nodiscard]] rows<E, Block::inner, S> inner_of(int k) const {
    return {inner[std::size_t(k)], count};
  }
};

/// Gradients on the trunk; every block uses the same memory.
template <config C, class T, class E = T>
struct trunk_gradients {
  T *residual, *merged;
  E *wide, *inner;

  trunk_gradients(arena& a, std::size_t count) {
    residual = a.take<T>(count * C.dim);
    wide = a.take<E>(count * widest_input<C>);
    inner = a.take<E>(count * widest_output<C>);
    merged = a.take<T>(std::size_t(C.dim) * 2 * sizes<C>::d_inner);
  }
};

/// The order of a forward pass: steps.first<First>() reads the tokens; steps.core<Block>(k) is block k's core,
/// steps.join<Block, Next>(k) what lies between it and the next one, and steps.last<Block>(k) what follows the last.
template <config C, class Steps>
void walk_trunk(Steps&& steps) {
  constexpr int last = block_count<C> - 1;
  with_block<C>(0, [&]<class First>() { steps.template first<First>(); });
  for (int k = 0; k <= last; ++k)
    with_block<C>(k, [&]<class Block>() {
      steps.template core<Block>(k);
      if (k == last) return steps.template last<Block>(k);
      with_block<C>(k + 1, [&]<class Next>() { steps.template join<Block, Next>(k); });
    });
}

/// The steps of trunk_forward().
template <config C, class Context, class T, class E, space S>
struct forward_steps {
  Context& ctx;
  network_view<C, T const, S> net;
  trunk_activations<C, T, E> const& a;

  template <class First>
  void first() const {
    norm_project(ctx, a.template point<S>(0), operand(ctx, First::in(net, 0)), C.eps, a.template wide_of<First, S>(0));
  }
  template <class Block>
  void core(int k) const {
    Block::core(ctx, net, block_layer<C>(k), a.template wide_of<Block, S>(k), a.template inner_of<Block, S>(k),
                a.factors[std::size_t(k)]);
  }
  template <class Block, class Next>
  void join(int k) const {
    project_add_norm_project(ctx, a.template inner_of<Block, S>(k), out<Block>(k), before(k), after(k),
                             operand(ctx, Next::in(net, block_layer<C>(k + 1))), C.eps,
                             a.template wide_of<Next, S>(k + 1));
  }
  template <class Block>
  void last(int k) const {
    project_add_norm(ctx, a.template inner_of<Block, S>(k), out<Block>(k), before(k), after(k),
                     get<final_layer<C>::norm>(net.final()), C.eps, rows<E, C.dim, S>{a.features, a.count});
  }

 private:
  template <class Block>
  [[nodiscard]] auto out(int k) const {
    E* const merged = a.merged[std::size_t(k)];
    Block::merge_out(ctx, net, block_layer<C>(k), merged);
    return Block::out(ctx, net, block_layer<C>(k), merged);
  }
  [[nodiscard]] rows<T, C.dim, S> before(int k) const { return a.template point<S>(k).residual; }
  [[nodiscard]] norm_point<T, C.dim, S> after(int k) const { return a.template point<S>(k + 1); }
};

/// From the tokens in residual[0] to features.
template <config C, class Context, class T, class E, space S>
void trunk_forward(Context& ctx, network_view<C, T const, S> net, trunk_activations<C, T, E> const& a) {
  walk_trunk<C>(forward_steps<C, Context, T, E, S>{ctx, net, a});
}

/// From dfeatures [count, dim] to the gradient of the residual before block `first`, left in d.residual: with 0 the
/// tokens'. Parameter gradients of the blocks from there on, and of the last norm, are added to grad.
template <config C, class Context, class T, class E, space S>
void trunk_backward(Context& ctx, network_view<C, T const, S> net, trunk_activations<C, T, E> const& a,
                    rows<E const, C.dim, S> dfeatures, trunk_gradients<C, T, E> const& d, network_view<C, T, S> grad,
                    int first = 0) {
  constexpr int last = block_count<C> - 1;
  rows<T, C.dim, S> const dresidual{d.residual, a.count};
  for (int k = last; k >= first; --k)
    with_block<C>(k, [&]<class Block>() {
      int const layer = block_layer<C>(k);
      auto const after = a.template point<S>(k + 1);
      rows<E, Block::inner, S> const dg{d.inner, a.count};
      core_projection<T const, C.dim, Block::inner, S, E const, E const> const from{
          a.template inner_of<Block, S>(k), Block::out(ctx, net, layer, a.merged[std::size_t(k)])};
      core_projection<T, C.dim, Block::inner, S, E> const dfrom{dg, Block::out_gradient(ctx, grad, layer, d.merged)};
      if (k == last)
        project_add_norm_backward(ctx, from, after, get<final_layer<C>::norm>(net.final()), dfeatures, dresidual, dfrom,
                                  get<final_layer<C>::norm>(grad.final()));
      else
        with_block<C>(k + 1, [&]<class Next>() {
          int const next = block_layer<C>(k + 1);
          project_add_norm_project_backward(ctx, from, after, operand(ctx, Next::in(net, next)),
                                            rows<E, Next::wide, S>{d.wide, a.count}, dresidual, dfrom,
                                            Next::in(grad, next));
        });
      Block::finish_out_gradient(ctx, grad, layer, d.merged);
      Block::core_backward(ctx, net, layer, rows<E const, Block::wide, S>{a.template wide_of<Block, S>(k)}, from.core,
                           a.factors[std::size_t(k)], rows<E const, Block::inner, S>{dg},
                           rows<E, Block::wide, S>{d.wide, a.count}, grad);
    });
  with_block<C>(first, [&]<class First>() {
    int const layer = block_layer<C>(first);
    norm_project_backward(ctx, a.template point<S>(first), operand(ctx, First::in(net, layer)),
                          rows<E, First::wide, S>{d.wide, a.count}, dresidual, First::in(grad, layer));
  });
}

}  // namespace dm2::detail
