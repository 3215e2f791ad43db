/// @file
/// Products of a Hopper's warpgroup with weights as they lie in memory: a b, where wgmma.cuh has a b^T. b is copied as
/// tiles of 64 of its columns, swizzled, rows one after another.
#pragma once

#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/wgmma.cuh>

#include <cstdint>
#include <type_traits>

namespace dm2::cuda::detail {

/// Swizzled tiles of 64 columns, `apart` bytes from one to the next, as the operand b of these products.
__device__ inline std::uint64_t operand_down(std::uint32_t at, int apart) {
  return std::uint64_t{(at & 0x3ffffu) >> 4} | std::uint64_t(apart / 16) << 16 | std::uint64_t{1024 >> 4} << 32 |
         std::uint64_t{1} << 62;
}
/// The operand 16 rows further, `steps` times.
__device__ inline std::uint64_t further_down(std::uint64_t operand, int steps) {
  return operand + std::uint64_t(128 * steps);
}

// The accumulators as an instruction names them, and as the compiler does.
#define DM2_NAMES_32                                                                       \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23," \
  "%24,%25,%26,%27,%28,%29,%30,%31"
#define DM2_NAMES_96                                                                                              \
  DM2_NAMES_32                                                                                                    \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58," \
  "%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,"  \
  "%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define DM2_EIGHT(d, i)                                                                                       \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define DM2_32(d, i) DM2_EIGHT(d, i), DM2_EIGHT(d, i + 8), DM2_EIGHT(d, i + 16), DM2_EIGHT(d, i + 24)
#define DM2_WIDE_DOWN(type)                                                                   \
  asm volatile("wgmma.mma_async.sync.aligned.m64n192k16.f32." type "." type " {" DM2_NAMES_96 \
               "}, %96, %97, 1, 1, 1, 0, 1;"                                                  \
               : DM2_32(d, 0), DM2_32(d, 32), DM2_32(d, 64)                                   \
               : "l"(a), "l"(b))
#define DM2_CHUNK_DOWN(type)                                                        \
  asm volatile(                                                                     \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"                                  \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" DM2_NAMES_32 \
      "}, {%32,%33,%34,%35}, %36, p, 1, 1, 1;\n}"                                   \
      : DM2_32(d, 0)                                                                \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)))

/// d [64, 192] += a b, of 16 columns of a, an operand of wgmma.cuh, and 16 rows of b. d is there after wait_products and
/// hold.
template <class T>
__device__ __forceinline__ void multiply_wide_down(float (&d)[96], std::uint64_t a, std::uint64_t b) {
  static_assert(is_half<T>, "dm2::cuda::detail::multiply_wide_down<T>: T must have 16 bits");
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    DM2_WIDE_DOWN("bf16");
  else
    DM2_WIDE_DOWN("f16");
}
/// d [64, 64] = a b, or += where `add` holds, a in registers that stay as they are until the product is there.
template <class T>
__device__ __forceinline__ void multiply_chunk_down(float (&d)[32], std::uint32_t const (&a)[4], std::uint64_t b,
                                                    bool add) {
  static_assert(is_half<T>, "dm2::cuda::detail::multiply_chunk_down<T>: T must have 16 bits");
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    DM2_CHUNK_DOWN("bf16");
  else
    DM2_CHUNK_DOWN("f16");
}

#undef DM2_CHUNK_DOWN
#undef DM2_WIDE_DOWN
#undef DM2_32
#undef DM2_EIGHT
#undef DM2_NAMES_96
#undef DM2_NAMES_32

}  // namespace dm2::cuda::detail
