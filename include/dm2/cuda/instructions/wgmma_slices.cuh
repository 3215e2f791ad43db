/// @file
/// Products of a Hopper's warpgroup with 16, 32, 48 or 64 columns.
///
/// Operands in shared memory are swizzled tiles of 64 columns, each one way or the other. "across" is
/// product_operand's, whose rows are rows of a, or columns of b; "down" is operand_down's, whose rows are what is
/// summed over. A number of columns that is no multiple of 64 leaves the rest of a tile that is down unread.
#pragma once

#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/wgmma.cuh>

#include <cstdint>
#include <type_traits>

namespace dm2::cuda::detail {

/// How an operand lies in shared memory.
enum class operand_lies : int { across = 0, down = 1 };

// The accumulators as an instruction names them, and as the compiler does.
#define DM2_NAMES_8 "%0,%1,%2,%3,%4,%5,%6,%7"
#define DM2_NAMES_16 DM2_NAMES_8 ",%8,%9,%10,%11,%12,%13,%14,%15"
#define DM2_NAMES_24 DM2_NAMES_16 ",%16,%17,%18,%19,%20,%21,%22,%23"
#define DM2_NAMES_32 DM2_NAMES_24 ",%24,%25,%26,%27,%28,%29,%30,%31"
#define DM2_EIGHT(d, i)                                                                                       \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define DM2_LIST_8(d) DM2_EIGHT(d, 0)
#define DM2_LIST_16(d) DM2_LIST_8(d), DM2_EIGHT(d, 8)
#define DM2_LIST_24(d) DM2_LIST_16(d), DM2_EIGHT(d, 16)
#define DM2_LIST_32(d) DM2_LIST_24(d), DM2_EIGHT(d, 24)
#define DM2_SLICE_PRODUCT(type, columns, names, list, first, second, third, fourth, fifth)                        \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " third ", 0;\nwgmma.mma_async.sync.aligned.m64n" columns        \
               "k16.f32." type "." type " {" names "}, " first ", " second ", p, 1, 1, " fourth ", " fifth ";\n}" \
               : list                                                                                             \
               : "l"(a), "l"(b), "r"(int(add)), "n"(int(A)), "n"(int(B)))
#define DM2_SLICE_HELD(type, columns, names, list, first, second, third, fourth, fifth)                                \
  asm volatile("wgmma.mma_async.sync.aligned.m64n" columns "k16.f32." type "." type " {" names "}, {" first "," second \
               "," third "," fourth "}, " fifth ", 1, 1, 1, 1;"                                                        \
               : list                                                                                                  \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))
// The statement for the number of columns that d has.
#define DM2_BY_COLUMNS(statement, type)                                                     \
  if constexpr (N == 8)                                                                     \
    statement(type, "16", DM2_NAMES_8, DM2_LIST_8(d), "%8", "%9", "%10", "%11", "%12");     \
  else if constexpr (N == 16)                                                               \
    statement(type, "32", DM2_NAMES_16, DM2_LIST_16(d), "%16", "%17", "%18", "%19", "%20"); \
  else if constexpr (N == 24)                                                               \
    statement(type, "48", DM2_NAMES_24, DM2_LIST_24(d), "%24", "%25", "%26", "%27", "%28"); \
  else                                                                                      \
    statement(type, "64", DM2_NAMES_32, DM2_LIST_32(d), "%32", "%33", "%34", "%35", "%36")

/// d [64, 2 N] = a b, or += where `add` holds, of 16 numbers to sum over. d is there after wait_products and hold.
template <class T, operand_lies A, operand_lies B, int N>
__device__ __forceinline__ void multiply_slice(float (&d)[N], std::uint64_t a, std::uint64_t b, bool add) {
  static_assert(is_half<T> && (N == 8 || N == 16 || N == 24 || N == 32),
                "dm2::cuda::detail::multiply_slice: T of 16 bits, 16 to 64 columns");
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    DM2_BY_COLUMNS(DM2_SLICE_PRODUCT, "bf16");
  } else {
    DM2_BY_COLUMNS(DM2_SLICE_PRODUCT, "f16");
  }
}
/// d [64, 2 N] += a b, a in registers that stay as they are until the product is there, b down.
template <class T, int N>
__device__ __forceinline__ void multiply_slice_down(float (&d)[N], std::uint32_t const (&a)[4], std::uint64_t b) {
  static_assert(is_half<T> && (N == 8 || N == 16 || N == 24 || N == 32),
                "dm2::cuda::detail::multiply_slice_down: T of 16 bits, 16 to 64 columns");
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    DM2_BY_COLUMNS(DM2_SLICE_HELD, "bf16");
  } else {
    DM2_BY_COLUMNS(DM2_SLICE_HELD, "f16");
  }
}

#undef DM2_BY_COLUMNS
#undef DM2_SLICE_HELD
#undef DM2_SLICE_PRODUCT
#undef DM2_LIST_32
#undef DM2_LIST_24
#undef DM2_LIST_16
#undef DM2_LIST_8
#undef DM2_EIGHT
#undef DM2_NAMES_32
#undef DM2_NAMES_24
#undef DM2_NAMES_16
#undef DM2_NAMES_8

/// Four 8 x 8 matrices of 16-bit numbers, held as load_matrix gives them, to shared memory, each transposed: lane
/// 8 i + r gives the address of column r of matrix i, 16 bytes, aligned.
__device__ inline void store_matrix_transposed(std::uint32_t address, std::uint32_t const (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(r[0]),
               "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}

}  // namespace dm2::cuda::detail
