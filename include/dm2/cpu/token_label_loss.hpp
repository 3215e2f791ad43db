/// @file
/// The token-labeling cross entropy (Jiang et al. 2021, arXiv 2104.10858).
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cpu/context.hpp>
#include <dm2/cpu/gemm.hpp>
#include <dm2/cpu/tokens.hpp>

#include <cmath>
#include <cstddef>
#include <type_traits>

namespace dm2::cpu {
namespace detail {

/// -sum_c t_c log softmax(l)_c with t = a first + (1 - a) second, and, where dlogits is not null,
/// dlogits = weight (softmax(l) sum_c t_c - t).
template <class T>
double row_cross_entropy(T const* logits, T const* first, T const* second, T a, int classes, T weight, T* dlogits) {
  auto const l = array(logits, classes);
  auto const t = array(first, classes) * a + array(second, classes) * (T(1) - a);
  T const top = l.maxCoeff();
  T const lse = top + std::log((l - top).exp().sum());
  T const mass = t.sum();
  double const loss = double(lse) * double(mass) - (l * t).template cast<double>().sum();
  if (dlogits != nullptr) array(dlogits, classes) = ((l - lse).exp() * mass - t) * weight;
  return loss;
}

}  // namespace detail

/// mean_r -sum_c target[r,c] log softmax(logits[r])_c, and its gradient.
///
/// Shapes   logits, target, dlogits [R, K]. dlogits may be a view of nothing.
/// Writes   dlogits (=), the gradient of the mean; may be logits.
/// Returns  the loss, summed in double in row order.
/// Throws   shape_error if the row counts differ; nothing is written then.
template <class T, int K>
double cross_entropy(context<T>&, rows<T const, K> logits, std::type_identity_t<rows<T const, K>> target,
                     std::type_identity_t<rows<T, K>> dlogits) {
  require_extent("cross_entropy.target rows", target.count, logits.count);
  if (dlogits.data != nullptr) require_extent("cross_entropy.dlogits rows", dlogits.count, logits.count);
  double loss = 0;
  for (std::size_t r = 0; r < logits.count; ++r)
    loss += detail::row_cross_entropy(logits.data + r * K, target.data + r * K, target.data + r * K, T(1), K,
                                      T(1) / T(logits.count), dlogits.data == nullptr ? nullptr : dlogits.data + r * K);
  return loss / double(logits.count);
}

/// The training loss: mean cross entropy of the class token, plus that of the patches.
///
/// With lam = 1 - area(box) / tokens, the class token's target is lam target + (1 - lam) its partner's, the batch
/// reversed; the patches' logits are already mixed back and meet their own sample's targets.
///
/// Shapes   cls, dcls [B, K]; aux, daux [B tokens, K]; target [B (2 + tokens), K]: for each sample the smoothed
///          ground truth (not used by this loss), the class token's target, the patches'.
/// Writes   dcls, daux (=), which may be cls and aux.
/// Returns  the loss, summed in double in a fixed order.
/// Throws   shape_error if the row counts disagree; nothing is written then.
template <class T, int K>
double token_label_loss(context<T>& ctx, rows<T const, K> cls, std::type_identity_t<rows<T const, K>> aux,
                        std::type_identity_t<rows<T const, K>> target, mix_box box,
                        std::type_identity_t<rows<T, K>> dcls, std::type_identity_t<rows<T, K>> daux) {
  std::size_t const batch = cls.count, tokens = batch == 0 ? 0 : aux.count / batch;
  require_extent("token_label_loss.aux rows", aux.count, batch * tokens);
  require_extent("token_label_loss.target rows", target.count, batch * (2 + tokens));
  require_extent("token_label_loss.dcls rows", dcls.count, batch);
  require_extent("token_label_loss.daux rows", daux.count, aux.count);
  if (batch == 0 || tokens == 0) throw shape_error{"token_label_loss: no samples or no patches"};
  T const lam = T(1) - T(box.area()) / T(tokens);
  if (!ctx.reserve(batch * sizeof(double) + arena::alignment, 0)) return 0;
  arena_scope const scope{ctx.shared()};
  double* const losses = ctx.shared().template take<double>(batch);
  auto const row = [&](std::size_t sample, std::size_t r) { return target.data + (sample * (2 + tokens) + r) * K; };
  ctx.for_each(int(batch), [&](int i, arena&) {
    std::size_t const b = std::size_t(i);
    double const class_loss = detail::row_cross_entropy(cls.data + b * K, row(b, 1), row(batch - 1 - b, 1), lam, K,
                                                        T(1) / T(batch), dcls.data + b * K);
    double patch_loss = 0;
    for (std::size_t t = 0; t < tokens; ++t) {
      std::size_t const at = (b * tokens + t) * K;
      patch_loss += detail::row_cross_entropy(aux.data + at, row(b, 2 + t), row(b, 2 + t), T(1), K,
                                              T(1) / T(batch * tokens), daux.data + at);
    }
    losses[b] = class_loss + patch_loss / double(tokens);
  });
  double loss = 0;
  for (std::size_t b = 0; b < batch; ++b) loss += losses[b];
  return loss / double(batch);
}

}  // namespace dm2::cpu
