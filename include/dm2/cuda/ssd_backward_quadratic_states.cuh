/// @file
/// The scan's backward in the quadratic form, products over the states: the scores C B^T before the first unit, dB and
/// dC after the last. See ssd_backward_quadratic.cuh.
#pragma once

#include <dm2/cuda/ssd_backward_quadratic_rows.cuh>

namespace dm2::cuda::detail::scan {

/// Starts the copy of a part of B and C.
template <class Tr>
__device__ inline void copy_part(backward_quadratic_block<Tr> const& k, int part) {
  unsigned char* const to = k.shared + k.at.part(part % k.at.stages);
  int const column = k.group() * Tr::sizes::state + part * Tr::part;
  copy_rows<Tr::part>(k, k.p.b + column, k.p.b_stride, k.p.c + column, k.p.c_stride, to);
}

/// f(part, its B, its C in shared memory) for every part. Nothing else may be using their place, nor any copy be under
/// way; afterwards nothing is.
template <class Tr, class F>
__device__ inline void each_part(backward_quadratic_block<Tr> const& k, F const& f) {
  if (k.at.stages == 2) copy_part(k, 0);
  commit_copies();
#pragma unroll 1
  for (int part = 0; part < Tr::parts; ++part) {
    int const next = part + k.at.stages - 1;
    if (next < Tr::parts) copy_part(k, next);
    commit_copies();
    if (k.at.stages == 2)
      wait_copies<1>();
    else
      wait_copies<0>();
    __syncthreads();
    unsigned char* const b = k.shared + k.at.part(part % k.at.stages);
    f(part, b, b + k.at.rows() * Tr::part_pitch);
    __syncthreads();
  }
}

/// The scores of every tile to shared memory.
template <class Tr>
__device__ inline void score_tiles(backward_quadratic_block<Tr> const& k, warp_tiles<Tr> const& tiles) {
  using T = typename Tr::element;
  tile_sums<Tr> scores;
  scores.clear();
  each_part(k, [&](int, unsigned char* b, unsigned char* c) {
    std::uint32_t const columns = shared_address(b) + k.column_operand(Tr::part_pitch);
    std::uint32_t const rows = shared_address(c) + k.row_operand(Tr::part_pitch);
    std::uint32_t a[Tr::part_steps][4];
    if (k.has_tile()) {
      load_rows(a, rows + k.warp * 16 * Tr::part_pitch);
      multiply_rows<T>(scores.diagonal, a, columns + k.warp * 16 * Tr::part_pitch);
    }
    tiles.each([&](int s, tile_place const& at, bool another) {
      if (another) load_rows(a, rows + at.row * 16 * Tr::part_pitch);
      multiply_rows<T>(scores.below[s], a, columns + at.column * 16 * Tr::part_pitch);
    });
  });
  store_tiles(k, tiles, scores, 0);
}

/// 16 rows of accumulators of a part, rounded, by way of the warp's patch to a gradient's rows and columns.
template <class Tr>
__device__ inline void write_part(backward_quadratic_block<Tr> const& k, float const (&acc)[1][Tr::part / 8][4],
                                  typename Tr::element* to, int stride, int part) {
  unsigned char* const patch = k.shared + k.at.patch(k.warp);
  unsigned char* const own = patch + (k.lane >> 2) * Tr::part_pitch + (k.lane & 3) * 4;
  __syncwarp();
#pragma unroll
  for (int n = 0; n < Tr::part / 8; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      *reinterpret_cast<std::uint32_t*>(own + half * 8 * Tr::part_pitch + n * 16) =
          pack<typename Tr::element>(acc[0][n][2 * half], acc[0][n][2 * half + 1]);
  int const t0 = k.warp * 16, column = k.group() * Tr::sizes::state + part * Tr::part;
  write_rows<Tr::part>(patch, to + k.row(t0) * std::size_t(stride) + column, stride, k.p.length - t0, k.lane);
}

/// dB and dC of the warp's 16 tokens, from the scores' gradient in the scores' place.
template <class Tr>
__device__ inline void finish_states(backward_quadratic_block<Tr> const& k) {
  using T = typename Tr::element;
  each_part(k, [&](int part, unsigned char* b, unsigned char* c) {
    if (!k.has_tile()) return;
    std::uint32_t const lane_at = k.row_operand(Tr::part_pitch);
    float acc[1][Tr::part / 8][4] = {};
    for (int j = 0; j <= k.warp; ++j) {
      std::uint32_t a[1][4];
      load_matrix(a[0], shared_address(k.tile(0, k.warp, j)) + k.lane * 16);
      multiply_x<T, 0, 1, Tr::part>(acc, a, shared_address(b) + j * 16 * Tr::part_pitch + lane_at);
    }
    write_part(k, acc, k.p.dc, k.p.dc_stride, part);
#pragma unroll
    for (int n = 0; n < Tr::part / 2; ++n) acc[0][n / 4][n % 4] = 0;
    for (int i = k.warp; i < k.at.tiles; ++i)
      multiply_transposed<T, Tr::part>(acc, shared_address(k.tile(0, i, k.warp)) + k.lane * 16,
                                       shared_address(c) + i * 16 * Tr::part_pitch + lane_at);
    write_part(k, acc, k.p.db, k.p.db_stride, part);
  });
}

/// Each head's sums for A and D over the warps' tiles.
template <class Tr>
__device__ inline void write_totals(backward_quadratic_block<Tr> const& k) {
  constexpr int heads = Tr::sizes::per_group;
  auto const* const totals = reinterpret_cast<float2 const*>(k.shared + k.at.totals);
  for (int h = int(threadIdx.x); h < heads; h += Tr::threads) {
    float2 sum{0, 0};
    for (int w = 0; w < k.at.tiles; ++w) sum.x += totals[w * heads + h].x, sum.y += totals[w * heads + h].y;
    std::size_t const to = std::size_t(k.sequence()) * Tr::sizes::heads + k.group() * heads + h;
    k.p.da[to] = sum.x, k.p.d_skip[to] = sum.y;
  }
}

}  // namespace dm2::cuda::detail::scan
