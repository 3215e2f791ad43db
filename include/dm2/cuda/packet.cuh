/// @file
/// Several neighbouring numbers in one access, and sums over a warp.
#pragma once

#include <dm2/core/compiler.hpp>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail {

/// N numbers that are read or written at once; the address is a multiple of their size.
template <class T, int N>
struct alignas(sizeof(T) * N) packet {
  T v[N];
};

template <int N, class T>
__device__ inline packet<T, N> load_packet(T const* from) {
  return *reinterpret_cast<packet<T, N> const*>(from);
}
template <int N, class T>
__device__ inline void store_packet(T* to, packet<T, N> const& x) {
  *reinterpret_cast<packet<T, N>*>(to) = x;
}

/// Whether packets of N numbers start at p.
template <int N, class T>
bool packets_at(T const* p) {
  return reinterpret_cast<std::uintptr_t>(p) % (sizeof(T) * N) == 0;
}

/// The sum of every lane's number, in every lane, always in the same order.
__device__ inline float sum_over_warp(float x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
  return x;
}

/// The same over each half of the warp.
__device__ inline float sum_over_half_warp(float x) {
#pragma unroll
  for (int distance = 8; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
  return x;
}

/// Blocks of `per_block` pieces of work.
inline unsigned blocks_for(std::size_t work, int per_block) {
  return unsigned((work + std::size_t(per_block) - 1) / std::size_t(per_block));
}

}  // namespace dm2::cuda::detail
