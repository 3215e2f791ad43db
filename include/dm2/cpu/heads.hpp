/// @file
/// The two classifiers, of the class token and of the patches.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cpu/context.hpp>
#include <dm2/cpu/linear.hpp>
#include <dm2/cpu/mixer_core.hpp>
#include <dm2/cpu/project_add_norm.hpp>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <type_traits>

namespace dm2::cpu {
namespace detail {

/// The class tokens [B, D] and the patches [B (L - 1), D] of features [B L, D], apart.
template <class T, int D>
struct split_features {
  rows<T, D> cls, patches;

  split_features(arena& a, int batch, int length)
      : cls{a.template take<T>(std::size_t(batch) * D), std::size_t(batch)},
        patches{a.template take<T>(std::size_t(batch) * std::size_t(length - 1) * D),
                std::size_t(batch) * std::size_t(length - 1)} {}

  /// Calls visit(row of the features, row here).
  template <class Visit>
  void for_each_row(int length, Visit const& visit) const {
    int const middle = (length - 1) / 2;
    std::ptrdiff_t patch = 0;
    for (std::ptrdiff_t b = 0; b < std::ptrdiff_t(cls.count); ++b)
      for (int t = 0; t < length; ++t) {
        T* const here = t == middle ? cls.data + b * D : patches.data + patch++ * D;
        visit((b * length + t) * D, here);
      }
  }
};

/// Patches whose logits are held at a time in evaluation.
inline constexpr int head_tile = 64;

}  // namespace detail

/// logits = head(class token) + max over patches of aux_head(patch) / 2
///
/// Shapes   features [B L, D], class token at (L - 1) / 2, at least one patch; logits [B, K].
/// Writes   logits (=). The patches' logits are not stored: 64 patches of a picture at a time.
/// Throws   shape_error if the row counts disagree, or the length leaves no patch; nothing is written then.
template <class T, int K, int D>
void evaluation_heads(context<T>& ctx, std::type_identity_t<rows<T const, D>> features,
                      head_parameters<T const, K, D> const& p, std::type_identity_t<rows<T, K>> logits, int length) {
  using namespace detail;
  int const batch = whole_sequences("evaluation_heads.features", features.count, length);
  if (length < 2) throw shape_error{"evaluation_heads.length: got 1, expected at least 2: the class token and a patch"};
  require_extent("evaluation_heads.logits rows", logits.count, std::size_t(batch));
  if (!ctx.reserve(0, (std::size_t(head_tile) * K + K) * sizeof(T) + 2 * arena::alignment)) return;
  ctx.for_each(batch, [&](int b, arena& scratch) {
    int const middle = (length - 1) / 2;
    T* const scores = scratch.template take<T>(std::size_t(head_tile) * K);
    auto best = array(scratch.template take<T>(K), K);
    best.setConstant(-std::numeric_limits<T>::infinity());
    T const* const token = features.data + std::ptrdiff_t{b} * length * D;
    auto const take_best = [&](int first, int last) {
      for (int t = first; t < last; t += head_tile) {
        int const n = std::min(head_tile, last - t);
        gemm<op::plain, op::transposed, false, T>({token + std::ptrdiff_t{t} * D, n, D}, as_matrix(p.aux.weight),
                                                  {scores, n, K});
        for (int i = 0; i < n; ++i) best = best.max(array(scores + i * K, K));
      }
    };
    take_best(0, middle);
    take_best(middle + 1, length);
    T* const out = logits.data + std::ptrdiff_t{b} * K;
    gemm<op::plain, op::transposed, false, T>({token + std::ptrdiff_t{middle} * D, 1, D}, as_matrix(p.cls.weight),
                                              {out, 1, K});
    array(out, K) += array(p.cls.bias.data, K) + (best + array(p.aux.bias.data, K)) / T(2);
  });
}

/// cls = head(class token), aux = aux_head(patch) for every patch.
///
/// Shapes   features [B L, D]; cls [B, K]; aux [B (L - 1), K].
/// Writes   cls, aux (=). Either may be a view of nothing, and is not computed then.
/// Throws   shape_error if the row counts disagree; nothing is written then.
template <class T, int K, int D>
void training_heads(context<T>& ctx, std::type_identity_t<rows<T const, D>> features,
                    head_parameters<T const, K, D> const& p, std::type_identity_t<rows<T, K>> cls,
                    std::type_identity_t<rows<T, K>> aux, int length) {
  using namespace detail;
  int const batch = whole_sequences("training_heads.features", features.count, length);
  if (cls.data != nullptr) require_extent("training_heads.cls rows", cls.count, std::size_t(batch));
  if (aux.data != nullptr) require_extent("training_heads.aux rows", aux.count, features.count - std::size_t(batch));
  if (!ctx.reserve(planned_bytes<split_features<T, D>>(batch, length), 0)) return;
  arena_scope const scope{ctx.shared()};
  split_features<T, D> const s{ctx.shared(), batch, length};
  s.for_each_row(length, [&](std::ptrdiff_t from, T* to) { array(to, D) = array(features.data + from, D); });
  if (cls.data != nullptr) linear(ctx, s.cls, p.cls.weight, p.cls.bias, cls);
  if (aux.data != nullptr) linear(ctx, s.patches, p.aux.weight, p.aux.bias, aux);
}

/// The gradient of training_heads.
///
/// Shapes   dcls [B, K]; daux [B (L - 1), K]; dfeatures [B L, D].
/// Writes   dfeatures (=); grad (+=).
/// Throws   shape_error if the row counts disagree; nothing is written then.
template <class T, int K, int D>
void training_heads_backward(context<T>& ctx, std::type_identity_t<rows<T const, D>> features,
                             head_parameters<T const, K, D> const& p, std::type_identity_t<rows<T const, K>> dcls,
                             std::type_identity_t<rows<T const, K>> daux, std::type_identity_t<rows<T, D>> dfeatures,
                             head_parameters<T, K, D> const& grad, int length) {
  using namespace detail;
  int const batch = whole_sequences("training_heads_backward.features", features.count, length);
  require_extent("training_heads_backward.dcls rows", dcls.count, std::size_t(batch));
  require_extent("training_heads_backward.daux rows", daux.count, features.count - std::size_t(batch));
  require_extent("training_heads_backward.dfeatures rows", dfeatures.count, features.count);
  if (!ctx.reserve(2 * planned_bytes<split_features<T, D>>(batch, length), 0)) return;
  arena_scope const scope{ctx.shared()};
  split_features<T, D> const s{ctx.shared(), batch, length}, d{ctx.shared(), batch, length};
  s.for_each_row(length, [&](std::ptrdiff_t from, T* to) { array(to, D) = array(features.data + from, D); });
  linear_backward(ctx, s.cls, p.cls.weight, dcls, d.cls, grad.cls.weight, grad.cls.bias);
  linear_backward(ctx, s.patches, p.aux.weight, daux, d.patches, grad.aux.weight, grad.aux.bias);
  d.for_each_row(length, [&](std::ptrdiff_t to, T* from) { array(dfeatures.data + to, D) = array(from, D); });
}

}  // namespace dm2::cpu
