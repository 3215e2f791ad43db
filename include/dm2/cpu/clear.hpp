/// @file
/// Zeroing.
#pragma once

#include <dm2/cpu/context.hpp>
#include <dm2/cpu/gemm.hpp>

#include <cstddef>

namespace dm2::cpu {

/// data[0, n) = 0. For n = 0, data may be null.
template <class T>
void clear(context<T>& ctx, std::type_identity_t<T>* data, std::size_t n) {
  ctx.for_range(std::ptrdiff_t(n), 4096,
                [&](std::ptrdiff_t first, std::ptrdiff_t last) { array(data + first, last - first).setZero(); });
}

}  // namespace dm2::cpu
