/// @file
/// The state that a block carries from chunk to chunk: see chunked_launch.cuh.
#pragma once

#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/ssd/chunked.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::scan {

/// A thread's share of a unit's state: of the 16 columns of each row tile rows g and g + 8, of N the warp's tiles of 16,
/// each as two of 8.
template <class Tr>
using state_registers = float[Tr::row_tiles][Tr::state_tiles][4];

template <class Tr>
__device__ inline void clear_state(state_registers<Tr>& state) {
#pragma unroll
  for (int m = 0; m < Tr::row_tiles; ++m)
#pragma unroll
    for (int n = 0; n < Tr::state_tiles; ++n) state[m][n][0] = state[m][n][1] = state[m][n][2] = state[m][n][3] = 0;
}

/// The state at the run's start.
template <class Tr>
__device__ inline void load_state(chunked_block<Tr> const& k, ssd_runs<typename Tr::element> const& runs,
                                  state_registers<Tr>& state) {
  float4 const* const from = runs.states + (std::size_t(k.place) * runs.count + k.run) * Tr::state_vectors + k.thread;
#pragma unroll
  for (int m = 0; m < Tr::row_tiles; ++m)
#pragma unroll
    for (int n = 0; n < Tr::state_tiles; ++n) {
      float4 const v = from[(m * Tr::state_tiles + n) * Tr::team_threads];
      state[m][n][0] = v.x, state[m][n][1] = v.y, state[m][n][2] = v.z, state[m][n][3] = v.w;
    }
}

/// The state after the run, and its decay.
template <class Tr>
__device__ inline void store_state(chunked_block<Tr> const& k, ssd_runs<typename Tr::element> const& runs,
                                   state_registers<Tr> const& state, float total) {
  std::size_t const at = std::size_t(k.place) * runs.count + k.run;
  float4* const to = runs.states + at * Tr::state_vectors + k.thread;
#pragma unroll
  for (int m = 0; m < Tr::row_tiles; ++m)
#pragma unroll
    for (int n = 0; n < Tr::state_tiles; ++n)
      to[(m * Tr::state_tiles + n) * Tr::team_threads] = {state[m][n][0], state[m][n][1], state[m][n][2],
                                                          state[m][n][3]};
  if (k.thread == 0) runs.decays[at] = total;
}

/// The state, rounded, as B fragments: 16 of N by 16 columns a tile, for the team's other warps.
template <class Tr>
__device__ inline void store_fragments(chunked_block<Tr> const& k, state_registers<Tr> const& state) {
  using T = typename Tr::element;
#pragma unroll
  for (int j = 0; j < Tr::owned; ++j) {
    int const d = j * 4 + (k.warp & 3);
    if (Tr::depth % 4 != 0 && d >= Tr::depth) break;
#pragma unroll
    for (int m = 0; m < Tr::row_tiles; ++m) {
      auto const &low = state[m][2 * j], &high = state[m][2 * j + 1];
      *reinterpret_cast<uint4*>(k.own + Tr::fragments + (d * Tr::row_tiles + m) * fragment_bytes + k.lane * 16) = {
          pack<T>(low[0], low[1]), pack<T>(high[0], high[1]), pack<T>(low[2], low[3]), pack<T>(high[2], high[3])};
    }
  }
}

/// state = exp(c_63) state + sum_j scaled x_j B_j^T.
template <class Tr>
__device__ inline void update_state(chunked_block<Tr> const& k, int chunk, state_registers<Tr>& state) {
  using T = typename Tr::element;
  float const left = exp2_fast(k.decay(chunk)[ssd_tile - 1].x);
#pragma unroll
  for (int m = 0; m < Tr::row_tiles; ++m) scale_rows(state[m], left, left);
  std::uint32_t const x =
      shared_address(k.own + Tr::scaled) + ((k.lane & 7) + (k.lane >> 4) * 8) * Tr::pitch + (k.lane >> 3 & 1) * 16;
  std::uint32_t const b = shared_address(k.shared + Tr::b) + (k.lane & 15) * Tr::row_pitch + (k.lane >> 4) * 16;
#pragma unroll
  for (int t = 0; t < ssd_tile / 16; ++t) {
    std::uint32_t a[Tr::row_tiles][4];
#pragma unroll
    for (int m = 0; m < Tr::row_tiles; ++m) load_matrix_transposed(a[m], x + t * 16 * Tr::pitch + m * 32);
#pragma unroll
    for (int j = 0; j < Tr::owned; ++j) {
      int const d = j * 4 + (k.warp & 3);
      if (Tr::depth % 4 != 0 && d >= Tr::depth) break;
      std::uint32_t bb[4];
      load_matrix_transposed(bb, b + t * 16 * Tr::row_pitch + d * 32);
#pragma unroll
      for (int m = 0; m < Tr::row_tiles; ++m) {
        mma<T>(state[m][2 * j], a[m], bb[0], bb[1]);
        mma<T>(state[m][2 * j + 1], a[m], bb[2], bb[3]);
      }
    }
  }
}

}  // namespace dm2::cuda::detail::scan
