/// @file
/// Root-mean-square normalisation (Zhang & Sennrich 2019, arXiv 1910.07467).
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cpu/context.hpp>
#include <dm2/cpu/gemm.hpp>
#include <dm2/cpu/gradient_parts.hpp>

#include <cmath>
#include <cstddef>
#include <type_traits>

namespace dm2::cpu {

/// rstd[r] = 1 / sqrt(mean_c x[r,c]^2 + eps),  y[r,c] = x[r,c] rstd[r] w[c]
///
/// Shapes   x, y [R, C]; w [C]; rstd [R].
/// Writes   y, rstd (=). rstd may be null. y may equal x.
/// Throws   shape_error if the row counts differ; nothing is written then.
template <class T, int C>
void rms_norm(context<T>& ctx, std::type_identity_t<rows<T const, C>> x, block<T const, space::host, C> w, double eps,
              std::type_identity_t<rows<T, C>> y, std::type_identity_t<T>* rstd) {
  require_extent("rms_norm.y rows", y.count, x.count);
  ctx.for_range(std::ptrdiff_t(x.count), 16, [&](std::ptrdiff_t first, std::ptrdiff_t last) {
    for (std::ptrdiff_t r = first; r < last; ++r) {
      auto const in = array(x.data + r * C, C);
      T const s = T(1) / std::sqrt(in.square().sum() / T(C) + T(eps));
      if (rstd != nullptr) rstd[r] = s;
      array(y.data + r * C, C) = in * s * array(w.data, C);
    }
  });
}

/// Bytes of shared scratch that rms_norm_backward takes.
template <class T, int C>
constexpr std::size_t rms_norm_backward_scratch() {
  return std::size_t(detail::gradient_parts) * C * sizeof(T) + arena::alignment;
}

/// With g = dy w:  dx = rstd g - x rstd^3 mean_c(g x),  dw += sum_r dy x rstd
///
/// Shapes   x, dy, dx [R, C]; rstd [R] from the forward; w, dw [C].
/// Writes   dx (+=): on the residual stream the norm's gradient joins what passes beside it; dw (+=).
/// Throws   shape_error if the row counts differ; nothing is written then.
template <class T, int C>
void rms_norm_backward(context<T>& ctx, std::type_identity_t<rows<T const, C>> x, block<T const, space::host, C> w,
                       T const* rstd, std::type_identity_t<rows<T const, C>> dy, rows<T, C> dx,
                       block<T, space::host, C> dw) {
  require_extent("rms_norm_backward.dy rows", dy.count, x.count);
  require_extent("rms_norm_backward.dx rows", dx.count, x.count);
  if (!ctx.reserve(rms_norm_backward_scratch<T, C>(), 0)) return;
  arena_scope const scope{ctx.shared()};
  T* const parts = ctx.shared().template take<T>(std::size_t(detail::gradient_parts) * C);
  ctx.for_each(detail::gradient_parts, [&](int k, arena&) {
    auto sum = array(parts + k * C, C);
    sum.setZero();
    std::ptrdiff_t const n = std::ptrdiff_t(x.count);
    for (std::ptrdiff_t r = n * k / detail::gradient_parts; r < n * (k + 1) / detail::gradient_parts; ++r) {
      auto const in = array(x.data + r * C, C);
      auto const g = array(dy.data + r * C, C);
      T const s = rstd[r];
      T const mean = (g * array(w.data, C) * in).sum() / T(C);
      sum += g * in * s;
      array(dx.data + r * C, C) += s * g * array(w.data, C) - in * (s * s * s * mean);
    }
  });
  detail::add_parts(parts, detail::gradient_parts, C, dw.data);
}

}  // namespace dm2::cpu
