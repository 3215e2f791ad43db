/// @file
/// The product of the stem's convolutions on a Hopper: 64 pixels by 64 channels, the pixels' operand in registers.
#pragma once

#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/wgmma.cuh>

#include <cstdint>
#include <type_traits>

namespace dm2::cuda::detail {

#define DM2_EIGHT(d, i)                                                                                       \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define DM2_PLANE_PRODUCT(type)                                                                           \
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type                                \
               " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23," \
               "%24,%25,%26,%27,%28,%29,%30,%31}, {%32,%33,%34,%35}, %36, 1, 1, 1, 0;"                    \
               : DM2_EIGHT(d, 0), DM2_EIGHT(d, 8), DM2_EIGHT(d, 16), DM2_EIGHT(d, 24)                     \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

/// d [64, 64] += a b^T, a in registers that stay as they are until the product is there: after wait_products and hold.
template <class T>
__device__ __forceinline__ void multiply_plane(float (&d)[32], std::uint32_t const (&a)[4], std::uint64_t b) {
  static_assert(is_half<T>, "dm2::cuda::detail::multiply_plane<T>: T must have 16 bits");
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    DM2_PLANE_PRODUCT("bf16");
  else
    DM2_PLANE_PRODUCT("f16");
}

#undef DM2_PLANE_PRODUCT
#undef DM2_EIGHT

}  // namespace dm2::cuda::detail
