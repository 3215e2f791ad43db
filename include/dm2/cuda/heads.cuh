/// @file
/// The classifiers of class token and patches, and their gradient.
///
/// Saved: the features, 75,648 bytes an image at Tiny's size in 16 bits, and what the loss keeps of the logits.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/gemm.cuh>
#include <dm2/cuda/heads/general.cuh>
#include <dm2/cuda/heads/patches.cuh>
#include <dm2/cuda/heads/tensor.cuh>
#include <dm2/cuda/linear.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dm2::cuda {
namespace detail::heads {

/// Whether the tensor kernel has code for T and D channels: whole fragments, and weights that fit registers.
template <class T>
constexpr bool fits(int dim) {
  return is_half<T> && dim % 16 == 0 && dim <= 512;
}

/// Warps that share classes: no more classes a block than there are, and blocks for the device where pictures are few.
template <class Tr>
int class_parts(device_properties const& device, int batch) {
  int parts = 1;
  auto const blocks = [&] { return std::int64_t{batch} * ((Tr::classes * parts - 1) / Tr::block_classes + 1); };
  while (parts < Tr::warps &&
         (Tr::block_classes / (2 * parts) >= Tr::classes || 2 * blocks() <= device.multiprocessors))
    parts *= 2;
  return parts;
}

template <class Tr>
void launch_heads(arguments<Tr> call, device_properties const& device, cudaStream_t stream, bool early) {
  call.parts = class_parts<Tr>(device, call.batch);
  int const slices = (Tr::classes * call.parts - 1) / Tr::block_classes + 1;
  int const columns = std::min(call.batch, std::max(1, device.multiprocessors / slices));
  call.pictures = (call.batch - 1) / columns + 1;
  dim3 const grid(unsigned((call.batch - 1) / call.pictures + 1), unsigned(slices));
  launch("evaluation_heads", kernel<Tr>, {grid, Tr::threads, Tr::bytes, early}, stream, call);
}

/// False where the device or an address does not allow the tensor kernel, and nothing was launched.
template <precision P, int K, int D>
bool evaluation_heads_tensor(context<P>& ctx, rows<element<P> const, D, space::device> features,
                             head_parameters<float const, K, D, space::device, element<P> const> const& p,
                             rows<float, K, space::device> logits, int length) {
  using T = element<P>;
  auto const aligned = [](T const* at) { return reinterpret_cast<std::uintptr_t>(at) % 16 == 0; };
  if (!aligned(features.data) || !aligned(p.cls.weight.data) || !aligned(p.aux.weight.data)) return false;
  auto const launch = [&]<class Tr>(Tr) {
    if (Tr::bytes > std::size_t(ctx.device().shared_per_block)) return false;
    if (!ctx.reserve(0)) return true;
    arguments<Tr> const call{.features = features.data,
                             .weight = p.cls.weight.data,
                             .aux = p.aux.weight.data,
                             .bias = p.cls.bias.data,
                             .aux_bias = p.aux.bias.data,
                             .logits = logits.data,
                             .batch = int(logits.count),
                             .length = length,
                             .pictures = 1,
                             .parts = 1};
    launch_heads(call, ctx.device(), ctx.stream(), ctx.early());
    return true;
  };
  return launch(traits<T, K, D, 4>{}) || launch(traits<T, K, D, 2>{});
}

}  // namespace detail::heads

/// logits = head(class token) + max over patches of aux_head(patch) / 2
///
/// Shapes   features [B L, D], class token at (L - 1) / 2, at least one patch; logits [B, K].
/// Writes   logits (=). The patches' logits are not stored. Sums are float.
/// Stream   the context's; no synchronisation.
/// Throws   shape_error if the row counts disagree, or the length leaves no patch; nothing is written then.
template <precision P, int K, int D>
void evaluation_heads(context<P>& ctx, std::type_identity_t<rows<element<P> const, D, space::device>> features,
                      head_parameters<float const, K, D, space::device, element<P> const> const& p,
                      std::type_identity_t<rows<float, K, space::device>> logits, int length) {
  int const batch = whole_sequences("evaluation_heads.features", features.count, length);
  if (length < 2) throw shape_error{"evaluation_heads.length: got 1, expected at least 2: the class token and a patch"};
  require_extent("evaluation_heads.logits rows", logits.count, std::size_t(batch));
  if (batch == 0) return;
  if constexpr (detail::heads::fits<element<P>>(D)) {
    if (detail::heads::evaluation_heads_tensor(ctx, features, p, logits, length)) return;
  }
  detail::heads::evaluation_heads_general(ctx, features, p, logits, length);
}

/// cls = head(class token), aux = aux_head(patch) for every patch.
///
/// Shapes   features [B L, D]; cls [B, K]; aux [B (L - 1), K]. Each is float, or of the context's element: its sums are
///          float, and rounded once, but for the bias, which is rounded before.
/// Writes   cls, aux (=). Either may be a view of nothing, and is not computed then.
/// Scratch  the patches' features in one piece.
/// Stream   the context's; no synchronisation.
/// Throws   shape_error if the row counts disagree; nothing is written then.
template <precision P, int K, int D, class C = float, class A = float>
void training_heads(context<P>& ctx, std::type_identity_t<rows<element<P> const, D, space::device>> features,
                    head_parameters<float const, K, D, space::device, element<P> const> const& p,
                    rows<C, K, space::device> cls, rows<A, K, space::device> aux, int length) {
  using T = element<P>;
  static_assert((std::is_same_v<C, float> || std::is_same_v<C, T>)&&(std::is_same_v<A, float> || std::is_same_v<A, T>),
                "dm2::cuda::training_heads: logits must be float, or of the context's element");
  int const batch = whole_sequences("training_heads.features", features.count, length);
  std::size_t const patches = features.count - std::size_t(batch);
  if (cls.data != nullptr) require_extent("training_heads.cls rows", cls.count, std::size_t(batch));
  if (aux.data != nullptr) require_extent("training_heads.aux rows", aux.count, patches);
  bool const run = ctx.reserve(patches * D * sizeof(T) + arena::alignment);
  if (batch == 0) return;
  if (cls.data != nullptr || !run)
    gemm<op::plain, op::transposed>(ctx, detail::heads::class_tokens(features, batch, length),
                                    detail::as_matrix(p.cls.weight), matrix<C>{cls.data, batch, K},
                                    {nullptr, p.cls.bias.data});
  if ((aux.data == nullptr && run) || patches == 0) return;
  arena_scope const scope{ctx.shared()};
  rows<T, D, space::device> const gathered{ctx.shared().template take<T>(patches * D), patches};
  if (run)
    detail::heads::move_patches<detail::heads::patch_move::gather, D>("training_heads: patches", ctx.stream(),
                                                                      features.data, gathered.data, patches, length);
  linear(ctx, gathered, p.aux.weight, p.aux.bias, rows<A, K, space::device>{aux.data, patches});
}

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
  int const batch = whole_sequences("training_heads_backward.features", features.count, length);
  std::size_t const patches = features.count - std::size_t(batch);
  require_extent("training_heads_backward.dcls rows", dcls.count, std::size_t(batch));
  require_extent("training_heads_backward.daux rows", daux.count, patches);
  require_extent("training_heads_backward.dfeatures rows", dfeatures.count, features.count);
  bool const run = ctx.reserve(patches * D * sizeof(T) + arena::alignment +
                               std::max(detail::linear_backward_scratch<T, cls_gradient>(std::size_t(batch), K),
                                        detail::linear_backward_scratch<T, aux_gradient>(patches, K)));
  if (batch == 0) return;
  rows<cls_gradient const, K, space::device> const dcls_in{dcls};
  detail::linear_gradients(ctx, detail::heads::class_tokens(features, batch, length), detail::as_matrix(p.cls.weight),
                           detail::as_matrix(dcls_in), detail::heads::class_tokens(dfeatures, batch, length),
                           detail::as_matrix(grad.cls.weight), grad.cls.bias.data);
  if (patches == 0) return;
  arena_scope const scope{ctx.shared()};
  T* const memory = ctx.shared().template take<T>(patches * D);
  matrix<T> const moved{memory, std::int64_t(patches), D};
  matrix<T const> const x{memory, moved.rows, D};
  rows<aux_gradient const, K, space::device> const daux_in{daux};
  if (run)
    detail::heads::move_patches<detail::heads::patch_move::gather, D>("training_heads_backward: patches", ctx.stream(),
                                                                      features.data, memory, patches, length);
  detail::linear_gradients(ctx, x, detail::as_matrix(p.aux.weight), detail::as_matrix(daux_in), moved,
                           detail::as_matrix(grad.aux.weight), grad.aux.bias.data);
  if (run)
    detail::heads::move_patches<detail::heads::patch_move::scatter, D>("training_heads_backward: patches", ctx.stream(),
                                                                       memory, dfeatures.data, patches, length);
}

}  // namespace dm2::cuda
