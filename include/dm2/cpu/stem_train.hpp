/// @file
/// The convolutional stem in training: BatchNorm over the batch, and the backward.
#pragma once

#include <dm2/cpu/gradient_parts.hpp>
#include <dm2/cpu/stem.hpp>

#include <algorithm>
#include <array>
#include <cstddef>

namespace dm2::cpu {
namespace detail {

/// Scratch that stem_forward_train and stem_backward share.
template <stem_shape S, class T>
struct stem_train_scratch {
  arranged_stem<S, T> weights;
  channel_affine<T> affine[3];
  double *sums, *means;  ///< parts of BatchNorm's sums; the two means that its backward leaves
  T* patches;

  explicit stem_train_scratch(arena& a)
      : weights{a},
        affine{channel_affine<T>{a, S.hidden}, channel_affine<T>{a, S.hidden}, channel_affine<T>{a, S.hidden}} {
    sums = a.take<double>(std::size_t(gradient_parts) * 2 * S.hidden);
    means = a.take<double>(std::size_t(2) * S.hidden);
    patches = a.take<T>(std::size_t(stem_pixels<S>) * S.hidden);
  }
};

/// A thread's planes in training.
template <stem_shape S, class T>
struct stem_planes {
  T *in, *grad;

  explicit stem_planes(arena& a) {
    std::size_t const larger = std::max(stem_plane<S>(0).size(), stem_plane<S>(1).size());
    in = a.take<T>(larger);
    grad = a.take<T>(std::max(larger, plane{S.half_height(), S.half_width(), S.hidden, 4, 1}.size()));
  }
};

/// The input of convolution `stage` for picture b, as a plane.
template <stem_shape S, class T>
void stage_input(T const* picture, stem_saved<S, T> const& saved, channel_affine<T> const* affine, std::size_t stage,
                 std::ptrdiff_t b, T* out) {
  if (stage == 0)
    picture_to_plane<S>(picture + b * S.channels * S.height * S.width, out);
  else
    raw_to_plane<S>(saved.raw[stage - 1] + b * stem_pixels<S> * S.hidden, affine[stage - 1], out);
}

}  // namespace detail

/// As stem_forward, with the batch's statistics in place of the running ones, which move towards them by a tenth.
///
/// Writes   grid, saved (=); running (updated).
/// Throws   shape_error if grid's rows are not whole pictures; nothing is written then.
template <stem_shape S, class T>
void stem_forward_train(context<T>& ctx, T const* picture, stem_parameters<S, T const> const& p,
                        stem_statistics<S, T> const& running, std::type_identity_t<rows<T, S.dim>> grid,
                        stem_saved<S, T> const& saved) {
  using namespace detail;
  int const batch = stem_batch<S>(grid.count);
  if (!ctx.reserve(planned_bytes<stem_train_scratch<S, T>>(),
                   planned_bytes<stem_planes<S, T>>() + stem_band_bytes<S, T>()))
    return;
  arena_scope const scope{ctx.shared()};
  stem_train_scratch<S, T> const s{ctx.shared()};
  s.weights.fill(p);
  for (std::size_t stage = 0; stage < 3; ++stage) {
    constexpr std::ptrdiff_t line = std::ptrdiff_t{S.half_width()} * S.hidden;
    ctx.for_each(batch, [&](int b, arena& scratch) {
      stem_planes<S, T> const planes{scratch};
      stage_input<S>(picture, saved, s.affine, stage, b, planes.in);
      T* const raw = saved.raw[stage] + b * stem_pixels<S> * S.hidden;
      conv2d(stem_plane<S>(int(stage)), planes.in, s.weights.conv[stage], S.hidden, scratch,
             [&](int y, T const* row) { std::copy_n(row, line, raw + y * line); });
    });
    batch_statistics(ctx, saved.raw[stage], batch * stem_pixels<S>, S.hidden, s.sums, saved.mean[stage],
                     saved.rstd[stage], running.mean[stage].data, running.var[stage].data);
    s.affine[stage].fill(S.hidden, p.bn_weight[stage].data, p.bn_bias[stage].data, saved.mean[stage],
                         saved.rstd[stage]);
  }
  for (std::ptrdiff_t b = 0; b < batch; ++b) {
    raw_to_patches<S>(saved.raw[2] + b * stem_pixels<S> * S.hidden, s.affine[2], s.patches);
    project_patches<S>(ctx, s.patches, s.weights, p.proj_bias.data, grid.data + b * S.tokens() * S.dim);
  }
}

/// stem_forward with the signature of stem_forward_train, for a stem that stays as it is: the running statistics
/// normalise and do not move, and nothing is saved, since no backward follows.
template <stem_shape S, class T>
void stem_forward_frozen(context<T>& ctx, T const* picture, stem_parameters<S, T const> const& p,
                         stem_statistics<S, T> const& running, std::type_identity_t<rows<T, S.dim>> grid,
                         stem_saved<S, T> const&) {
  stem_statistics<S, T const> const fixed{{running.mean[0], running.mean[1], running.mean[2]},
                                          {running.var[0], running.var[1], running.var[2]}};
  stem_forward(ctx, picture, p, fixed, grid);
}

namespace detail {

/// Scratch of stem_backward beside stem_train_scratch.
template <stem_shape S, class T>
struct stem_backward_scratch {
  T* da;     ///< [B, H / 2, W / 2, hidden], the gradient of the present activation
  T* dproj;  ///< arranged as the weights
  std::array<T*, 3> mirrored;
  T* dconv;  ///< [gradient_parts, the largest arranged kernel]
  static constexpr std::size_t kernel = std::max(arranged_stem<S, T>::first_size, arranged_stem<S, T>::inner_size);

  stem_backward_scratch(arena& a, int batch) {
    da = a.take<T>(std::size_t(batch) * std::size_t(stem_pixels<S>) * S.hidden);
    dproj = a.take<T>(std::size_t(S.dim) * arranged_stem<S, T>::depth);
    for (T*& m : mirrored) m = a.take<T>(kernel);
    dconv = a.take<T>(std::size_t(gradient_parts) * kernel);
  }
};

/// Patch projection: dproj, its bias, and the gradient of the last activation.
template <stem_shape S, class T>
void project_patches_backward(context<T>& ctx, stem_saved<S, T> const& saved, stem_train_scratch<S, T> const& s,
                              rows<T const, S.dim> dgrid, int batch, stem_backward_scratch<S, T> const& t,
                              stem_parameters<S, T> const& grad) {
  constexpr int depth = arranged_stem<S, T>::depth, side = S.patch / 2;
  array(t.dproj, std::ptrdiff_t{S.dim} * depth).setZero();
  for (std::ptrdiff_t b = 0; b < batch; ++b) {
    matrix<T const> const g{dgrid.data + b * S.tokens() * S.dim, S.tokens(), S.dim};
    raw_to_patches<S>(saved.raw[2] + b * stem_pixels<S> * S.hidden, s.affine[2], s.patches);
    parallel_gemm<op::transposed, op::plain, true, T>(ctx, g, {s.patches, S.tokens(), depth}, {t.dproj, S.dim, depth});
    parallel_gemm<op::plain, op::plain, false, T>(ctx, g, {s.weights.proj, S.dim, depth},
                                                  {s.patches, S.tokens(), depth});
    T* const da = t.da + b * stem_pixels<S> * S.hidden;
    for_each_patch_row<S, T>(
        [&](std::ptrdiff_t at, std::ptrdiff_t from, int n) { std::copy_n(s.patches + from, n, da + at); });
    for (int r = 0; r < S.tokens(); ++r) array(grad.proj_bias.data, S.dim) += array(g.data + r * S.dim, S.dim);
  }
  for (int d = 0; d < S.dim; ++d)
    for (int c = 0; c < S.hidden; ++c)
      for (int k = 0; k < side * side; ++k)
        grad.proj.data[(d * S.hidden + c) * side * side + k] += t.dproj[d * depth + k * S.hidden + c];
}

/// One picture [C, H, W] from the gradient of its blocks [H / 2, W / 2, 4 C]; a row at a time.
template <stem_shape S, class T>
void blocks_to_picture_row(T const* blocks, int y, T* picture) {
  for (int c = 0; c < S.channels; ++c)
    for (int dy = 0; dy < 2; ++dy)
      for (int x = 0; x < S.width; ++x)
        picture[(std::ptrdiff_t{c} * S.height + 2 * y + dy) * S.width + x] =
            blocks[std::ptrdiff_t{x / 2} * 4 * S.channels + (dy * 2 + x % 2) * S.channels + c];
}

/// The BatchNorm after convolution `stage`.
template <stem_shape S, class T>
batch_norm_point<T> stage_norm(stem_saved<S, T> const& saved, stem_train_scratch<S, T> const& s, std::size_t stage) {
  return {saved.raw[stage], S.hidden, s.affine[stage], saved.mean[stage], saved.rstd[stage]};
}

/// Convolution `stage` of picture b: its kernel's gradient to `dconv`, its input's over t.da or to dpicture.
template <stem_shape S, class T>
void stage_backward(T const* picture, stem_saved<S, T> const& saved, stem_train_scratch<S, T> const& s,
                    stem_backward_scratch<S, T> const& t, std::size_t stage, std::ptrdiff_t b, T* dconv, T* dpicture,
                    arena& scratch) {
  plane const p = stem_plane<S>(int(stage)), q{p.height, p.width, S.hidden, p.kernel, p.kernel - 1 - p.before};
  constexpr std::ptrdiff_t line = std::ptrdiff_t{S.half_width()} * S.hidden;
  arena_scope const scope{scratch};
  stem_planes<S, T> const planes{scratch};
  T* const da = t.da + b * stem_pixels<S> * S.hidden;
  batch_norm_point<T> const norm = stage_norm(saved, s, stage).from(b * stem_pixels<S>);
  stage_input<S>(picture, saved, s.affine, stage, b, planes.in);
  clear_border(q, planes.grad);
  for (int y = 0; y < p.height; ++y)
    batch_norm_input_gradient(norm.from(std::ptrdiff_t{y} * p.width), da + y * line, p.width, s.means,
                              planes.grad + q.at(y, 0));
  conv2d_weight_gradient(p, planes.in, q, planes.grad, dconv);
  if (stage == 0 && dpicture == nullptr) return;
  conv2d(q, planes.grad, t.mirrored[stage], p.channels, scratch, [&](int y, T const* row) {
    if (stage == 0)
      blocks_to_picture_row<S>(row, y, dpicture + b * S.channels * S.height * S.width);
    else
      std::copy_n(row, line, da + y * line);
  });
}

}  // namespace detail

/// The gradient of stem_forward_train.
///
/// Shapes   as stem_forward; dgrid [B tokens, dim]; dpicture [B, C, H, W], or null where it is not wanted.
/// Writes   grad (+=); dpicture (=).
/// Throws   shape_error if dgrid's rows are not whole pictures; nothing is written then.
template <stem_shape S, class T>
void stem_backward(context<T>& ctx, T const* picture, stem_parameters<S, T const> const& p,
                   stem_saved<S, T> const& saved, std::type_identity_t<rows<T const, S.dim>> dgrid,
                   stem_parameters<S, T> const& grad, std::type_identity_t<T>* dpicture) {
  using namespace detail;
  int const batch = stem_batch<S>(dgrid.count);
  if (!ctx.reserve(planned_bytes<stem_train_scratch<S, T>>() + planned_bytes<stem_backward_scratch<S, T>>(batch),
                   planned_bytes<stem_planes<S, T>>() + stem_band_bytes<S, T>()))
    return;
  arena_scope const scope{ctx.shared()};
  stem_train_scratch<S, T> const s{ctx.shared()};
  stem_backward_scratch<S, T> const t{ctx.shared(), batch};
  s.weights.fill(p);
  for (std::size_t i = 0; i < 3; ++i) {
    plane const q = stem_plane<S>(int(i));
    s.affine[i].fill(S.hidden, p.bn_weight[i].data, p.bn_bias[i].data, saved.mean[i], saved.rstd[i]);
    mirror_kernel(s.weights.conv[i], S.hidden, q.channels, q.kernel, t.mirrored[i]);
  }
  project_patches_backward(ctx, saved, s, dgrid, batch, t, grad);
  for (std::size_t stage = 3; stage-- > 0;) {
    batch_norm_sums(ctx, stage_norm(saved, s, stage), t.da, batch * stem_pixels<S>, s.sums, s.means,
                    grad.bn_weight[stage].data, grad.bn_bias[stage].data);
    std::size_t const size = stage == 0 ? arranged_stem<S, T>::first_size : arranged_stem<S, T>::inner_size;
    ctx.for_each(gradient_parts, [&](int k, arena& scratch) {
      T* const dconv = t.dconv + std::size_t(k) * size;
      std::fill_n(dconv, size, T(0));
      for (int b = k; b < batch; b += gradient_parts)
        stage_backward(picture, saved, s, t, stage, b, dconv, dpicture, scratch);
    });
    for (std::size_t k = 1; k < gradient_parts; ++k)
      array(t.dconv, std::ptrdiff_t(size)) += array(t.dconv + k * size, std::ptrdiff_t(size));
    if (stage == 0)
      for_each_first_tap<S>([&](int to, int from) { grad.conv1.data[to] += t.dconv[from]; });
    else
      for_each_tap(S.hidden, S.hidden, 3, [&](int to, int from) { grad.conv[stage - 1].data[to] += t.dconv[from]; });
  }
}

}  // namespace dm2::cpu
