/// @file
/// Products of a Hopper's warpgroup (sm_90a), and its exchange of registers.
///
/// Operands in shared memory are tiles of 64 columns, swizzled as tma.cuh copies them.
///
/// Fragments of wgmma.m64nNk16, warp w of the warpgroup, lane l, g = l / 4, t = l % 4 (PTX ISA, "Register Fragments for
/// wgmma.mma_async.m64nNk16"): those of mma.sync.m16n8k16 for rows 16 w to 16 w + 15, column tile after column tile, so
/// that accumulators 8 k to 8 k + 7, rounded, are the fragment of step k of a next product.
///
/// Three kinds: a b^T of two swizzled operands; the stem's 64 pixels by 64 channels, the pixels in registers; and a b
/// with weights b as they lie in memory, copied as tiles of 64 of its columns, swizzled, rows one after another.
#pragma once

#include <dm2/cuda/check.cuh>
#include <dm2/cuda/element.cuh>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dm2::cuda::detail {

/// Whether the code being compiled may use these instructions: false in every pass but sm_90a's, the host's among them.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
inline constexpr bool hopper_code = true;
#else
inline constexpr bool hopper_code = false;
#endif

/// Whether what the device would run of `kernel` was compiled for sm_90a. The kernel declares shared memory, no
/// multiple of the 1 KB that the system takes, where hopper_code holds and nowhere else: compiled for plain sm_90, or
/// by the driver from PTX, it has none.
template <class... Parameters>
bool has_hopper_code(char const* name, void (*kernel)(Parameters...)) {
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, reinterpret_cast<void const*>(kernel)), name);
  return attributes.sharedSizeBytes % 1024 != 0;
}

/// In a kernel with no shared memory of its own: what has_hopper_code() finds.
__device__ inline void mark_hopper_code() {
  __shared__ int mark;
  asm volatile("" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(&mark))));
}

/// Gives up registers of a thread beyond N; the whole warpgroup calls it.
template <int N>
__device__ inline void release_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
/// Takes registers that other warpgroups have given up, N of a thread in all.
template <int N>
__device__ inline void claim_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

/// A swizzled tile as a product's operand: groups of 8 rows, 1024 bytes apart.
__device__ inline std::uint64_t product_operand(std::uint32_t at) {
  return std::uint64_t{(at & 0x3ffffu) >> 4} | std::uint64_t{1} << 16 | std::uint64_t{1024 >> 4} << 32 |
         std::uint64_t{1} << 62;
}
/// The operand 16 columns further, `steps` times; at most 3 of a tile.
__device__ inline std::uint64_t further(std::uint64_t operand, int steps) { return operand + std::uint64_t(2 * steps); }

/// Keeps the compiler from moving what it does with accumulators across this point.
template <int N>
__device__ __forceinline__ void hold(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
/// Keeps the compiler from moving loads across this point.
__device__ inline void keep_order() { asm volatile("" ::: "memory"); }
/// Before a product, after other instructions have touched its registers.
__device__ inline void fence_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
/// Ends a group of products.
__device__ inline void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Waits until at most N groups are under way: then the others' operands may be overwritten.
template <int N>
__device__ inline void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// The accumulators as an instruction names them, and as the compiler does.
#define DM2_NAMES_36                                               \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17," \
  "%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35"
#define DM2_NAMES_48 DM2_NAMES_36 ",%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define DM2_NAMES_96                                                                                 \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,"           \
  "%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47," \
  "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,%64,%65,%66,%67,%68,%69,%70,%71," \
  "%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define DM2_FOUR(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define DM2_TWELVE(d, i) DM2_FOUR(d, i), DM2_FOUR(d, i + 4), DM2_FOUR(d, i + 8)
#define DM2_36(d) DM2_TWELVE(d, 0), DM2_TWELVE(d, 12), DM2_TWELVE(d, 24)
#define DM2_48(d) DM2_36(d), DM2_TWELVE(d, 36)
#define DM2_96(d) DM2_48(d), DM2_TWELVE(d, 48), DM2_TWELVE(d, 60), DM2_TWELVE(d, 72), DM2_TWELVE(d, 84)
#define DM2_NARROW_PRODUCT(type)                                                                                     \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %50, 0;\nwgmma.mma_async.sync.aligned.m64n96k16.f32." type "." type \
               " {" DM2_NAMES_48 "}, %48, %49, p, 1, 1, 0, 0;\n}"                                                    \
               : DM2_48(d)                                                                                           \
               : "l"(a), "l"(b), "r"(1))
#define DM2_WIDE_PRODUCT(type)                                                                                        \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %98, 0;\nwgmma.mma_async.sync.aligned.m64n192k16.f32." type "." type \
               " {" DM2_NAMES_96 "}, %96, %97, p, 1, 1, 0, 0;\n}"                                                     \
               : DM2_96(d)                                                                                            \
               : "l"(a), "l"(b), "r"(1))
#define DM2_CHUNK_PRODUCT(type)                                                                                      \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %41, 0;\nwgmma.mma_async.sync.aligned.m64n72k16.f32." type "." type \
               " {" DM2_NAMES_36 "}, {%36,%37,%38,%39}, %40, p, 1, 1, 0;\n}"                                         \
               : DM2_36(d)                                                                                           \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)))

/// d [64, 192] += a b^T, of 16 columns of both operands in shared memory. d is there after wait_products and hold.
template <class T>
__device__ __forceinline__ void multiply_wide(float (&d)[96], std::uint64_t a, std::uint64_t b) {
  static_assert(is_half<T>, "dm2::cuda::detail::multiply_wide<T>: T must have 16 bits");
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    DM2_WIDE_PRODUCT("bf16");
  else
    DM2_WIDE_PRODUCT("f16");
}
/// d [64, 96] += a b^T, as the one above.
template <class T>
__device__ __forceinline__ void multiply_wide(float (&d)[48], std::uint64_t a, std::uint64_t b) {
  static_assert(is_half<T>, "dm2::cuda::detail::multiply_wide<T>: T must have 16 bits");
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    DM2_NARROW_PRODUCT("bf16");
  else
    DM2_NARROW_PRODUCT("f16");
}
/// d [64, 72] = a b^T, or += where `add` holds, a in registers that stay as they are until the product is there.
template <class T>
__device__ __forceinline__ void multiply_chunk(float (&d)[36], std::uint32_t const (&a)[4], std::uint64_t b, bool add) {
  static_assert(is_half<T>, "dm2::cuda::detail::multiply_chunk<T>: T must have 16 bits");
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    DM2_CHUNK_PRODUCT("bf16");
  else
    DM2_CHUNK_PRODUCT("f16");
}

#undef DM2_CHUNK_PRODUCT
#undef DM2_WIDE_PRODUCT
#undef DM2_NARROW_PRODUCT
#undef DM2_96
#undef DM2_48
#undef DM2_36
#undef DM2_TWELVE
#undef DM2_FOUR
#undef DM2_NAMES_96
#undef DM2_NAMES_48
#undef DM2_NAMES_36

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
#define DM2_WIDE_DOWN_HELD(type)                                                              \
  asm volatile("wgmma.mma_async.sync.aligned.m64n192k16.f32." type "." type " {" DM2_NAMES_96 \
               "}, {%96,%97,%98,%99}, %100, 1, 1, 1, 1;"                                      \
               : DM2_32(d, 0), DM2_32(d, 32), DM2_32(d, 64)                                   \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
#define DM2_CHUNK_DOWN(type)                                                        \
  asm volatile(                                                                     \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"                                  \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" DM2_NAMES_32 \
      "}, {%32,%33,%34,%35}, %36, p, 1, 1, 1;\n}"                                   \
      : DM2_32(d, 0)                                                                \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)))

/// d [64, 192] += a b, of 16 columns of a, product_operand's, and 16 rows of b. d is there after wait_products and
/// hold.
template <class T>
__device__ __forceinline__ void multiply_wide_down(float (&d)[96], std::uint64_t a, std::uint64_t b) {
  static_assert(is_half<T>, "dm2::cuda::detail::multiply_wide_down<T>: T must have 16 bits");
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    DM2_WIDE_DOWN("bf16");
  else
    DM2_WIDE_DOWN("f16");
}
/// The same, a in registers that stay as they are until the product is there.
template <class T>
__device__ __forceinline__ void multiply_wide_down(float (&d)[96], std::uint32_t const (&a)[4], std::uint64_t b) {
  static_assert(is_half<T>, "dm2::cuda::detail::multiply_wide_down<T>: T must have 16 bits");
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    DM2_WIDE_DOWN_HELD("bf16");
  else
    DM2_WIDE_DOWN_HELD("f16");
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
#undef DM2_WIDE_DOWN_HELD
#undef DM2_WIDE_DOWN
#undef DM2_32
#undef DM2_EIGHT
#undef DM2_NAMES_96
#undef DM2_NAMES_32

}  // namespace dm2::cuda::detail
