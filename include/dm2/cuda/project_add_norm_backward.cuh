/// @file
/// Project-add-norm's backward: output projection, residual addition, norm, next input projection.
///
/// Saved by the forward: the residual stream at each norm, float, with 1 / root mean square, and what each core read
/// and wrote: at Tiny's size, with 16-bit activations, 152,084 + 406,608 + 302,592 bytes an image and block.
/// Recomputed: the normed rows, in the pass that takes the gradient through the norm. That pass also rounds the
/// residual's gradient for the two products that read it.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/device/properties.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/gemm.cuh>
#include <dm2/cuda/project_add_norm/backward_general.cuh>
#include <dm2/cuda/project_add_norm/backward_hopper.cuh>
#include <dm2/cuda/project_add_norm/backward_tensor.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/tile/partial_sums.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dm2::cuda {

// The backward as one kernel: which one, and its launch.

/// Which form project_add_norm_project_backward takes. Where the one that is named does not do the sizes, the addresses
/// or the device: composed.
enum class project_add_norm_backward_form : unsigned char { automatic, general, tensor, hopper };

namespace detail::project_add_norm {

/// The kernel for these sizes on every device. A block takes 128 rows and a Hopper's shared memory, as the forward's.
template <class T, int D, int K, int N>
using backward_tensor_form = backward_tensor_traits<T, D, K, N, most_shared_bytes>;
/// The kernel for these sizes on a Hopper: Tiny's 50,432 rows 140 us for the other's 260.
template <class T, int D, int K, int N>
using backward_hopper_form = backward_hopper_traits<T, D, K, N, 2>;

/// Tiles of rows of either kernel, and at most so many blocks, each of which writes a row of partial sums.
inline int row_tiles(std::size_t count) { return int((count + 127) / 128); }

/// Whether every address is a multiple of what the kernel reads or writes there at once.
template <class T>
bool backward_aligned(backward_arguments<T> const& p) {
  auto const vectors = [](auto const*... at) { return (packets_at<16 / int(sizeof(*at))>(at) && ...); };
  auto const pairs = [](auto const*... at) { return (packets_at<2>(at) && ...); };
  return vectors(p.dy, p.in, p.normed, p.rounded, p.out, p.dg) && pairs(p.residual, p.norm, p.dresidual);
}

/// Launches a kernel, and adds its sums to dnorm.
template <class T>
using backward_launch = void (*)(cudaStream_t stream, arena& scratch, device_properties const& device,
                                 backward_arguments<T> p, float* dnorm);

template <class Tr>
void launch_backward_tensor(cudaStream_t stream, arena& scratch, device_properties const&,
                            backward_arguments<typename Tr::element> p, float* dnorm) {
  arena_scope const scope{scratch};
  int const tiles = row_tiles(std::size_t(p.count));
  p.parts = scratch.take<float>(std::size_t(tiles) * Tr::dim);
  launch("project_add_norm_backward", backward_tensor_kernel<Tr>, {unsigned(tiles), Tr::threads, Tr::bytes}, stream, p);
  add_parts("project_add_norm_backward: norm", stream, p.parts, tiles, Tr::dim, dnorm);
}

/// What launches the kernel to take; null where it is none. One kernel is faster than the products one by one where its
/// tiles fill three quarters of the device.
template <int D, int K, int N, class T>
backward_launch<T> backward_kernel_for(device_properties const& device, project_add_norm_backward_form choice,
                                       backward_arguments<T> const& p) {
  using Form = backward_tensor_form<T, D, K, N>;
  using Hopper = backward_hopper_form<T, D, K, N>;
  std::int64_t const tiles = row_tiles(std::size_t(p.count));
  bool const automatic =
      choice == project_add_norm_backward_form::automatic && 4 * tiles >= 3 * std::int64_t{device.multiprocessors};
  if constexpr (Hopper::possible)
    if ((automatic || choice == project_add_norm_backward_form::hopper) && backward_hopper_runs<Hopper>(device) &&
        backward_mappable(p))
      return launch_backward_hopper<Hopper>;
  if constexpr (Form::possible)
    if ((automatic || choice == project_add_norm_backward_form::tensor) && Form::bytes <= device.shared_per_block &&
        backward_aligned(p))
      return launch_backward_tensor<Form>;
  return nullptr;
}

}  // namespace detail::project_add_norm
namespace detail::project_add_norm {

/// Bytes of scratch of this file's operations; `norm` and `project`: what gradient_rows takes.
template <class T, int D, int N>
std::size_t backward_scratch(std::size_t count, bool norm, bool project) {
  std::size_t const tiles = std::size_t(row_tiles(count)) * D * sizeof(float) + arena::alignment;
  return planned_bytes<gradient_rows<T, D>>(count, norm, project) + std::max(tiles, sums_scratch<D, N>(count));
}

}  // namespace detail::project_add_norm

/// The gradient of norm_project: dnormed = dy in, then through the norm. dnormed is rounded to the operands' type.
///
/// Shapes   as norm_project; dy [R, N]; dresidual [R, D].
/// Writes   dresidual (+=), grad (+=). Nothing overlaps.
/// Stream   the context's; no synchronisation.
/// Throws   shape_error if the row counts differ; nothing is written then.
template <precision P, int N, int D>
void norm_project_backward(context<P>& ctx, norm_point<float, D, space::device> point,
                           norm_projection<float const, N, D, space::device, element<P> const> const& p,
                           std::type_identity_t<rows<element<P> const, N, space::device>> dy,
                           std::type_identity_t<rows<float, D, space::device>> dresidual,
                           norm_projection<float, N, D, space::device> const& grad) {
  using T = element<P>;
  require_extent("norm_project_backward.dy rows", dy.count, point.residual.count);
  require_extent("norm_project_backward.dresidual rows", dresidual.count, point.residual.count);
  static_cast<void>(ctx.reserve(detail::project_add_norm::backward_scratch<T, D, N>(dy.count, true, false)));
  if (dy.count == 0) return;
  arena_scope const scope{ctx.shared()};
  detail::project_add_norm::gradient_rows<T, D> const s{ctx.shared(), dy.count, true, false};
  detail::project_add_norm::norm_project_data_gradient(ctx, s, point, p, dy, dresidual, grad.norm);
  detail::project_add_norm::norm_project_weight_gradients(ctx, s, dy, grad.in);
}

/// The gradient of project_add_norm_project.
///
/// Shapes   from.core, grad.core [R, K]; dy [R, N]; dresidual [R, D]: on entry the gradient of point.residual from
///          everything after, on return that of `before`.
/// Writes   dresidual (updated); grad.core (=); grad.out, dp (+=). Nothing overlaps.
/// Stream   the context's; no synchronisation. The activations' gradients by one kernel for 16-bit numbers where there
///          are rows enough, by products through cuBLASLt otherwise; the kernel does not round dnormed.
/// Throws   shape_error if the row counts differ; nothing is written then.
template <precision P, int D, int K, int N>
void project_add_norm_project_backward(
    context<P>& ctx, core_projection<float const, D, K, space::device, element<P> const, element<P> const> const& from,
    norm_point<float, D, space::device> point,
    norm_projection<float const, N, D, space::device, element<P> const> const& p,
    std::type_identity_t<rows<element<P> const, N, space::device>> dy,
    std::type_identity_t<rows<float, D, space::device>> dresidual,
    core_projection<float, D, K, space::device, element<P>> const& grad,
    norm_projection<float, N, D, space::device> const& dp,
    project_add_norm_backward_form choice = project_add_norm_backward_form::automatic) {
  using T = element<P>;
  require_extent("project_add_norm_project_backward.from.core rows", from.core.count, point.residual.count);
  require_extent("norm_project_backward.dy rows", dy.count, point.residual.count);
  require_extent("norm_project_backward.dresidual rows", dresidual.count, point.residual.count);
  require_extent("project_add_norm_project_backward.grad.core rows", grad.core.count, point.residual.count);
  bool const run = ctx.reserve(detail::project_add_norm::backward_scratch<T, D, N>(dy.count, true, true));
  if (dy.count == 0) return;
  arena_scope const scope{ctx.shared()};
  detail::project_add_norm::gradient_rows<T, D> const s{ctx.shared(), dy.count, true, true};
  detail::project_add_norm::backward_arguments<T> const arguments{.dy = dy.data,
                                                                  .in = p.in.weight.data,
                                                                  .residual = point.residual.data,
                                                                  .rstd = point.rstd,
                                                                  .norm = p.norm.data,
                                                                  .dresidual = dresidual.data,
                                                                  .normed = s.normed.data,
                                                                  .rounded = s.rounded.data,
                                                                  .out = from.out.weight.data,
                                                                  .dg = grad.core.data,
                                                                  .count = int(dy.count)};
  if (auto const kernel = detail::project_add_norm::backward_kernel_for<D, K, N>(ctx.device(), choice, arguments)) {
    if (run) kernel(ctx.stream(), ctx.shared(), ctx.device(), arguments, dp.norm.data);
  } else {
    detail::project_add_norm::norm_project_data_gradient(ctx, s, point, p, dy, dresidual, dp.norm);
    gemm<op::plain, op::plain>(ctx, detail::project_add_norm::residual_operand(s, dresidual),
                               detail::as_matrix(from.out.weight), detail::as_matrix(grad.core));
  }
  detail::project_add_norm::norm_project_weight_gradients(ctx, s, dy, dp.in);
  detail::project_add_norm::project_add_weight_gradients(ctx, s, from.core, dresidual, grad.out);
}

/// The gradient of project_add_norm.
///
/// Shapes   from.core, grad.core [R, K]; dy, dresidual [R, D].
/// Writes   dresidual (=), the gradient of `before`; grad.core (=); grad.out, dnorm (+=). Nothing overlaps.
/// Stream   the context's; no synchronisation.
/// Throws   shape_error if the row counts differ; nothing is written then.
template <precision P, int D, int K>
void project_add_norm_backward(
    context<P>& ctx, core_projection<float const, D, K, space::device, element<P> const, element<P> const> const& from,
    norm_point<float, D, space::device> point, std::type_identity_t<block<float const, space::device, D>> norm,
    std::type_identity_t<rows<element<P> const, D, space::device>> dy,
    std::type_identity_t<rows<float, D, space::device>> dresidual,
    core_projection<float, D, K, space::device, element<P>> const& grad,
    std::type_identity_t<block<float, space::device, D>> dnorm) {
  using T = element<P>;
  require_extent("project_add_norm_backward.from.core rows", from.core.count, point.residual.count);
  require_extent("project_add_norm_backward.dy rows", dy.count, point.residual.count);
  require_extent("project_add_norm_backward.dresidual rows", dresidual.count, point.residual.count);
  require_extent("project_add_norm_backward.grad.core rows", grad.core.count, point.residual.count);
  bool const run = ctx.reserve(detail::project_add_norm::backward_scratch<T, D, 0>(dy.count, false, true));
  if (dy.count == 0) return;
  arena_scope const scope{ctx.shared()};
  detail::project_add_norm::gradient_rows<T, D> const s{ctx.shared(), dy.count, false, true};
  if (run) {
    detail::norm_gradient_call<T, T> const call{.x = point.residual.data,
                                                .w = norm.data,
                                                .rstd = point.rstd,
                                                .dy = dy.data,
                                                .dx = dresidual.data,
                                                .rounded = s.rounded.data,
                                                .count = dy.count};
    detail::norm_gradient<D, false>(ctx.stream(), ctx.shared(), call, dnorm.data);
  }
  gemm<op::plain, op::plain>(ctx, detail::project_add_norm::residual_operand(s, dresidual),
                             detail::as_matrix(from.out.weight), detail::as_matrix(grad.core));
  detail::project_add_norm::project_add_weight_gradients(ctx, s, from.core, dresidual, grad.out);
}

}  // namespace dm2::cuda
