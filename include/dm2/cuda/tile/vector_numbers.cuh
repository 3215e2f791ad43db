/// @file
/// Neighbouring numbers as one access loads them, and as float.
#pragma once

#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <cstdint>
#include <type_traits>

namespace dm2::cuda::detail {

/// V numbers of T as they lie in memory, at a multiple of their bytes, at most 16: few registers while they are on their
/// way.
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
