/// @file
/// Project-add-norm: output projection, residual addition, norm, next input projection.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/device/properties.cuh>
#include <dm2/cuda/project_add_norm/few.cuh>
#include <dm2/cuda/project_add_norm/general.cuh>
#include <dm2/cuda/project_add_norm/hopper.cuh>
#include <dm2/cuda/project_add_norm/tensor.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <cstddef>
#include <type_traits>

namespace dm2::cuda {
namespace detail::project_add_norm {

/// The kernel for these sizes where a Hopper's does not do them. A block takes 128 rows and a Hopper's shared memory:
/// with fewer rows, or a smaller memory, it would read the weights from the L2 cache more often than it takes the
/// products apart.
template <class T, int D, int K, int N, int U>
using tensor_form = tensor_traits<T, D, K, N, U, 128, most_shared_bytes>;

/// Whether it does these sizes on this device, and faster than the products one by one: `count` rows have to fill
/// three quarters of it. On an H100, Tiny's sizes: 50,432 rows 199 us for 210, 6,304 rows 54 us for 25.
template <class T, int D, int K, int N, int U>
bool tensor_fits(device_properties const& device, std::size_t count) {
  using Tr = tensor_form<T, D, K, N, U>;
  if constexpr (Tr::possible)
    return Tr::bytes <= device.shared_per_block &&
           4 * ((count + Tr::rows - 1) / Tr::rows) >= 3 * std::size_t(device.multiprocessors);
  else
    return false;
}

/// Whether one kernel is the way to do these sizes on this device for so many rows.
template <class T, int D, int K, int N, int U>
bool many_fits(device_properties const& device, std::size_t count) {
  return hopper_fits<T, D, K, N, U>(device, count) || tensor_fits<T, D, K, N, U>(device, count);
}

/// Whether every address is a multiple of the 16 bytes that those kernels read or write there at once.
template <class T>
bool many_aligned(arguments<T> const& p) {
  auto const whole = [](auto const*... at) { return (packets_at<16 / int(sizeof(*at))>(at) && ...); };
  return whole(p.g, p.out, p.out_bias, p.before, p.after, p.norm, p.in, p.in_bias, p.y);
}

/// One kernel, where it is the way to take, on this device and for so many rows; else false.
template <int D, int K, int N, int U, precision P>
bool try_many(context<P>& ctx, arguments<element<P>> const& p) {
  using T = element<P>;
  using Tr = tensor_form<T, D, K, N, U>;
  using Hopper = hopper_traits<T, D, K, N, U>;
  if (!many_fits<T, D, K, N, U>(ctx.device(), std::size_t(p.count)) || !many_aligned(p)) return false;
  if (!ctx.reserve(0)) return true;
  if constexpr (Hopper::possible)
    if (hopper_fits<T, D, K, N, U>(ctx.device(), std::size_t(p.count))) {
      launch_hopper<Hopper>(p, ctx.device().multiprocessors, ctx.stream(), ctx.early());
      return true;
    }
  if constexpr (Tr::possible)
    launch("project_add_norm", tensor_kernel<Tr>,
           {unsigned((p.count + Tr::rows - 1) / Tr::rows), Tr::threads, Tr::bytes}, ctx.stream(), p);
  return true;
}

/// One kernel or two, where they are the way to take; else false.
template <int D, int K, int N, int U, precision P>
bool try_kernels(context<P>& ctx, arguments<element<P>> const& p) {
  return try_many<D, K, N, U>(ctx, p) || try_few<D, K, N, U>(ctx, p);
}

/// Whether they are for so many rows of g that still lack their norm, with the squares of U units of each half.
template <class T, int D, int K, int N, int U>
bool take_squares(device_properties const& device, std::size_t count) {
  return many_fits<T, D, K, N, U>(device, count) || few_row_tiles<T, D, K, N, U>(device, count) != 0;
}

}  // namespace detail::project_add_norm

/// y = RMSNorm(point.residual) in^T + bias; point.rstd is set unless it is null.
///
/// Shapes   point.residual [R, D]; y [R, N]; the weights of `in` are of the context's element type.
/// Writes   y, point.rstd (=).
/// Stream   the context's; no synchronisation.
/// Throws   shape_error if the row counts differ.
template <precision P, int N, int D>
void norm_project(context<P>& ctx, norm_point<float, D, space::device> point,
                  norm_projection<float const, N, D, space::device, element<P> const> const& p, double eps,
                  std::type_identity_t<rows<element<P>, N, space::device>> y) {
  require_extent("norm_project.y rows", y.count, point.residual.count);
  detail::project_add_norm::arguments<element<P>> const arguments{.before = point.residual.data,
                                                                  .rstd = point.rstd,
                                                                  .norm = p.norm.data,
                                                                  .in = p.in.weight.data,
                                                                  .in_bias = p.in.bias.data,
                                                                  .y = y.data,
                                                                  .count = int(y.count),
                                                                  .eps = float(eps)};
  if (detail::project_add_norm::try_kernels<D, 0, N, 0>(ctx, arguments)) return;
  detail::project_add_norm::norm_project_general(ctx, point, p, eps, y);
}

/// point.residual = before + g out^T + bias, then y = RMSNorm(point.residual) in^T + bias.
///
/// Shapes   g [R, K], what a core wrote; before [R, D]; y [R, N], what the next core reads.
/// Writes   point, y (=). point.residual may be `before`.
/// Stream   the context's; no synchronisation. For 16-bit numbers one kernel where there are many rows, two where there
///          are few; products through cuBLASLt otherwise, and where sizes or addresses do not suit those.
/// Throws   shape_error if the row counts differ.
template <precision P, int D, int K, int N>
void project_add_norm_project(context<P>& ctx, std::type_identity_t<rows<element<P> const, K, space::device>> g,
                              linear_parameters<float const, D, K, space::device, element<P> const> const& out,
                              std::type_identity_t<rows<float const, D, space::device>> before,
                              norm_point<float, D, space::device> point,
                              norm_projection<float const, N, D, space::device, element<P> const> const& p, double eps,
                              std::type_identity_t<rows<element<P>, N, space::device>> y) {
  require_extent("project_add.before rows", before.count, g.count);
  require_extent("project_add.after rows", point.residual.count, g.count);
  require_extent("norm_project.y rows", y.count, point.residual.count);
  detail::project_add_norm::arguments<element<P>> const arguments{.g = g.data,
                                                                  .out = out.weight.data,
                                                                  .out_bias = out.bias.data,
                                                                  .before = before.data,
                                                                  .after = point.residual.data,
                                                                  .rstd = point.rstd,
                                                                  .norm = p.norm.data,
                                                                  .in = p.in.weight.data,
                                                                  .in_bias = p.in.bias.data,
                                                                  .y = y.data,
                                                                  .count = int(y.count),
                                                                  .eps = float(eps)};
  if (detail::project_add_norm::try_kernels<D, K, N, 0>(ctx, arguments)) return;
  detail::project_add_norm::project_add_norm_project_general(ctx, g, out, before, point, p, eps, y);
}

/// The end of the trunk: point.residual = before + g out^T + bias, then y = RMSNorm(point.residual).
///
/// Shapes   g [R, K]; before, y [R, D].
/// Writes   point, y (=). point.residual may be `before`.
/// Stream   the context's; no synchronisation.
/// Throws   shape_error if the row counts differ.
template <precision P, int D, int K>
void project_add_norm(context<P>& ctx, std::type_identity_t<rows<element<P> const, K, space::device>> g,
                      linear_parameters<float const, D, K, space::device, element<P> const> const& out,
                      std::type_identity_t<rows<float const, D, space::device>> before,
                      norm_point<float, D, space::device> point,
                      std::type_identity_t<block<float const, space::device, D>> norm, double eps,
                      std::type_identity_t<rows<element<P>, D, space::device>> y) {
  require_extent("project_add.before rows", before.count, g.count);
  require_extent("project_add.after rows", point.residual.count, g.count);
  require_extent("rms_norm.y rows", y.count, point.residual.count);
  detail::project_add_norm::arguments<element<P>> const arguments{.g = g.data,
                                                                  .out = out.weight.data,
                                                                  .out_bias = out.bias.data,
                                                                  .before = before.data,
                                                                  .after = point.residual.data,
                                                                  .rstd = point.rstd,
                                                                  .norm = norm.data,
                                                                  .y = y.data,
                                                                  .count = int(y.count),
                                                                  .eps = float(eps)};
  if (detail::project_add_norm::try_kernels<D, K, 0, 0>(ctx, arguments)) return;
  detail::project_add_norm::project_add_norm_general(ctx, g, out, before, point, norm, eps, y);
}

}  // namespace dm2::cuda
