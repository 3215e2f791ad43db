/// @file
/// Optimizer steps and averages over runs of consecutive numbers.
#pragma once

#include <dm2/core/optimizer_options.hpp>
#include <dm2/cpu/context.hpp>
#include <dm2/cpu/gemm.hpp>
#include <dm2/cpu/gradient_parts.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dm2::cpu {

/// Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2), decay first:
///     p <- p (1 - lr decay) - lr sign(beta1 m + (1 - beta1) g),  m <- beta2 m + (1 - beta2) g
/// with p the weights, g the gradient, m the momentum (`first`); decay and the betas are the options'.
///
/// Writes   run.weights, run.first (updated). sign(0) = 0.
template <class T>
void lion_step(context<T>& ctx, std::type_identity_t<optimizer_run<T>> run, optimizer_options const& o, double lr) {
  ctx.for_range(std::ptrdiff_t(run.size), 4096, [&](std::ptrdiff_t first, std::ptrdiff_t last) {
    T *const p = run.weights, *const m = run.first;
    T const* const g = run.gradient;
    for (std::ptrdiff_t i = first; i < last; ++i) {
      T const direction = T(o.beta1) * m[i] + T(1 - o.beta1) * g[i];
      T const sign = T(int(direction > T(0)) - int(direction < T(0)));
      p[i] = p[i] * T(1 - lr * o.weight_decay) - T(lr) * sign;
      m[i] = T(o.beta2) * m[i] + T(1 - o.beta2) * g[i];
    }
  });
}

/// AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2), step t = 1, 2, ...:
///     m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2
///     p <- p (1 - lr decay) - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
/// with p the weights, g the gradient, m and v the moments (`first`, `second`); decay, betas and eps are the options'.
///
/// Writes   run.weights, run.first, run.second (updated).
template <class T>
void adamw_step(context<T>& ctx, std::type_identity_t<optimizer_run<T>> run, optimizer_options const& o, double lr,
                std::int64_t step) {
  double const t = double(step);
  T const rate = T(lr / (1 - std::pow(o.beta1, t))), root = T(1 / std::sqrt(1 - std::pow(o.beta2, t)));
  ctx.for_range(std::ptrdiff_t(run.size), 4096, [&](std::ptrdiff_t first, std::ptrdiff_t last) {
    T *const p = run.weights, *const m = run.first, *const v = run.second;
    T const* const g = run.gradient;
    for (std::ptrdiff_t i = first; i < last; ++i) {
      m[i] = T(o.beta1) * m[i] + T(1 - o.beta1) * g[i];
      v[i] = T(o.beta2) * v[i] + T(1 - o.beta2) * g[i] * g[i];
      p[i] = p[i] * T(1 - lr * o.weight_decay) - rate * m[i] / (std::sqrt(v[i]) * root + T(o.eps));
    }
  });
}

/// average <- average - (1 - decay) (average - p)
///
/// Shapes   average, p [n]. Writes average (updated).
template <class T>
void ema_step(context<T>& ctx, std::type_identity_t<T>* average, std::type_identity_t<T> const* p, std::size_t n,
              double decay) {
  ctx.for_range(std::ptrdiff_t(n), 4096, [&](std::ptrdiff_t first, std::ptrdiff_t last) {
    for (std::ptrdiff_t i = first; i < last; ++i) average[i] -= T(1 - decay) * (average[i] - p[i]);
  });
}

/// x <- x factor for x [n].
template <class T>
void scale(context<T>& ctx, std::type_identity_t<T>* x, std::size_t n, double factor) {
  ctx.for_range(std::ptrdiff_t(n), 4096,
                [&](std::ptrdiff_t first, std::ptrdiff_t last) { array(x + first, last - first) *= T(factor); });
}

/// The sum of x's squares in double, in a fixed number of parts; NaN or infinity where x [n] holds one.
template <class T>
double sum_of_squares(context<T>& ctx, std::type_identity_t<T> const* x, std::size_t n) {
  double parts[detail::gradient_parts] = {};
  ctx.for_each(detail::gradient_parts, [&](int k, arena&) {
    std::ptrdiff_t const count = std::ptrdiff_t(n), first = count * k / detail::gradient_parts;
    std::ptrdiff_t const last = count * (k + 1) / detail::gradient_parts;
    parts[k] = array(x + first, last - first).template cast<double>().square().sum();
  });
  double sum = 0;
  for (double part : parts) sum += part;
  return sum;
}

}  // namespace dm2::cpu
