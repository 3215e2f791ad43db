/// @file
/// The attention mixer between its projections, backward.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/attention_core.cuh>
#include <dm2/cuda/attention_core/backward_general.cuh>
#include <dm2/cuda/attention_core/backward_streamed.cuh>
#include <dm2/cuda/attention_core/backward_tensor.cuh>
#include <dm2/cuda/context.cuh>

#include <type_traits>

namespace dm2::cuda {

/// The gradient of attention_core; its inside is computed again from qkv.
///
/// Shapes   as attention_core; dy [B L, H d]; dqkv [B L, 3 H d].
/// Saves    nothing: of the forward, qkv alone is read, 3 H d elements a token.
/// Writes   dqkv (=), which overlaps neither qkv nor dy; grad (+=). In bf16 and fp16, q, k and v after the convolution,
///          the softmax's weights, their gradients and those of q, k and v are rounded to the element; scores and sums
///          are float. The same input gives the same bits.
/// Throws   shape_error if the rows disagree; nothing is written then.
template <attention_shape A, precision P>
void attention_core_backward(context<P>& ctx,
                             std::type_identity_t<rows<element<P> const, 3 * A.width(), space::device>> qkv,
                             attention_parameters<A, float const, space::device> const& p,
                             std::type_identity_t<rows<element<P> const, A.width(), space::device>> dy,
                             std::type_identity_t<rows<element<P>, 3 * A.width(), space::device>> dqkv,
                             attention_parameters<A, float, space::device> const& grad, int length) {
  whole_sequences("attention_core_backward.qkv", qkv.count, length);
  require_extent("attention_core_backward.dy rows", dy.count, qkv.count);
  require_extent("attention_core_backward.dqkv rows", dqkv.count, qkv.count);
  // Up to 80 tokens, then up to 208, then any number, in bf16 and fp16; whatever fits none of these, one by one.
  if (detail::attention_core::try_backward_tensor<5, A, P>(ctx, qkv, p, dy, dqkv, grad, length)) return;
  if (detail::attention_core::try_backward_tensor<13, A, P>(ctx, qkv, p, dy, dqkv, grad, length)) return;
  if constexpr (detail::attention_core::streams<element<P>>(A)) {
    if (detail::attention_core::try_backward_streamed<A, P>(ctx, qkv, p, dy, dqkv, grad, length)) return;
  }
  detail::attention_core::launch_backward_general<A>(ctx, qkv, p, dy, dqkv, grad, length);
}

}  // namespace dm2::cuda
