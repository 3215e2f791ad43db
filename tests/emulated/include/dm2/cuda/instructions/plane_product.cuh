/// @file
/// The product of dm2/cuda/instructions/plane_product.cuh on the host.
#pragma once

#include <dm2/cuda/instructions/wgmma.cuh>

#include <cstdint>

namespace dm2::cuda::detail {

template <class T>
void multiply_plane(float (&d)[32], std::uint32_t const (&a)[4], std::uint64_t b) {
  product_of_type() = multiply_pending<T>;
  products_of_thread().back().push_back({d, 64, a, 0, b, true});
}

}  // namespace dm2::cuda::detail
