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
#include <string>
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

/// What the kernels get for a norm at `point` and the projection that reads it.
template <class T, int N, int D>
arguments<T> norm_arguments(norm_point<float, D, space::device> point,
                            norm_projection<float const, N, D, space::device, T const> const& p, double eps,
                            std::type_identity_t<rows<T, N, space::device>> y) {
  return {.before = point.residual.data,
          .after = point.residual.data,
          .rstd = point.rstd,
          .norm = p.norm.data,
          .in = p.in.weight.data,
          .in_bias = p.in.bias.data,
          .y = y.data,
          .count = int(y.count),
          .eps = float(eps)};
}

/// The same for the norm at the trunk's end.
template <class T, int D>
arguments<T> norm_arguments(norm_point<float, D, space::device> point, block<float const, space::device, D> norm,
                            double eps, std::type_identity_t<rows<T, D, space::device>> y) {
  return {.before = point.residual.data,
          .after = point.residual.data,
          .rstd = point.rstd,
          .norm = norm.data,
          .y = y.data,
          .count = int(y.count),
          .eps = float(eps)};
}

/// Before the norm of p, before + g out^T + bias.
template <class T, int D, int K>
arguments<T> with_addition(arguments<T> p, rows<T const, K, space::device> g,
                           linear_parameters<float const, D, K, space::device, T const> const& out,
                           std::type_identity_t<rows<float const, D, space::device>> before) {
  p.g = g.data;
  p.out = out.weight.data;
  p.out_bias = out.bias.data;
  p.before = before.data;
  return p;
}

/// One kernel or two on rows that lack their norm: takes_squares() must hold.
template <int D, int K, int N, int U, precision P>
void launch_on_squares(context<P>& ctx, arguments<element<P>> p, row_squares<U> squares) {
  p.squares = squares.parts;
  if (!try_kernels<D, K, N, U>(ctx, p))
    throw shape_error{"project_add_norm: no kernel takes " + std::to_string(p.count) +
                      " rows before their norm at these sizes and addresses"};
}

}  // namespace detail::project_add_norm

/// Whether project_add_norm_project, or project_add_norm where N is 0, takes so many rows of g that still lack their
/// norm, with the squares of U units of each half.
template <int D, int K, int N, int U, precision P>
bool takes_squares(context<P> const& ctx, std::size_t count) {
  namespace room = detail::project_add_norm;
  return room::many_fits<element<P>, D, K, N, U>(ctx.device(), count) ||
         room::few_row_tiles<element<P>, D, K, N, U>(ctx.device(), count) != 0;
}

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
  namespace room = detail::project_add_norm;
  require_extent("norm_project.y rows", y.count, point.residual.count);
  if (room::try_kernels<D, 0, N, 0>(ctx, room::norm_arguments<element<P>>(point, p, eps, y))) return;
  room::norm_project_general(ctx, point, p, eps, y);
}

/// point.residual = before + g out^T + bias, then y = RMSNorm(point.residual) in^T + bias.
///
/// Shapes   g [R, K], what a core wrote, before its norm where `squares` has parts; before [R, D]; y [R, N], what the
///          next core reads.
/// Writes   point, y (=). point.residual may be `before`.
/// Stream   the context's; no synchronisation. For 16-bit numbers one kernel where there are many rows, two where there
///          are few; products through cuBLASLt otherwise, and where sizes or addresses do not suit those.
/// Throws   shape_error if the row counts differ, or where there are squares and takes_squares() is false.
template <precision P, int D, int K, int N, int U = 0>
void project_add_norm_project(context<P>& ctx, std::type_identity_t<rows<element<P> const, K, space::device>> g,
                              linear_parameters<float const, D, K, space::device, element<P> const> const& out,
                              std::type_identity_t<rows<float const, D, space::device>> before,
                              norm_point<float, D, space::device> point,
                              norm_projection<float const, N, D, space::device, element<P> const> const& p, double eps,
                              std::type_identity_t<rows<element<P>, N, space::device>> y, row_squares<U> squares = {}) {
  namespace room = detail::project_add_norm;
  require_extent("project_add.before rows", before.count, g.count);
  require_extent("project_add.after rows", point.residual.count, g.count);
  require_extent("norm_project.y rows", y.count, point.residual.count);
  auto const arguments = room::with_addition(room::norm_arguments<element<P>>(point, p, eps, y), g, out, before);
  if constexpr (U != 0)
    if (squares.parts != nullptr) return room::launch_on_squares<D, K, N>(ctx, arguments, squares);
  if (room::try_kernels<D, K, N, 0>(ctx, arguments)) return;
  room::project_add_norm_project_general(ctx, g, out, before, point, p, eps, y);
}

/// The end of the trunk: point.residual = before + g out^T + bias, then y = RMSNorm(point.residual).
///
/// Shapes   g [R, K], before its norm where `squares` has parts; before, y [R, D].
/// Writes   point, y (=). point.residual may be `before`.
/// Stream   the context's; no synchronisation.
/// Throws   shape_error if the row counts differ, or where there are squares and takes_squares() is false.
template <precision P, int D, int K, int U = 0>
void project_add_norm(context<P>& ctx, std::type_identity_t<rows<element<P> const, K, space::device>> g,
                      linear_parameters<float const, D, K, space::device, element<P> const> const& out,
                      std::type_identity_t<rows<float const, D, space::device>> before,
                      norm_point<float, D, space::device> point,
                      std::type_identity_t<block<float const, space::device, D>> norm, double eps,
                      std::type_identity_t<rows<element<P>, D, space::device>> y, row_squares<U> squares = {}) {
  namespace room = detail::project_add_norm;
  require_extent("project_add.before rows", before.count, g.count);
  require_extent("project_add.after rows", point.residual.count, g.count);
  require_extent("rms_norm.y rows", y.count, point.residual.count);
  auto const arguments = room::with_addition(room::norm_arguments<element<P>>(point, norm, eps, y), g, out, before);
  if constexpr (U != 0)
    if (squares.parts != nullptr) return room::launch_on_squares<D, K, 0>(ctx, arguments, squares);
  if (room::try_kernels<D, K, 0, 0>(ctx, arguments)) return;
  room::project_add_norm_general(ctx, g, out, before, point, norm, eps, y);
}

}  // namespace dm2::cuda
