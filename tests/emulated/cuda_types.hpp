/// @file
/// CUDA's keywords, vector types and device functions on the host.
#pragma once

#include "machine.hpp"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#define __device__
#define __host__
#define __global__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline
#define __noinline__
#define __shared__ static thread_local
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

struct uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x{a}, y{b}, z{c} {}
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline thread_local constinit emulated::index3 threadIdx{}, blockIdx{};
inline thread_local constinit emulated::index3 blockDim{}, gridDim{};

using std::isfinite;
using std::isinf;
using std::isnan;
template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  return std::common_type_t<A, B>(b) < std::common_type_t<A, B>(a) ? b : a;
}
template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  return std::common_type_t<A, B>(a) < std::common_type_t<A, B>(b) ? b : a;
}

inline void __syncthreads() { emulated::machine::current().wait(0, 0); }
inline int __syncthreads_or(int mine) {
  __shared__ int any;
  __syncthreads();
  any = 0;
  __syncthreads();
  if (mine != 0) any = 1;
  __syncthreads();
  return any;
}
inline void __syncwarp(unsigned = ~0u) {
  char none = 0;
  emulated::machine::current().together("__syncwarp", none, [](auto const&) {});
}

namespace emulated {

/// What a lane brings to an exchange, and what it gets.
template <class T>
struct exchanged {
  T mine;
  unsigned from;
  T got;
};
template <class T>
T shuffle(char const* name, T mine, unsigned from) {
  exchanged<T> e{mine, from % lanes, mine};
  machine::current().together(name, e, [](auto const& all) {
    for (auto* x : all) x->got = all[x->from]->mine;
  });
  return e.got;
}
inline unsigned ballot(char const* name, bool mine) {
  exchanged<unsigned> e{mine, 0, 0};
  machine::current().together(name, e, [](auto const& all) {
    unsigned bits = 0;
    for (unsigned i = 0; i < lanes; ++i) bits |= all[i]->mine << i;
    for (auto* x : all) x->got = bits;
  });
  return e.got;
}

}  // namespace emulated

template <class T>
T __shfl_sync(unsigned, T x, int from, int width = 32) {
  unsigned const lane = threadIdx.x % 32, w = unsigned(width);
  return emulated::shuffle("__shfl_sync", x, lane / w * w + unsigned(from) % w);
}
template <class T>
T __shfl_xor_sync(unsigned, T x, int mask) {
  return emulated::shuffle("__shfl_xor_sync", x, (threadIdx.x % 32) ^ unsigned(mask));
}
template <class T>
T __shfl_up_sync(unsigned, T x, unsigned delta, int width = 32) {
  unsigned const lane = threadIdx.x % 32;
  return emulated::shuffle("__shfl_up_sync", x, lane % unsigned(width) >= delta ? lane - delta : lane);
}
template <class T>
T __shfl_down_sync(unsigned, T x, unsigned delta, int width = 32) {
  unsigned const lane = threadIdx.x % 32, w = unsigned(width);
  return emulated::shuffle("__shfl_down_sync", x, lane % w + delta < w ? lane + delta : lane);
}
inline unsigned __ballot_sync(unsigned, bool x) { return emulated::ballot("__ballot_sync", x); }
inline int __any_sync(unsigned, bool x) { return emulated::ballot("__any_sync", x) != 0; }
inline int __all_sync(unsigned, bool x) { return emulated::ballot("__all_sync", x) == ~0u; }

template <class T>
T __ldg(T const* p) {
  return *p;
}
template <class T>
T __ldcs(T const* p) {
  return *p;
}
template <class T>
T __ldcg(T const* p) {
  return *p;
}
template <class T>
void __stcg(T* p, std::type_identity_t<T> x) {
  *p = x;
}
template <class T>
void __stcs(T* p, std::type_identity_t<T> x) {
  *p = x;
}

inline float __uint_as_float(unsigned x) {
  float y;
  std::memcpy(&y, &x, 4);
  return y;
}
inline unsigned __float_as_uint(float x) {
  unsigned y;
  std::memcpy(&y, &x, 4);
  return y;
}
inline int __float_as_int(float x) { return int(__float_as_uint(x)); }
inline float __int_as_float(int x) { return __uint_as_float(unsigned(x)); }
/// The C library's, inline: kernels of attention spend an eighth of their time here in calling it.
extern "C" {
extern inline __attribute__((gnu_inline, always_inline)) float fmaxf(float x, float y) noexcept {
  return std::isgreater(y, x) || std::isnan(x) ? y : x;
}
}
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1.f) : 0.f; }
inline void __sincosf(float x, float* s, float* c) { *s = std::sin(x), *c = std::cos(x); }
inline void sincospif(float x, float* s, float* c) {
  *s = float(std::sin(3.14159265358979323846 * double(x))), *c = float(std::cos(3.14159265358979323846 * double(x)));
}
template <class T>
T atomicAdd(T* p, std::type_identity_t<T> x) {
  return __atomic_fetch_add(p, x, __ATOMIC_RELAXED);
}
inline void __threadfence_block() {}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return unsigned(((std::uint64_t{high} << 32 | low) << (shift & 31)) >> 32);
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned chosen) {
  std::uint64_t const bytes = std::uint64_t{y} << 32 | x;
  unsigned out = 0;
  for (int i = 0; i < 4; ++i) out |= unsigned(bytes >> (chosen >> 4 * i & 7) * 8 & 255) << 8 * i;
  return out;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((std::uint64_t{a} * b) >> 32); }
