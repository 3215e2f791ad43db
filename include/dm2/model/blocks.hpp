/// @file
/// The trunk's blocks. Each is a norm, an input projection, a core and an output projection; a layer is a mixer or an
/// attention block, followed by an MLP block where the configuration has one.
///
/// The operations that a block names are the backend's: argument-dependent lookup finds them in the context's
/// namespace.
#pragma once

#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/model/config.hpp>
#include <dm2/model/layers.hpp>
#include <dm2/model/parameter_table.hpp>

#include <algorithm>
#include <cstddef>

namespace dm2::detail {

/// Bidirectional Mamba-2. Both output projections are merged into one matrix [dim, 2 d_inner], which needs memory of
/// its own.
template <config C>
struct mixer_block {
  using layer = mixer_layer<C>;
  static constexpr mixer_shape shape = sizes<C>::mixer;
  static constexpr int wide = sizes<C>::projected, inner = 2 * sizes<C>::d_inner;
  static constexpr int factors = 2 * shape.groups;  ///< of a row's norms
  static constexpr int merged = C.dim * inner;      ///< numbers of the merged output projection

  template <class T, space S>
  static norm_projection<T, wide, C.dim, S> in(network_view<C, T, S> net, int i) {
    auto const p = net.mixer(i);
    return {get<layer::pre_norm>(p), {get<layer::in_proj>(p), {}}};
  }

  template <class T, space S>
  static mixer_parameters<shape, T, S> core_parameters(network_view<C, T, S> net, int i) {
    auto const p = net.mixer(i);
    constexpr auto second_d = C.variant == mixer_variant::published ? layer::D : layer::D_b;
    return {{get<layer::conv>(p), get<layer::conv_bias>(p), get<layer::dt_bias>(p), get<layer::A_log>(p),
             get<layer::D>(p), get<layer::norm>(p)},
            {get<layer::conv_b>(p), get<layer::conv_bias_b>(p), get<layer::dt_bias_b>(p), get<layer::A_log_b>(p),
             get<second_d>(p), get<layer::norm_b>(p)}};
  }

  template <class Context, class T, space S, class Wide, class Inner>
  static void core(Context& ctx, network_view<C, T const, S> net, int i, Wide x, Inner g, T* kept = nullptr) {
    if constexpr (Context::keeps_mixer_factors)
      mixer_core(ctx, x, core_parameters(net, i), g, sizes<C>::length, kept);
    else
      mixer_core(ctx, x, core_parameters(net, i), g, sizes<C>::length);
  }

  /// g and `kept` are what core() left; `kept` is null where it left nothing.
  template <class Context, class T, space S, class Wide, class Inner, class Gradient>
  static void core_backward(Context& ctx, network_view<C, T const, S> net, int i, Wide x, Inner g, T const* kept,
                            Inner dg, Gradient dx, network_view<C, T, S> grad) {
    if constexpr (Context::keeps_mixer_factors)
      mixer_core_backward(ctx, x, core_parameters(net, i), dg, dx, core_parameters(grad, i), sizes<C>::length,
                          {g, kept});
    else
      mixer_core_backward(ctx, x, core_parameters(net, i), dg, dx, core_parameters(grad, i), sizes<C>::length);
  }

  /// Merges the output projections into `memory`.
  template <class Context, class T, space S, class E>
  static void merge_out(Context& ctx, network_view<C, T const, S> net, int i, E* memory) {
    auto const p = net.mixer(i);
    fold_output_projection<C.variant>(ctx, get<layer::out_proj>(p), get<layer::out_proj_b>(p),
                                      block<E, S, C.dim, inner>{memory});
  }
  /// The output projection, which merge_out() left in `memory`.
  template <class Context, class T, space S, class E>
  static linear_parameters<T const, C.dim, inner, S, E const> out(Context&, network_view<C, T const, S>, int,
                                                                  E* memory) {
    return {block<E, S, C.dim, inner>{memory}, {}};
  }
  /// Where its gradient is summed: cleared memory, until finish_out_gradient takes it apart.
  template <class Context, class T, space S>
  static linear_parameters<T, C.dim, inner, S> out_gradient(Context& ctx, network_view<C, T, S>, int, T* memory) {
    clear(ctx, memory, std::size_t(C.dim) * inner);
    return {block<T, S, C.dim, inner>{memory}, {}};
  }
  template <class Context, class T, space S>
  static void finish_out_gradient(Context& ctx, network_view<C, T, S> grad, int i, T* memory) {
    auto const p = grad.mixer(i);
    fold_output_projection_backward<C.variant>(ctx, block<T, S, C.dim, inner>{memory}, get<layer::out_proj>(p),
                                               get<layer::out_proj_b>(p));
  }
};

/// Attention.
template <config C>
struct attention_block {
  using layer = attention_layer<C>;
  static constexpr attention_shape shape = sizes<C>::attention;
  static constexpr int wide = 3 * sizes<C>::attn_width, inner = sizes<C>::attn_width, factors = 0, merged = 0;

  template <class T, space S>
  static norm_projection<T, wide, C.dim, S> in(network_view<C, T, S> net, int i) {
    auto const p = net.attention(i);
    return {get<layer::pre_norm>(p), {get<layer::in_proj>(p), get<layer::in_proj_bias>(p)}};
  }

  template <class T, space S>
  static attention_parameters<shape, T, S> core_parameters(network_view<C, T, S> net, int i) {
    if constexpr (C.attn_d_conv == 0)
      return {};
    else
      return {get<layer::conv>(net.attention(i)), get<layer::conv_bias>(net.attention(i))};
  }

  template <class Context, class T, space S, class Wide, class Inner>
  static void core(Context& ctx, network_view<C, T const, S> net, int i, Wide x, Inner g, T* = nullptr) {
    attention_core(ctx, x, core_parameters(net, i), g, sizes<C>::length);
  }

  template <class Context, class T, space S, class Wide, class Inner, class Gradient>
  static void core_backward(Context& ctx, network_view<C, T const, S> net, int i, Wide x, Inner, T const*, Inner dg,
                            Gradient dx, network_view<C, T, S> grad) {
    attention_core_backward(ctx, x, core_parameters(net, i), dg, dx, core_parameters(grad, i), sizes<C>::length);
  }

  template <class Context, class T, space S, class E>
  static void merge_out(Context&, network_view<C, T const, S>, int, E*) {}
  template <class Context, class T, space S, class E>
  static linear_parameters<T const, C.dim, inner, S, E const> out(Context& ctx, network_view<C, T const, S> net, int i,
                                                                  E*) {
    auto const p = net.attention(i);
    return operand(ctx,
                   linear_parameters<T const, C.dim, inner, S>{get<layer::out_proj>(p), get<layer::out_proj_bias>(p)});
  }
  template <class Context, class T, space S>
  static linear_parameters<T, C.dim, inner, S> out_gradient(Context&, network_view<C, T, S> grad, int i, T*) {
    auto const p = grad.attention(i);
    return {get<layer::out_proj>(p), get<layer::out_proj_bias>(p)};
  }
  template <class Context, class T, space S>
  static void finish_out_gradient(Context&, network_view<C, T, S>, int, T*) {}
};

/// Gated MLP.
template <config C>
struct mlp_block {
  using layer = mlp_layer<C>;
  static constexpr int wide = 2 * C.mlp_dim, inner = C.mlp_dim, factors = 0, merged = 0;

  template <class T, space S>
  static norm_projection<T, wide, C.dim, S> in(network_view<C, T, S> net, int i) {
    auto const p = net.mlp(i);
    return {get<layer::pre_norm>(p), {get<layer::fc1>(p), {}}};
  }

  template <class Context, class T, space S, class Wide, class Inner>
  static void core(Context& ctx, network_view<C, T const, S>, int, Wide x, Inner g, T* = nullptr) {
    gated_activation(ctx, x, g);
  }

  template <class Context, class T, space S, class Wide, class Inner, class Gradient>
  static void core_backward(Context& ctx, network_view<C, T const, S>, int, Wide x, Inner, T const*, Inner dg,
                            Gradient dx, network_view<C, T, S>) {
    gated_activation_backward(ctx, x, dg, dx);
  }

  template <class Context, class T, space S, class E>
  static void merge_out(Context&, network_view<C, T const, S>, int, E*) {}
  template <class Context, class T, space S, class E>
  static linear_parameters<T const, C.dim, inner, S, E const> out(Context& ctx, network_view<C, T const, S> net, int i,
                                                                  E*) {
    return operand(ctx, linear_parameters<T const, C.dim, inner, S>{get<layer::fc2>(net.mlp(i)), {}});
  }
  template <class Context, class T, space S>
  static linear_parameters<T, C.dim, inner, S> out_gradient(Context&, network_view<C, T, S> grad, int i, T*) {
    return {get<layer::fc2>(grad.mlp(i)), {}};
  }
  template <class Context, class T, space S>
  static void finish_out_gradient(Context&, network_view<C, T, S>, int, T*) {}
};

/// Blocks of the trunk.
template <config C>
inline constexpr int block_count = C.mlp_dim == 0 ? C.depth : 2 * C.depth;

/// The layer in which block k stands.
template <config C>
constexpr int block_layer(int k) {
  return C.mlp_dim == 0 ? k : k / 2;
}

/// The first block of the trunk that is not among so many `frozen` layers, at most depth, from the stem on.
template <config C>
constexpr int first_block(int frozen) {
  int const layer = std::max(frozen - 1, 0);
  return C.mlp_dim == 0 ? layer : 2 * layer;
}

/// Calls f.template operator()<Block>() with the type of block k.
template <config C, class F>
void with_block(int k, F const& f) {
  if constexpr (C.mlp_dim != 0) {
    if (k % 2 == 1) return f.template operator()<mlp_block<C>>();
  }
  if (C.attn_layers.contains(block_layer<C>(k)))
    f.template operator()<attention_block<C>>();
  else
    f.template operator()<mixer_block<C>>();
}

/// The widest core input and output of any block.
template <config C>
inline constexpr int widest_input = std::max({sizes<C>::projected, 3 * sizes<C>::attn_width, 2 * C.mlp_dim});
template <config C>
inline constexpr int widest_output = std::max({2 * sizes<C>::d_inner, sizes<C>::attn_width, C.mlp_dim});

}  // namespace dm2::detail
