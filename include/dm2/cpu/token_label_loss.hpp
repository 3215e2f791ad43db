/// @file
/// The token-labeling cross entropy (Jiang et al. 2021, arXiv 2104.10858).
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cpu/context.hpp>
#include <dm2/cpu/gemm.hpp>
#include <dm2/cpu/tokens.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

namespace dm2::cpu {
namespace detail {

/// A dense target row of the mixture a first + (1 - a) second.
template <class T>
struct dense_row {
  T const *first, *second;
  T a;

  [[nodiscard]] auto values(int classes) const {
    return array(first, classes) * a + array(second, classes) * (T(1) - a);
  }
  [[nodiscard]] T mass(int classes) const { return values(classes).sum(); }
  [[nodiscard]] double dot(T const* logits, int classes) const {
    return (array(logits, classes) * values(classes)).template cast<double>().sum();
  }
  /// d -= weight t
  void subtract_from(T* d, T weight, int classes) const { array(d, classes) -= values(classes) * weight; }
};

/// The same from sparse rows.
template <class T>
struct sparse_row {
  sparse_rows<T> const& rows;
  std::size_t first, second;
  T a;

  template <class Visit>
  void for_each_row(Visit const& visit) const {
    if (a != T(0)) visit(first, a);
    if (a != T(1)) visit(second, T(1) - a);
  }
  [[nodiscard]] T mass(int classes) const {
    T sum = 0;
    for_each_row([&](std::size_t r, T share) {
      T extra = 0;
      for (std::size_t i = rows.begin[r]; i < rows.begin[r + 1]; ++i) extra += rows.extra[i];
      sum += share * (rows.base[r] * T(classes) + extra);
    });
    return sum;
  }
  [[nodiscard]] double dot(T const* logits, int classes) const {
    double const all = array(logits, classes).template cast<double>().sum();
    double sum = 0;
    for_each_row([&](std::size_t r, T share) {
      double extra = 0;
      for (std::size_t i = rows.begin[r]; i < rows.begin[r + 1]; ++i)
        extra += double(rows.extra[i]) * double(logits[rows.index[i]]);
      sum += double(share) * (double(rows.base[r]) * all + extra);
    });
    return sum;
  }
  void subtract_from(T* d, T weight, int classes) const {
    for_each_row([&](std::size_t r, T share) {
      array(d, classes) -= share * weight * rows.base[r];
      for (std::size_t i = rows.begin[r]; i < rows.begin[r + 1]; ++i)
        d[rows.index[i]] -= share * weight * rows.extra[i];
    });
  }
};

/// -sum_c t_c log softmax(l)_c, and, where dlogits is not null, dlogits = weight (softmax(l) sum_c t_c - t). dlogits
/// may be the logits.
template <class T, class Target>
double row_cross_entropy(T const* logits, Target const& target, int classes, T weight, T* dlogits) {
  auto const l = array(logits, classes);
  T const top = l.maxCoeff();
  T const lse = top + std::log((l - top).exp().sum());
  T const mass = target.mass(classes);
  double const loss = double(lse) * double(mass) - target.dot(logits, classes);
  if (dlogits != nullptr) {
    // By way of aligned memory: Eigen takes the numbers before the first aligned address one by one, and a number's
    // exponential has other last bits than a packet's. A gradient's bits would depend on where it lies.
    constexpr int most = 256;
    alignas(64) T part[most];
    for (int first = 0; first < classes; first += most) {
      int const n = std::min(most, classes - first);
      Eigen::Map<Eigen::Array<T, Eigen::Dynamic, 1>, Eigen::Aligned64> values{part, n};
      values = (l.segment(first, n) - lse).exp() * (mass * weight);
      array(dlogits + first, n) = values;
    }
    target.subtract_from(dlogits, weight, classes);
  }
  return loss;
}

/// token_label_loss over any kind of target: row(sample, r, other, a) is the mixture a of sample's row r and 1 - a of
/// other's, where row 0 is the class token's and 1 + t is patch t's.
template <class T, int K, class Row>
double token_loss(context<T>& ctx, rows<T const, K> cls, rows<T const, K> aux, mix_box box, double scale,
                  rows<T, K> dcls, rows<T, K> daux, Row const& row) {
  std::size_t const batch = cls.count, tokens = aux.count / batch;
  T const lam = T(1) - T(box.area()) / T(tokens);
  T const class_weight = T(scale) / T(batch), patch_weight = T(scale) / T(batch * tokens);
  if (!ctx.reserve(batch * sizeof(double) + arena::alignment, 0)) return 0;
  arena_scope const scope{ctx.shared()};
  double* const losses = ctx.shared().template take<double>(batch);
  ctx.for_each(int(batch), [&](int i, arena&) {
    std::size_t const b = std::size_t(i);
    double const class_loss =
        row_cross_entropy(cls.data + b * K, row(b, 0, batch - 1 - b, lam), K, class_weight, dcls.data + b * K);
    double patch_loss = 0;
    for (std::size_t t = 0; t < tokens; ++t) {
      std::size_t const at = (b * tokens + t) * K;
      patch_loss += row_cross_entropy(aux.data + at, row(b, 1 + t, b, T(1)), K, patch_weight, daux.data + at);
    }
    losses[b] = class_loss + patch_loss / double(tokens);
  });
  double loss = 0;
  for (std::size_t b = 0; b < batch; ++b) loss += losses[b];
  return loss / double(batch);
}

/// Throws shape_error unless logits and gradients belong together; returns the patches of a sample.
template <class T, int K>
std::size_t loss_tokens(rows<T const, K> cls, rows<T const, K> aux, rows<T, K> dcls, rows<T, K> daux) {
  std::size_t const batch = cls.count, tokens = batch == 0 ? 0 : aux.count / batch;
  require_extent("token_label_loss.aux rows", aux.count, batch * tokens);
  require_extent("token_label_loss.dcls rows", dcls.count, batch);
  require_extent("token_label_loss.daux rows", daux.count, aux.count);
  if (tokens == 0) throw shape_error{"token_label_loss: no samples or no patches"};
  return tokens;
}

/// Throws shape_error if MixToken's box has more patches than there are.
inline void require_box(mix_box box, std::size_t tokens) {
  if (std::size_t(box.area()) > tokens)
    throw shape_error{"token_label_loss.box: got " + std::to_string(box.area()) + " patches, expected at most " +
                      std::to_string(tokens)};
}

/// Throws shape_error unless the rows follow one another and name classes below K. 0.1 ms for 64 samples of Tiny.
template <int K, class T>
void require_sparse_rows(sparse_rows<T> const& target) {
  for (std::size_t r = 0; r < target.count; ++r) {
    if (target.begin[r] > target.begin[r + 1]) throw shape_error{"token_label_loss.target: its rows overlap"};
    for (std::size_t i = target.begin[r]; i < target.begin[r + 1]; ++i)
      require_class("token_label_loss.target", int(std::min<std::uint32_t>(target.index[i], 0x7fffffff)), K);
  }
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
  for (std::size_t r = 0; r < logits.count; ++r) {
    detail::dense_row<T> const t{target.data + r * K, target.data + r * K, T(1)};
    T* const d = dlogits.data == nullptr ? nullptr : dlogits.data + r * K;
    loss += detail::row_cross_entropy(logits.data + r * K, t, K, T(1) / T(logits.count), d);
  }
  return loss / double(logits.count);
}

/// The training loss: mean cross entropy of the class token, plus that of the patches.
///
/// With lam = 1 - area(box) / tokens, the class token's target is lam target + (1 - lam) its partner's, the batch
/// reversed; the patches' logits are already mixed back and meet their own sample's targets.
///
/// Shapes   cls, dcls [B, K]; aux, daux [B tokens, K]; target [B (2 + tokens), K]: for each sample the smoothed
///          ground truth (not used by this loss), the class token's target, the patches'.
/// Writes   dcls, daux (=), the gradients of `scale` times the loss, which may be cls and aux.
/// Returns  the loss, without the scale, summed in double in a fixed order.
/// Throws   shape_error if the row counts disagree or the box is larger than the grid; nothing is written then.
template <class T, int K>
double token_label_loss(context<T>& ctx, rows<T const, K> cls, std::type_identity_t<rows<T const, K>> aux,
                        std::type_identity_t<rows<T const, K>> target, mix_box box,
                        std::type_identity_t<rows<T, K>> dcls, std::type_identity_t<rows<T, K>> daux,
                        double scale = 1) {
  std::size_t const tokens = detail::loss_tokens<T, K>(cls, aux, dcls, daux);
  require_extent("token_label_loss.target rows", target.count, cls.count * (2 + tokens));
  detail::require_box(box, tokens);
  return detail::token_loss<T, K>(ctx, cls, aux, box, scale, dcls, daux,
                                  [&](std::size_t b, std::size_t r, std::size_t other, T a) {
                                    T const* const first = target.data + (b * (2 + tokens) + 1 + r) * K;
                                    T const* const second = target.data + (other * (2 + tokens) + 1 + r) * K;
                                    return detail::dense_row<T>{first, second, a};
                                  });
}

/// The same from sparse targets, which hold no row for the ground truth.
///
/// Shapes   target: B (1 + tokens) rows, the class token's and the patches' of sample after sample.
/// Throws   shape_error if a row names a class that is not there, too.
template <class T, int K>
double token_label_loss(context<T>& ctx, rows<T const, K> cls, std::type_identity_t<rows<T const, K>> aux,
                        sparse_rows<T> target, mix_box box, std::type_identity_t<rows<T, K>> dcls,
                        std::type_identity_t<rows<T, K>> daux, double scale = 1) {
  std::size_t const tokens = detail::loss_tokens<T, K>(cls, aux, dcls, daux);
  require_extent("token_label_loss.target rows", target.count, cls.count * (1 + tokens));
  detail::require_box(box, tokens);
  detail::require_sparse_rows<K>(target);
  return detail::token_loss<T, K>(
      ctx, cls, aux, box, scale, dcls, daux, [&](std::size_t b, std::size_t r, std::size_t other, T a) {
        return detail::sparse_row<T>{target, b * (1 + tokens) + r, other * (1 + tokens) + r, a};
      });
}

}  // namespace dm2::cpu
