/// @file
/// The gradient of the two classifiers.
///
/// Saved: the features, 75,648 bytes an image at Tiny's size in 16 bits, and what the loss keeps of the logits.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/gemm.cuh>
#include <dm2/cuda/heads/patches.cuh>
#include <dm2/cuda/linear_backward.cuh>
#include <dm2/cuda/sequences.cuh>

#include <algorithm>
#include <cstddef>
#include <type_traits>

namespace dm2::cuda {

/// The gradient of training_heads.
///
/// Shapes   features, dfeatures [B L, D]; dcls [B, K]; daux [B (L - 1), K]. dcls and daux are of the context's element,
///          or float, and then they are rounded for the products.
/// Writes   dfeatures (=); grad (+=). Nothing overlaps.
/// Scratch  the patches' features in one piece, where their gradient comes next; daux, rounded, where it is not of the
///          context's element.
/// Stream   the context's; no synchronisation.
/// Throws   shape_error if the row counts disagree; nothing is written then.
template <precision P, int K, int D, class C, class A>
void training_heads_backward(context<P>& ctx, std::type_identity_t<rows<element<P> const, D, space::device>> features,
                             head_parameters<float const, K, D, space::device, element<P> const> const& p,
                             rows<C, K, space::device> dcls, rows<A, K, space::device> daux,
                             std::type_identity_t<rows<element<P>, D, space::device>> dfeatures,
                             head_parameters<float, K, D, space::device> const& grad, int length) {
  using T = element<P>;
  using cls_gradient = std::remove_const_t<C>;
  using aux_gradient = std::remove_const_t<A>;
  static_assert((std::is_same_v<cls_gradient, T> || std::is_same_v<cls_gradient, float>)&&(
                    std::is_same_v<aux_gradient, T> || std::is_same_v<aux_gradient, float>),
                "dm2::cuda::training_heads_backward: gradients must be float, or of the context's element");
  int const batch = detail::whole_sequences("training_heads_backward.features", features.count, length);
  std::size_t const patches = features.count - std::size_t(batch);
  require_extent("training_heads_backward.dcls rows", dcls.count, std::size_t(batch));
  require_extent("training_heads_backward.daux rows", daux.count, patches);
  require_extent("training_heads_backward.dfeatures rows", dfeatures.count, features.count);
  bool const run = ctx.reserve(patches * D * sizeof(T) + arena::alignment +
                               std::max(detail::linear_backward_scratch<T, cls_gradient>(std::size_t(batch), K),
                                        detail::linear_backward_scratch<T, aux_gradient>(patches, K)));
  if (batch == 0) return;
  rows<cls_gradient const, K, space::device> const dcls_in{dcls};
  detail::linear_gradients(ctx, detail::class_tokens(features, batch, length), detail::as_matrix(p.cls.weight),
                           detail::as_matrix(dcls_in), detail::class_tokens(dfeatures, batch, length),
                           detail::as_matrix(grad.cls.weight), grad.cls.bias.data);
  if (patches == 0) return;
  arena_scope const scope{ctx.shared()};
  T* const memory = ctx.shared().template take<T>(patches * D);
  matrix<T> const moved{memory, std::int64_t(patches), D};
  matrix<T const> const x{memory, moved.rows, D};
  rows<aux_gradient const, K, space::device> const daux_in{daux};
  if (run)
    detail::move_patches<detail::patch_move::gather, D>("training_heads_backward: patches", ctx.stream(), features.data,
                                                        memory, patches, length);
  detail::linear_gradients(ctx, x, detail::as_matrix(p.aux.weight), detail::as_matrix(daux_in), moved,
                           detail::as_matrix(grad.aux.weight), grad.aux.bias.data);
  if (run)
    detail::move_patches<detail::patch_move::scatter, D>("training_heads_backward: patches", ctx.stream(), memory,
                                                         dfeatures.data, patches, length);
}

}  // namespace dm2::cuda
