/// @file
/// Sums over samples that do not depend on the number of threads.
#pragma once

#include <dm2/cpu/gemm.hpp>

#include <cstddef>

namespace dm2::cpu::detail {

/// Parts in which a parameter's gradient is summed over rows or samples. Which belong to a part depends on their number
/// alone (samples k, k + 16, ... to part k; of rows or pixels the k-th sixteenth), a part is summed in order by one
/// thread, whichever it is, and the parts are added in their order.
inline constexpr int gradient_parts = 16;

/// dw [width] += the partial sums [parts, width], in their order.
template <class T>
void add_parts(T const* parts, int count, std::ptrdiff_t width, T* dw) {
  for (int k = 0; k < count; ++k) array(dw, width) += array(parts + k * width, width);
}

}  // namespace dm2::cpu::detail
