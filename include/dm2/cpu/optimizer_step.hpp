/// @file
/// Optimiser steps and averages over runs of consecutive numbers.
#pragma once

#include <dm2/cpu/context.hpp>
#include <dm2/cpu/gemm.hpp>
#include <dm2/cpu/gradient_parts.hpp>

#include <cmath>
#include <cstddef>
#include <type_traits>

namespace dm2::cpu {

/// Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2), decay first:
///     p <- p (1 - lr decay) - lr sign(beta1 m + (1 - beta1) g),  m <- beta2 m + (1 - beta2) g
///
/// Shapes   p, g, m [n]. Writes p, m (updated). sign(0) = 0.
template <class T>
void lion_step(context<T>& ctx, std::type_identity_t<T>* p, std::type_identity_t<T> const* g,
               std::type_identity_t<T>* m, std::size_t n, double lr, double decay, double beta1, double beta2) {
  ctx.for_range(std::ptrdiff_t(n), 4096, [&](std::ptrdiff_t first, std::ptrdiff_t last) {
    for (std::ptrdiff_t i = first; i < last; ++i) {
      T const direction = T(beta1) * m[i] + T(1 - beta1) * g[i];
      T const sign = T(int(direction > T(0)) - int(direction < T(0)));
      p[i] = p[i] * T(1 - lr * decay) - T(lr) * sign;
      m[i] = T(beta2) * m[i] + T(1 - beta2) * g[i];
    }
  });
}

/// AdamW (Loshchilov & Hutter 2019, arXiv 1711.05101, algorithm 2), step t = 1, 2, ...:
///     m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2
///     p <- p (1 - lr decay) - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
///
/// Shapes   p, g, m, v [n]. Writes p, m, v (updated).
template <class T>
void adamw_step(context<T>& ctx, std::type_identity_t<T>* p, std::type_identity_t<T> const* g,
                std::type_identity_t<T>* m, std::type_identity_t<T>* v, std::size_t n, double lr, double decay,
                double beta1, double beta2, double eps, double step) {
  T const rate = T(lr / (1 - std::pow(beta1, step))), root = T(1 / std::sqrt(1 - std::pow(beta2, step)));
  ctx.for_range(std::ptrdiff_t(n), 4096, [&](std::ptrdiff_t first, std::ptrdiff_t last) {
    for (std::ptrdiff_t i = first; i < last; ++i) {
      m[i] = T(beta1) * m[i] + T(1 - beta1) * g[i];
      v[i] = T(beta2) * v[i] + T(1 - beta2) * g[i] * g[i];
      p[i] = p[i] * T(1 - lr * decay) - rate * m[i] / (std::sqrt(v[i]) * root + T(eps));
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
