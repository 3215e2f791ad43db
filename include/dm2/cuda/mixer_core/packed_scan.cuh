/// @file
/// The packed mixer core's scan: scores times x of a warp's 16 tokens, and the gate.
#pragma once

#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/mixer_core/layout.cuh>
#include <dm2/cuda/mixer_core/packed_fill.cuh>
#include <dm2/cuda/mixer_core/tensor.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <cstdint>

namespace dm2::cuda::detail::mixer_core {

/// Scores of tile c, as fragments, times the factors of its columns.
template <class Tr>
__device__ inline void scale_scores(std::uint32_t (&a)[4], int c, uint2 const* factors) {
  using T = typename Tr::inside;
  uint2 const v = factors[c * 4];
  a[0] = multiply_pairs<T>(a[0], v.x), a[1] = multiply_pairs<T>(a[1], v.x);
  a[2] = multiply_pairs<T>(a[2], v.y), a[3] = multiply_pairs<T>(a[3], v.y);
}

/// What the blocks of 64 tokens before the warp's own, of which there are some, add to its rows, decayed to the own
/// block's start.
template <class Tr>
__device__ inline void scan_earlier(float (&acc)[2 * Tr::column_groups][4], int own, unit_operands<Tr> const& in,
                                    uint2 const* factors) {
  int c = 0;
#pragma unroll 1
  do {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      std::uint32_t a[4];
      in.load_scores(a, c + i);
      scale_scores<Tr>(a, c + i, factors);
      in.multiply_tile(acc, a, in.x, c + i);
    }
    c += 4;
  } while (c < own * 4);
}

/// The rows so far, decayed from the own block's start to each.
template <class Tr>
__device__ inline void decay_rows(float (&acc)[2 * Tr::column_groups][4], float const* row, float start) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float const f = exp2_fast(row[half * 8] - start);
#pragma unroll
    for (int n = 0; n < 2 * Tr::column_groups; ++n) acc[n][2 * half] *= f, acc[n][2 * half + 1] *= f;
  }
}

/// dt_j exp(c_i - c_j) of two columns of a row, as a pair.
__device__ inline std::uint32_t decay_pair(float at_row, float2 to) {
  return pack<__half>(exp2_fast(at_row - to.x), exp2_fast(at_row - to.y));
}

/// A pair of a row's scores on the diagonal, `ahead` columns behind the row's own token: columns after it do not count,
/// and its own one has the skip term as well.
__device__ inline std::uint32_t diagonal_pair(std::uint32_t scores, std::uint32_t decays, int ahead,
                                              std::uint32_t skip) {
  std::uint32_t const kept = ahead > 0 ? ~0u : ahead == 0 ? 0xffffu : 0u;
  std::uint32_t const own = ahead == 0 ? 0xffffu : ahead == 1 ? 0xffff0000u : 0u;
  return fma_pairs<__half>(scores, decays & kept, skip & own);
}

/// The warp's own block of 64 tokens in halves, up to each row's own token, whose skip term is added to its score.
template <class Tr>
__device__ inline void scan_block(float (&acc)[2 * Tr::column_groups][4], int r, int lane, unit_operands<Tr> const& in,
                                  float const* cum, float const* ev, float skip) {
  float const* const row = cum + r * 16 + fragment::row(lane);
  if (r >= 4) decay_rows<Tr>(acc, row, cum[(r & ~3) * 16 - 1]);
  float const low = row[0] + float(Tr::score_shift), high = row[8] + float(Tr::score_shift);
  float const* const columns = ev + fragment::column(lane);
  auto const at = [&](int column) { return *reinterpret_cast<float2 const*>(columns + column); };
  std::uint32_t a[4];
#pragma unroll 1
  for (int c = r & ~3; c < r; ++c) {
    in.load_scores(a, c);
    float2 const left = at(c * 16), right = at(c * 16 + 8);
    a[0] = multiply_pairs<__half>(a[0], decay_pair(low, left));
    a[1] = multiply_pairs<__half>(a[1], decay_pair(high, left));
    a[2] = multiply_pairs<__half>(a[2], decay_pair(low, right));
    a[3] = multiply_pairs<__half>(a[3], decay_pair(high, right));
    in.multiply_tile(acc, a, in.x, c);
  }
  in.load_scores(a, r);
  float2 const left = at(r * 16), right = at(r * 16 + 8);
  std::uint32_t const both = pack<__half>(skip, skip);
  int const ahead = fragment::row(lane) - fragment::column(lane);
  a[0] = diagonal_pair(a[0], decay_pair(low, left), ahead, both);
  a[1] = multiply_pairs<__half>(a[1], decay_pair(high, left));
  a[2] = 0;
  a[3] = diagonal_pair(a[3], decay_pair(high, right), ahead, both);
  in.multiply_tile(acc, a, in.x, r);
}

/// What a lane keeps for the kernel's whole time: its rows in memory and its operands in shared memory. Made anew for
/// each unit, such numbers were a third of the kernel's instructions.
template <class Tr>
struct scan_places {
  using T = typename Tr::element;
  std::size_t z, g;     ///< addresses of the unit's channels of the sequence's first row
  int row[2];           ///< the lane's rows in the sequence; the last token's where there is no token
  int lane, scores, x;  ///< the latter as unit_operands has them

  __device__ scan_places(arguments<T> const& p, whole_place<Tr> const& k, unsigned char const* shared)
      : z{global_address(k.sequence + k.at.z() + k.begin * Tr::width)},
        g{global_address(p.g + (2 * k.first_row + std::size_t(k.at.second())) * Tr::inner + k.begin * Tr::width)},
        lane{int(threadIdx.x) % 32},
        scores{k.lay.scores + k.tile * (k.tile + 1) / 2 * 512 + lane * 16},
        x{int(shared_address(shared)) + k.lay.x + fragment::left_operand(lane, Tr::pitch)} {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int const t = min(gate_rows<Tr>::token(k.tile, half, lane), p.length - 1);
      row[half] = int(k.at.row(t, p.length));
      hide(row[half]);
    }
    hide(z), hide(g), hide(lane), hide(scores), hide(x);
  }
  /// To the next unit.
  __device__ void advance() { z += 2 * Tr::width, g += 2 * Tr::width; }
};

/// y of the warp's tile of a unit, gated.
template <class Tr>
__device__ inline void scan_packed(int length, whole_place<Tr> const& k, scan_places<Tr> const& own, float const* cum,
                                   float skip, unsigned char const* shared, float (&sums)[2]) {
  using T = typename Tr::element;
  using rows = gate_rows<Tr>;
  float acc[2 * Tr::column_groups][4] = {};
  // Of this copy the compiler knows nothing: what comes from the lane alone is made anew, 16 instructions a unit. Kept
  // from unit to unit it takes the registers in which z of both rows comes at a time, and one load waits for the other.
  int hidden = own.lane;
  hide(hidden);
  int const lane = hidden & 31;  // not negative: cheaper to divide
  unit_operands<Tr> const in{shared + own.scores, std::uint32_t(own.x)};
  if (int const block = k.tile / 4; block > 0)
    scan_earlier<Tr>(
        acc, block, in,
        reinterpret_cast<uint2 const*>(shared + k.lay.factors) + factor_place(block) / 2 + fragment::quarter(lane));
  rows gate;
  if constexpr (Tr::halves)
    scan_block<Tr>(acc, k.tile, lane, in, cum, cum + k.lay.tokens, skip);
  else
    scan_own<Tr>(acc, k.tile, in, cum, cum + k.lay.tokens, skip);
#pragma unroll
  for (int half = 0; half < 2; ++half)
    gate.load(half, global_pointer<T const>(own.z + std::size_t(own.row[half]) * (2 * Tr::projected)), lane);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    std::uint32_t out[rows::words];
    gate.gate(out, acc, half, lane, sums[half]);
    if (rows::token(k.tile, half, lane) < length)
      rows::store(out, global_pointer<T>(own.g + std::size_t(own.row[half]) * (4 * Tr::inner)), lane);
  }
}

}  // namespace dm2::cuda::detail::mixer_core
