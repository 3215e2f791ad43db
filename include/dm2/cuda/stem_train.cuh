/// @file
/// The convolutional stem in training: BatchNorm over the batch, and the backward.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/pictures.cuh>
#include <dm2/cuda/stem_train/general.cuh>
#include <dm2/cuda/stem_train/saved.cuh>
#include <dm2/cuda/stem_train/tensor.cuh>

#include <cstddef>
#include <string>
#include <type_traits>

namespace dm2::cuda {
namespace detail::stem_train {

/// The forward in the general form, with at most `columns` bytes of columns at a time. `fixed`: with the running
/// statistics, which do not move.
template <stem_shape S, precision P, class Reader>
void forward_general(context<P>& ctx, Reader const& reader, stem_parameters<S, float const, space::device> const& p,
                     stem_statistics<S, float, space::device> const& running, element<P>* grid,
                     stem_saved<S, element<P>> const& saved, int batch, std::size_t columns = columns_bytes,
                     bool fixed = false) {
  using scratch_type = general_scratch<S, stem_number<element<P>>, element<P>>;
  bool const run = ctx.reserve(planned_bytes<scratch_type>(batch, columns));
  arena_scope const scope{ctx.shared()};
  scratch_type const scratch{ctx.shared(), batch, columns};
  general_forward<S, P, Reader>{ctx, p, saved, scratch, batch, run, fixed}(reader, running, grid);
}

/// The backward in the general form.
template <stem_shape S, precision P, class Reader>
void backward_general(context<P>& ctx, Reader const& reader, stem_parameters<S, float const, space::device> const& p,
                      stem_saved<S, element<P>> const& saved, element<P> const* dgrid,
                      stem_parameters<S, float, space::device> const& grad, float* dpicture, int batch,
                      std::size_t columns = columns_bytes) {
  using scratch_type = general_scratch<S, element<P>>;
  using gradients_type = general_gradients<S, element<P>>;
  bool const run = ctx.reserve(planned_bytes<scratch_type>(batch, columns) + planned_bytes<gradients_type>(batch));
  arena_scope const scope{ctx.shared()};
  scratch_type const scratch{ctx.shared(), batch, columns};
  gradients_type const gradients{ctx.shared(), batch};
  general_backward<S, P, Reader>{ctx, p, saved, scratch, gradients, batch, run}(reader, dgrid, grad, dpicture);
}

/// The forward on tensor cores, on a device whose properties are given. Way: of the projection.
template <stem_shape S, project_way Way = project_way::warpgroups, precision P, class Reader>
void forward_tensor(context<P>& ctx, device_properties const& device, Reader const& reader,
                    stem_parameters<S, float const, space::device> const& p,
                    stem_statistics<S, float, space::device> const& running, element<P>* grid,
                    stem_saved<S, element<P>> const& saved, int batch, bool fixed = false) {
  using T = element<P>;
  if (!ctx.reserve(planned_bytes<tensor_scratch<S, T>>(device, batch))) return;
  arena_scope const scope{ctx.shared()};
  tensor_scratch<S, T> const scratch{ctx.shared(), device, batch};
  tensor_forward<S, T, Reader> const forward{ctx.stream(), device, p, saved, scratch, batch, fixed};
  forward.template operator()<Way>(reader, running, grid);
}

/// The backward on tensor cores, without the gradient of the pictures. Way: of the projection.
template <stem_shape S, project_way Way = project_way::warpgroups, precision P, class Reader>
void backward_tensor(context<P>& ctx, device_properties const& device, Reader const& reader,
                     stem_parameters<S, float const, space::device> const& p, stem_saved<S, element<P>> const& saved,
                     element<P> const* dgrid, stem_parameters<S, float, space::device> const& grad, int batch) {
  using T = element<P>;
  if (!ctx.reserve(planned_bytes<tensor_gradients<S, T>>(device, batch))) return;
  arena_scope const scope{ctx.shared()};
  tensor_gradients<S, T> const gradients{ctx.shared(), device, batch};
  tensor_backward<S, T, Reader> const backward{ctx.stream(), device, p, saved, gradients, batch};
  backward.template operator()<Way>(reader, dgrid, grad);
}

/// The forward in the form that sizes and device allow.
template <stem_shape S, precision P>
void forward(context<P>& ctx, auto const& picture, stem_parameters<S, float const, space::device> const& p,
             stem_statistics<S, float, space::device> const& running, rows<element<P>, S.dim, space::device> grid,
             stem_saved<S, element<P>> const& saved, bool fixed) {
  using T = element<P>;
  int const batch = require_whole("stem.grid", grid.count, "tokens", S.tokens());
  auto const reader = reader_of<stem::geometry<S>>(picture);
  if (batch == 0) return;
  if constexpr (tensor_sizes<S, T>)
    if (tensor_fits<S, T>(ctx.device(), grid.data))
      return forward_tensor<S>(ctx, ctx.device(), reader, p, running, grid.data, saved, batch, fixed);
  forward_general<S>(ctx, reader, p, running, grid.data, saved, batch, columns_bytes, fixed);
}

}  // namespace detail::stem_train

/// conv 7x7 stride 2, then two conv 3x3, each followed by BatchNorm with the batch's statistics and ReLU, then a
/// convolution of patch / 2 with that stride. The running statistics move towards the batch's by a tenth.
///
/// Shapes   picture: float const* [B, C, H, W], normalised, or byte_pictures [B, H, W, C]; grid [B tokens, dim],
///          row-major patches of picture after picture.
/// Saves    the raw outputs of the convolutions in stem_number (4.8 MB a picture at Tiny's size in 16 bits), and the
///          statistics; BatchNorm with ReLU is computed again in the backward.
/// Rounds   what convolutions and projection multiply, to stem_number: in bfloat16 to half, so |picture| <= 65504.
/// Writes   grid, saved (=); running (updated), asynchronously. Tensor cores where sizes and device allow; else
///          products of gathered columns, of at most detail::stem_train::columns_bytes or one picture at a time.
/// Throws   shape_error if grid's rows are not whole pictures; nothing is written then.
template <stem_shape S, precision P>
void stem_forward_train(context<P>& ctx, auto const& picture, stem_parameters<S, float const, space::device> const& p,
                        std::type_identity_t<stem_statistics<S, float, space::device>> const& running,
                        std::type_identity_t<rows<element<P>, S.dim, space::device>> grid,
                        stem_saved<S, element<P>> const& saved) {
  detail::stem_train::forward<S>(ctx, picture, p, running, grid, saved, false);
}

/// stem_forward_train for a stem that stays as it is: the running statistics normalise, and do not move. The same
/// kernels, so that a training program holds no second stem; no backward follows.
template <stem_shape S, precision P>
void stem_forward_frozen(context<P>& ctx, auto const& picture, stem_parameters<S, float const, space::device> const& p,
                         std::type_identity_t<stem_statistics<S, float, space::device>> const& running,
                         std::type_identity_t<rows<element<P>, S.dim, space::device>> grid,
                         stem_saved<S, element<P>> const& saved) {
  detail::stem_train::forward<S>(ctx, picture, p, running, grid, saved, true);
}

/// The gradient of stem_forward_train.
///
/// Shapes   as stem_forward_train; dgrid [B tokens, dim]; dpicture float [B, C, H, W], or null where it is not wanted.
/// Writes   grad (+=); dpicture (=), asynchronously. Tensor cores as in the forward, unless dpicture is asked for.
///          Scratch grows with the batch: the gradients of two planes there, of one plane else.
/// Throws   shape_error if dgrid's rows are not whole pictures; nothing is written then.
template <stem_shape S, precision P>
void stem_backward(context<P>& ctx, auto const& picture, stem_parameters<S, float const, space::device> const& p,
                   stem_saved<S, element<P>> const& saved,
                   std::type_identity_t<rows<element<P> const, S.dim, space::device>> dgrid,
                   std::type_identity_t<stem_parameters<S, float, space::device>> const& grad, float* dpicture) {
  using namespace detail;
  using T = element<P>;
  int const batch = require_whole("stem.grid", dgrid.count, "tokens", S.tokens());
  auto const reader = reader_of<stem::geometry<S>>(picture);
  if (batch == 0) return;
  if constexpr (stem_train::tensor_sizes<S, T>)
    if (dpicture == nullptr && stem_train::tensor_fits<S, T>(ctx.device(), dgrid.data)) {
      stem_train::backward_tensor<S>(ctx, ctx.device(), reader, p, saved, dgrid.data, grad, batch);
      return;
    }
  stem_train::backward_general<S>(ctx, reader, p, saved, dgrid.data, grad, dpicture, batch);
}

}  // namespace dm2::cuda
