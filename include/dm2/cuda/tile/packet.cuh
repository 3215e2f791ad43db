/// @file
/// Neighbouring numbers in one access.
#pragma once

#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/pack.cuh>

#include <cstddef>
#include <cstdint>
#include <type_traits>

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

/// Blocks of `per_block` pieces of work.
inline unsigned blocks_for(std::size_t work, int per_block) {
  return unsigned((work + std::size_t(per_block) - 1) / std::size_t(per_block));
}

/// V numbers of T as they lie in memory, at a multiple of their bytes, at most 16: few registers while they are on
/// their way.
template <class T, int V>
struct vector_numbers {
  static_assert(V * sizeof(T) <= 16, "dm2::cuda::detail::vector_numbers<T, V>: more than one access");
  static constexpr bool paired = is_half<T> && V % 2 == 0;
  using word = std::conditional_t<paired, std::uint32_t, T>;
  packet<word, paired ? V / 2 : V> raw;

  __device__ static vector_numbers load(T const* from) { return {*reinterpret_cast<decltype(raw) const*>(from)}; }
  /// Zeros where `inside` is false; then `from` is not read.
  __device__ static vector_numbers load_if(bool inside, T const* from) {
    if (inside) return load(from);
    vector_numbers zeros;
    for (auto& w : zeros.raw.v) {
      if constexpr (paired)
        w = 0;
      else
        w = from_float<T>(0.f);
    }
    return zeros;
  }
  __device__ void get(float (&to)[V]) const {
    if constexpr (paired) {
#pragma unroll
      for (int i = 0; i < V / 2; ++i) {
        float2 const pair = unpack<T>(raw.v[i]);
        to[2 * i] = pair.x, to[2 * i + 1] = pair.y;
      }
    } else {
#pragma unroll
      for (int i = 0; i < V; ++i) to[i] = to_float(raw.v[i]);
    }
  }
  /// get() after this converts anew, so that the floats from before need not stay in registers.
  __device__ void forget_floats() {
    if constexpr (paired)
      for (std::uint32_t& w : raw.v) {
        int hidden = int(w);
        hide(hidden);
        w = std::uint32_t(hidden);
      }
  }
  __device__ static void store(T* to, float const (&from)[V]) {
    vector_numbers x;
    if constexpr (paired) {
#pragma unroll
      for (int i = 0; i < V / 2; ++i) x.raw.v[i] = pack<T>(from[2 * i], from[2 * i + 1]);
    } else {
#pragma unroll
      for (int i = 0; i < V; ++i) x.raw.v[i] = from_float<T>(from[i]);
    }
    *reinterpret_cast<decltype(raw)*>(to) = x.raw;
  }
};

/// The widest access, of at most `most` numbers, that divides every width; widths are positive.
template <class... I>
constexpr int widest_vector(int most, I... widths) {
  int v = most;
  while (((widths % v != 0) || ...)) v /= 2;
  return v;
}

}  // namespace dm2::cuda::detail
