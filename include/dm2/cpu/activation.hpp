/// @file
/// Pointwise functions and their derivatives, on consecutive numbers.
#pragma once

#include <dm2/cpu/gemm.hpp>

#include <cmath>
#include <cstddef>

namespace dm2::cpu {

/// y = x sigmoid(x). y may equal x.
template <class T>
void silu(T const* x, T* y, std::ptrdiff_t n) {
  auto const in = array(x, n);
  array(y, n) = in / (T(1) + (-in).exp());
}

/// dx = dy silu'(x), silu'(x) = s (1 + x (1 - s)) with s = sigmoid(x). dx may equal dy.
template <class T>
void silu_backward(T const* x, T const* dy, T* dx, std::ptrdiff_t n) {
  auto const in = array(x, n);
  auto const s = (T(1) + (-in).exp()).inverse();
  array(dx, n) = array(dy, n) * s * (T(1) + in * (T(1) - s));
}

/// log(1 + exp(x)), and x itself above 20, as PyTorch has it.
template <class T>
T softplus(T x) {
  return x > T(20) ? x : std::log1p(std::exp(x));
}

/// The derivative of softplus, 1 above 20.
template <class T>
T softplus_slope(T x) {
  return x > T(20) ? T(1) : T(1) / (T(1) + std::exp(-x));
}

}  // namespace dm2::cpu
