/// @file
/// The instructions that tensor kernels are built from, each under a name.
///
/// mma.sync m16n8k16 and m16n8k8, ldmatrix, cp.async, and the fast forms of exp2 and tanh.
///
/// Fragments of mma.sync.m16n8k16 (PTX ISA, "Matrix Fragments for mma.m16n8k16"), lane l, g = l / 4, t = l % 4:
///     A [16, 16] row-major   a[0]: (g, 2t..)  a[1]: (g + 8, 2t..)  a[2]: (g, 2t + 8..)  a[3]: (g + 8, 2t + 8..)
///     B [16, 8]              b0: rows 2t, 2t + 1 of column g       b1: rows 2t + 8, 2t + 9
///     C [16, 8]              c[0], c[1]: (g, 2t), (g, 2t + 1)      c[2], c[3]: (g + 8, ...)
#pragma once

#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/pack.cuh>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dm2::cuda::detail {

/// The address that shared-memory instructions take.
__device__ inline std::uint32_t shared_address(void const* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

/// c += a b, of 16-bit operands into float.
template <class T>
__device__ inline void mma(float (&c)[4], std::uint32_t const (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  static_assert(is_half<T>, "dm2::cuda::detail::mma<T>: T must have 16 bits");
  if constexpr (std::is_same_v<T, __nv_bfloat16>)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// c += a b of TF32, m16n8k8: a[0]: (g, t)  a[1]: (g + 8, t)  a[2]: (g, t + 4)  a[3]: (g + 8, t + 4); b0: row t of
/// column g, b1: row t + 4; c as above. Operands are floats' bits, rounded.
__device__ inline void mma_tf32(float (&c)[4], std::uint32_t const (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/// A float's bits rounded to the nearest TF32; the product alone would cut them off.
__device__ inline void round_to_tf32(std::uint32_t& bits) { asm("cvt.rna.tf32.f32 %0, %0;" : "+r"(bits)); }
/// The same for several.
template <int N>
__device__ inline void round_to_tf32(std::uint32_t (&bits)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) round_to_tf32(bits[i]);
}

/// Four 8 x 8 matrices of 16-bit numbers: lane 8 i + r gives the address of row r of matrix i, 16 bytes, aligned.
__device__ inline void load_matrix(std::uint32_t (&r)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
/// The same, each matrix transposed.
__device__ inline void load_matrix_transposed(std::uint32_t (&r)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

/// Starts a copy of 16, 8 or 4 bytes from global to shared memory, both aligned to their number; where `valid` is
/// false, zero bytes, and `from` is not read.
template <int Bytes = 16>
__device__ inline void copy_async(std::uint32_t to, void const* from, bool valid = true) {
  static_assert(Bytes == 16 || Bytes == 8 || Bytes == 4,
                "dm2::cuda::detail::copy_async<Bytes>: Bytes must be 4, 8 or 16");
  int const bytes = valid ? Bytes : 0;
  if constexpr (Bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(to), "l"(from), "r"(bytes), "n"(Bytes)
                 : "memory");
}
/// Ends a group of copies.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// N words of shared memory, aligned to all of them: 1, 2 or 4.
template <int N>
__device__ inline void load_shared(std::uint32_t (&r)[N], std::uint32_t address) {
  static_assert(N == 1 || N == 2 || N == 4, "dm2::cuda::detail::load_shared<N>: N must be 1, 2 or 4");
  if constexpr (N == 1)
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(r[0]) : "r"(address));
  else if constexpr (N == 2)
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(address));
  else
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address));
}
/// Waits until at most N groups of this thread's copies are under way. A barrier must follow before others read.
template <int N>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/// Waits for the other threads of a group of `Threads`, whole warps, that calls it with the same index, 0 to 14.
template <int Threads>
__device__ inline void barrier(int group) {
  asm volatile("bar.sync %0, %1;" ::"r"(group + 1), "n"(Threads) : "memory");  // 0 is the block's
}

/// The same for a number of threads that is known when the kernel runs.
__device__ inline void barrier(int group, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(group + 1), "r"(threads) : "memory");
}
/// Counts as waiting for the group, and goes on: what was written before is seen behind barrier().
template <int Threads>
__device__ inline void arrive(int group) {
  asm volatile("bar.arrive %0, %1;" ::"r"(group + 1), "n"(Threads) : "memory");
}

/// x, of which the compiler now knows nothing: what depends on it is computed anew after this point, not kept in
/// registers from before.
__device__ inline void hide(int& x) { asm volatile("" : "+r"(x)); }
__device__ inline void hide(std::size_t& x) { asm volatile("" : "+l"(x)); }

/// The address of global memory that p is, to be hidden, and p again: of a pointer that was hidden itself the compiler
/// would not know which memory it is of.
__device__ inline std::size_t global_address(void const* p) { return __cvta_generic_to_global(p); }
template <class T>
__device__ inline T* global_pointer(std::size_t address) {
  return static_cast<T*>(__cvta_global_to_generic(address));
}

/// 2^x, error 2^-22; 0 below -126.
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// tanh(x), relative error 2^-11: below the rounding of a 16-bit result.
__device__ inline float tanh_fast(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// x sigmoid(x) = h tanh(h) + h with h = x / 2.
__device__ inline float silu_fast(float x) {
  float const h = 0.5f * x;
  return fmaf(h, tanh_fast(h), h);
}
/// log(1 + exp(x)), exact to float's rounding.
__device__ inline float softplus(float x) { return fmaxf(x, 0.f) + log1pf(__expf(-fabsf(x))); }
/// x sigmoid(x) to float's rounding.
__device__ inline float silu(float x) { return x / (1.f + __expf(-x)); }

inline constexpr float log2_e = 1.4426950408889634f;

}  // namespace dm2::cuda::detail
