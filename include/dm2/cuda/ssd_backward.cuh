/// @file
/// State-space duality, backward, alone or inside a model. This header is all that a caller needs.
///
/// Saved: nothing but the scan's operands. Computed again: decays, scores C B^T, and the states where there are any.
/// Four forms (ssd/backward_operands.cuh says what a form is):
///  - quadratic (ssd/backward_quadratic.cuh): short sequences of 16-bit numbers on the tensor cores; a mixer asks for
///    it with the convolution inside (ssd/backward_quadratic_projected.cuh);
///  - chunked (ssd/backward_chunked.cuh): longer ones, in chunks of 64 tokens with the states between them;
///  - in tiles of float or TF32 (ssd/backward_tiled.cuh): float up to 1024 tokens, as masked products;
///  - chunks in float (ssd/backward_general.cuh): everything else.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/error.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/ssd.cuh>
#include <dm2/cuda/ssd/backward_chunked.cuh>
#include <dm2/cuda/ssd/backward_general.cuh>
#include <dm2/cuda/ssd/backward_quadratic.cuh>
#include <dm2/cuda/ssd/backward_quadratic_projected.cuh>
#include <dm2/cuda/ssd/backward_tiled.cuh>
#include <dm2/cuda/tile/partial_sums.cuh>

#include <cstddef>
#include <type_traits>

namespace dm2::cuda {

/// Gradients of ssd; T as in ssd_input, those of dt, A and D are float.
template <mixer_shape M, class T>
using ssd_gradient = dm2::ssd_gradient<M, T, space::device, float>;

namespace detail::ssd {

/// f with the form of the scan's backward that takes these operands. Tf32: float's products may be TF32's; scratch is
/// the same.
template <bool Tf32 = false, mixer_shape M, class T, class F>
auto with_backward_form([[maybe_unused]] backward_operands<M, T> const& p,
                        [[maybe_unused]] device_properties const& device, F const& f) {
  if constexpr (backward_quadratic<M, T>::possible) {
    if (backward_quadratic<M, T>::fits(p, device)) return f(backward_quadratic<M, T>{});
  }
  if constexpr (backward_chunked<M, T>::possible) {
    if (backward_chunked<M, T>::fits(p, device)) return f(backward_chunked<M, T>{});
  }
  if constexpr (backward_tiled<M, T, Tf32>::possible) {
    if (backward_tiled<M, T, Tf32>::fits(p, device)) return f(backward_tiled<M, T, Tf32>{});
  }
  return f(backward_general<M, T>{});
}

/// Bytes of scratch of launch_ssd_backward.
template <mixer_shape M, class T>
std::size_t backward_scratch(backward_operands<M, T> const& p, device_properties const& device) {
  return with_backward_form(p, device,
                            [&](auto form) { return decltype(form)::scratch_bytes(p.sequences, p.length, device); });
}

/// Enqueues the scan's backward; scratch from `memory`.
template <bool Tf32 = false, mixer_shape M, class T>
void launch_backward(backward_operands<M, T> const& p, arena& memory, device_properties const& device,
                     cudaStream_t stream) {
  arena_scope const scope{memory};
  std::byte* const scratch = memory.template take<std::byte>(backward_scratch(p, device));
  with_backward_form<Tf32>(p, device, [&](auto form) { decltype(form)::launch(p, scratch, device, stream); });
}

/// The operands of the public operation, but for where the sums for A and D go.
template <mixer_shape M, class T>
backward_operands<M, T> operands_of(ssd_input<M, T> const& in, T const* dy, ssd_gradient<M, T> const& grad,
                                    int sequences) {
  constexpr int inner = M.d_inner(), states = M.groups * M.d_state;
  backward_operands<M, T> p{};
  p.x = in.x.data, p.b = in.b.data, p.c = in.c.data, p.dy = dy;
  p.dt = in.dt.data, p.a = in.a.data, p.d = in.d.data;
  p.dx = grad.x.data, p.db = grad.b.data, p.dc = grad.c.data, p.ddt = grad.dt.data;
  p.x_stride = p.dy_stride = p.dx_stride = inner;
  p.b_stride = p.c_stride = p.db_stride = p.dc_stride = states;
  p.sequences = p.set_size = sequences, p.length = in.length;
  return p;
}

}  // namespace detail::ssd

/// The gradient of ssd.
///
/// Shapes   ssd_input, ssd_gradient; dy [B L, H P]. Any L >= 1.
/// Writes   as ssd_gradient says; no gradient overlaps an input. The same input on the same device gives the same bits.
/// Forms    for T of 16 bits, a multiple of 16 states and of 8 columns a head, where every pointer is at a multiple of
///          16 bytes: quadratic for at most 240 tokens where it fits into a block's shared memory and 16 divides a
///          head's columns, chunked otherwise. T = float, with 4 dividing P and N and such pointers, is in tiles up to
///          1024 tokens, TF32's where the context has that precision. In chunks of 64 tokens in float for all else.
/// Scratch  Two floats for each sequence and head; in the quadratic form that is all. In chunks for each sequence, head
///          and 64 tokens 8 bytes, and 4 N P up to about 512 MB; in float 8 N P + 16400 bytes, at most about 256 MB.
///          In tiles 12 L^2 bytes for each sequence and group, at most about 64 MB. One sequence's are taken in any
///          case.
/// Throws   shape_error if the operands disagree; nothing is written then.
/// Source   Dao & Gu 2024 (arXiv 2405.21060); the equations: ssd/backward_general.cuh.
template <mixer_shape M, class T, precision P>
void ssd_backward(context<P>& ctx, ssd_input<M, T> const& in,
                  std::type_identity_t<rows<T const, M.d_inner(), space::device>> dy, ssd_gradient<M, T> const& grad) {
  static_assert(M.heads % M.groups == 0, "dm2::cuda::ssd_backward: groups must divide heads");
  int const count = in.sequences();
  require_extent("ssd_backward.dy rows", dy.count, in.x.count);
  require_extent("ssd_backward.grad.x rows", grad.x.count, in.x.count);
  require_extent("ssd_backward.grad.dt rows", grad.dt.count, in.x.count);
  require_extent("ssd_backward.grad.b rows", grad.b.count, in.x.count);
  require_extent("ssd_backward.grad.c rows", grad.c.count, in.x.count);
  std::size_t const sums = std::size_t(count) * M.heads;
  auto operands = detail::ssd::operands_of<M, T>(in, dy.data, grad, count);
  if (!ctx.reserve(2 * sums * sizeof(float) + detail::ssd::backward_scratch(operands, ctx.device()) +
                   2 * arena::alignment) ||
      count == 0)
    return;
  arena_scope const scope{ctx.shared()};
  operands.da = ctx.shared().template take<float>(2 * sums), operands.d_skip = operands.da + sums;
  detail::ssd::launch_backward<P == precision::tf32>(operands, ctx.shared(), ctx.device(), ctx.stream());
  detail::add_parts("ssd_backward: A", ctx.stream(), operands.da, count, M.heads, grad.a.data);
  detail::add_parts("ssd_backward: D", ctx.stream(), operands.d_skip, count, M.heads, grad.d.data);
}

}  // namespace dm2::cuda
