/// @file
/// The convolutional stem in training: BatchNorm over the batch, and the backward.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/stem_pictures.cuh>
#include <dm2/cuda/stem_train_general.cuh>
#include <dm2/cuda/stem_train_general_backward.cuh>
#include <dm2/cuda/stem_train_saved.cuh>

#include <cstddef>
#include <string>
#include <type_traits>

namespace dm2::cuda {
namespace detail {

/// The readers of the two forms of pictures.
template <stem_shape S>
planar_reader<stem_geometry<S>> stem_train_reader(float const* picture) {
  return {picture};
}
template <stem_shape S>
byte_reader<stem_geometry<S>> stem_train_reader(byte_pictures<S.channels> const& picture) {
  return {picture};
}

/// Pictures in a grid of that many rows; throws shape_error unless they are whole.
template <stem_shape S>
int stem_train_batch(std::size_t grid_rows) {
  if (grid_rows % std::size_t(S.tokens()) != 0)
    throw shape_error{"stem.grid: got " + std::to_string(grid_rows) + " rows, expected a multiple of the tokens " +
                      std::to_string(S.tokens())};
  return int(grid_rows / std::size_t(S.tokens()));
}

}  // namespace detail

/// conv 7x7 stride 2, then two conv 3x3, each followed by BatchNorm with the batch's statistics and ReLU, then a
/// convolution of patch / 2 with that stride. The running statistics move towards the batch's by a tenth.
///
/// Shapes   picture: float const* [B, C, H, W], normalised, or byte_pictures [B, H, W, C]; grid [B tokens, dim],
///          row-major patches of picture after picture.
/// Saves    the raw outputs of the convolutions, rounded to the context's elements (4.8 MB a picture at Tiny's size in
///          16 bits), and the statistics; BatchNorm with ReLU is computed again in the backward.
/// Writes   grid, saved (=); running (updated), asynchronously.
/// Throws   shape_error if grid's rows are not whole pictures; nothing is written then.
template <stem_shape S, precision P>
void stem_forward_train(context<P>& ctx, auto const& picture, stem_parameters<S, float const, space::device> const& p,
                        std::type_identity_t<stem_statistics<S, float, space::device>> const& running,
                        std::type_identity_t<rows<element<P>, S.dim, space::device>> grid,
                        stem_saved<S, element<P>> const& saved) {
  using namespace detail;
  using T = element<P>;
  int const batch = stem_train_batch<S>(grid.count);
  auto const reader = stem_train_reader<S>(picture);
  if (batch == 0) return;
  bool const run = ctx.reserve(planned_bytes<stem_general_scratch<S, T>>(batch));
  arena_scope const scope{ctx.shared()};
  stem_general_scratch<S, T> const scratch{ctx.shared(), batch};
  stem_general_forward<S, P, decltype(reader)>{ctx, p, saved, scratch, batch, run}(reader, running, grid.data);
}

/// The gradient of stem_forward_train.
///
/// Shapes   as stem_forward_train; dgrid [B tokens, dim]; dpicture float [B, C, H, W], or null where it is not wanted.
/// Writes   grad (+=); dpicture (=), asynchronously.
/// Throws   shape_error if dgrid's rows are not whole pictures; nothing is written then.
template <stem_shape S, precision P>
void stem_backward(context<P>& ctx, auto const& picture, stem_parameters<S, float const, space::device> const& p,
                   stem_saved<S, element<P>> const& saved,
                   std::type_identity_t<rows<element<P> const, S.dim, space::device>> dgrid,
                   std::type_identity_t<stem_parameters<S, float, space::device>> const& grad, float* dpicture) {
  using namespace detail;
  using T = element<P>;
  int const batch = stem_train_batch<S>(dgrid.count);
  auto const reader = stem_train_reader<S>(picture);
  if (batch == 0) return;
  bool const run = ctx.reserve(planned_bytes<stem_general_scratch<S, T>>(batch) +
                               planned_bytes<stem_general_gradients<S, T>>(batch));
  arena_scope const scope{ctx.shared()};
  stem_general_scratch<S, T> const scratch{ctx.shared(), batch};
  stem_general_gradients<S, T> const between{ctx.shared(), batch};
  stem_general_backward<S, P, decltype(reader)>{ctx, p, saved, scratch, between, batch, run}(reader, dgrid.data, grad,
                                                                                             dpicture);
}

}  // namespace dm2::cuda
