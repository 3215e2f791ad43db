/// @file
/// The mixer core's state between segments, and its two products.
///
/// A warp has 16 states of all columns of a unit. Tr are the constants of the kernel for segments (segments.cuh).
#pragma once

#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/mixer_core/tensor.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <cstdint>

namespace dm2::cuda::detail::mixer_core {

/// What a warp carries from segment to segment, 16 states of all columns of a unit, as the accumulators of a product:
/// of the 16 columns of each group rows g and g + 8, of the states two times 8. Rounded, they are B fragments as they
/// are: [state tiles, column groups, 32] of 16 bytes, in memory and in shared memory.
template <class Tr>
using carried_state = float[Tr::column_groups][2][4];

/// The warp's tile of the state, `from` this lane's part, times `decay`.
template <class Tr>
__device__ inline void load_carried(carried_state<Tr>& s, uint4 const* from, float decay) {
  using T = typename Tr::element;
#pragma unroll
  for (int m = 0; m < Tr::column_groups; ++m) {
    uint4 const v = from[m * 32];
    float2 const a = unpack<T>(v.x), b = unpack<T>(v.y), c = unpack<T>(v.z), d = unpack<T>(v.w);
    s[m][0][0] = decay * a.x, s[m][0][1] = decay * a.y, s[m][0][2] = decay * c.x, s[m][0][3] = decay * c.y;
    s[m][1][0] = decay * b.x, s[m][1][1] = decay * b.y, s[m][1][2] = decay * d.x, s[m][1][3] = decay * d.y;
  }
}

template <class Tr>
__device__ inline void store_carried(carried_state<Tr> const& s, uint4* to) {
  using T = typename Tr::element;
#pragma unroll
  for (int m = 0; m < Tr::column_groups; ++m) {
    auto const &low = s[m][0], &high = s[m][1];
    to[m * 32] = {pack<T>(low[0], low[1]), pack<T>(high[0], high[1]), pack<T>(low[2], low[3]),
                  pack<T>(high[2], high[3])};
  }
}

/// Starts the copy of a unit's state to shared memory.
template <class Tr>
__device__ inline void stage_carried(int thread, uint4 const* from, layout<Tr> const& lay, unsigned char* shared) {
  std::uint32_t const to = shared_address(shared + lay.state);
#pragma unroll
  for (int i = 0; i < Tr::unit_vectors; i += Tr::threads)
    if (Tr::unit_vectors % Tr::threads == 0 || i + thread < Tr::unit_vectors)
      copy_async(to + std::uint32_t((i + thread) * 16), from + i + thread);
  commit_copies();
}

/// Factors of the segment's tokens, rounded, in pairs: dt_j times the decay from j to the end of its block of 64
/// tokens, and behind them to the segment's end.
template <class Tr>
__device__ inline void fill_factors(int thread, layout<Tr> const& lay, float const* cum, float const* ev,
                                    unsigned char* shared) {
  using T = typename Tr::element;
  if (thread >= lay.tokens / 2) return;
  std::uint32_t* const to = reinterpret_cast<std::uint32_t*>(shared + lay.factors) + thread;
  float2 const from = *reinterpret_cast<float2 const*>(ev + 2 * thread);
  float const last = cum[lay.tokens - 1], end = cum[min(2 * thread | 63, lay.tokens - 1)];
  to[0] = pack<T>(exp2_fast(end - from.x), exp2_fast(end - from.y));
  to[lay.tokens / 2] = pack<T>(exp2_fast(last - from.x), exp2_fast(last - from.y));
}

/// s += sum over the segment's tokens of B_j x_j^T, decayed to its end: state tile m.
template <class Tr>
__device__ inline void update_carried(carried_state<Tr>& s, int m, layout<Tr> const& lay, unsigned char const* shared) {
  using T = typename Tr::element;
  int const lane = thread_here() % 32;
  std::uint32_t const x = shared_address(shared) + std::uint32_t(lay.x + fragment::right_operand(lane, Tr::pitch));
  std::uint32_t const b =
      shared_address(shared) + std::uint32_t(lay.b + state_offset<Tr>(lane % 16, 2 * m + lane / 16));
  std::uint32_t const* const factors =
      reinterpret_cast<std::uint32_t const*>(shared + lay.factors + 2 * lay.tokens) + fragment::quarter(lane);
#pragma unroll 2
  for (int c = 0; c < lay.tokens / 16; ++c) {
    std::uint32_t v[4];
    load_matrix_transposed(v, b + std::uint32_t(c * 16 * Tr::state_bytes));
    std::uint32_t const low = factors[c * 8], high = factors[c * 8 + 4];
    v[0] = multiply_pairs<T>(v[0], low), v[1] = multiply_pairs<T>(v[1], high);
    v[2] = multiply_pairs<T>(v[2], low), v[3] = multiply_pairs<T>(v[3], high);
#pragma unroll
    for (int n = 0; n < Tr::column_groups; ++n) {
      std::uint32_t a[4];
      load_matrix_transposed(a, x + std::uint32_t(c * 16 * Tr::pitch + n * 32));
      mma<T>(s[n][0], a, v[0], v[1]);
      mma<T>(s[n][1], a, v[2], v[3]);
    }
  }
}

/// acc += C times the state that enters, decayed to the segment's start; rows(i) are the fragments of the warp's rows
/// of C.
template <class Tr, class Rows>
__device__ inline void scan_carried(float (&acc)[2 * Tr::column_groups][4], Rows const& rows, layout<Tr> const& lay,
                                    unsigned char const* shared) {
  uint4 const* const state = reinterpret_cast<uint4 const*>(shared + lay.state) + thread_here() % 32;
#pragma unroll
  for (int i = 0; i < Tr::state / 16; ++i) {
    uint4 const c = rows(i);
#pragma unroll
    for (int n = 0; n < Tr::column_groups; ++n) {
      uint4 const v = state[(i * Tr::column_groups + n) * 32];
      unit_operands<Tr>::multiply(acc, {c.x, c.y, c.z, c.w}, {v.x, v.y, v.z, v.w}, n);
    }
  }
}

}  // namespace dm2::cuda::detail::mixer_core
