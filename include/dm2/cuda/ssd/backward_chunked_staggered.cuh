/// @file
/// The scan's backward in chunks with the teams a phase apart.
///
/// See backward_chunked.cuh for the equations. There the second team waits for the first's tiles, and the first for
/// the second's dx. Here the second finishes a unit while the first is at the next one. In the time of a unit:
///
///     first:   h dy, dC                    | <h, dh>, the tiles
///     second:  dx of the unit before       | da and d dt of the unit before; dh B, dh x, dB
///
/// Both meet at the unit's start and at the line between: the tiles take the place of those that dx has read, and the
/// copies of the next unit's x and dy that of the unit before. Sums for da and decays are there for the units that are
/// under way. h is the first team's: the next unit's is copied as soon as its warps are done with it. dh is read by
/// both: the first team counts itself done with it, the second waits for that before it copies the next unit's.
#pragma once

#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/ssd/backward_chunked_block.cuh>
#include <dm2/cuda/ssd/backward_chunked_teams.cuh>
#include <dm2/cuda/ssd/backward_tiles.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <cstddef>

namespace dm2::cuda::detail::ssd {

/// The block's barriers beside __syncthreads: units' starts, their middles, dh read by the first team, the first team.
enum staggered_barrier : int { unit_starts, unit_middle, gradient_read, first_alone };

/// Starts the copy of a unit's state by a team: h, or dh behind it.
template <class Tr>
__device__ inline void copy_one_state(backward_chunk_block<Tr> const& k, unsigned char const* from, int unit, int to) {
  copy_state<Tr, 128>(from + state_place(k, unit), k.shared + k.at.states + to, int(threadIdx.x) % 128);
}

/// f(row, column) for the tiles below the diagonal of a warp of the first team. The first warp has none in its own row,
/// and takes the last row's first: no warp has more than two.
template <class Tr, class F>
__device__ inline void each_tile_below(int warp, F const& f) {
  static_assert(Tr::tiles == 4);
  int const row = warp == 0 ? 3 : warp, last = warp == 0 ? 1 : warp;
#pragma unroll 1
  for (int column = warp == 3 ? 1 : 0; column < last; ++column) f(row, column);
}

/// First team: the warp's tiles. Returns this lane's part of the sum of dy . x.
template <class Tr>
__device__ inline float staggered_tiles(backward_chunk_block<Tr> const& k, int unit) {
  tile_rows<Tr> rows;
  rows.load(k, unit, k.warp == 0 ? 3 : k.warp);
  each_tile_below<Tr>(k.warp, [&](int row, int column) {
    tile_place const place{row, column, tiles_below(row) + column};
    float2 sums;
    add_gradient(k, row, column, [&](float(&v)[2][4]) { sums = tile_below(k, unit, place, rows, v); });
    store_row_sums(k.row_sums(unit) + place.index * 16, sums, k.lane);
  });
  float skip;
  add_gradient(k, k.warp, k.warp, [&](float(&v)[2][4]) { skip = tile_on_diagonal(k, unit, v); });
  return skip;
}

/// A warp's tiles of the gradient of the scores, rounded, to the scores' place.
template <class Tr>
__device__ inline void round_staggered(backward_chunk_block<Tr> const& k) {
  auto const round = [&](int row, int column) {
    auto const* const at =
        reinterpret_cast<float4 const*>(k.shared + k.at.gradient) + (tiles_below(row + 1) + column) * 64 + k.lane;
    float4 const low = at[0], high = at[32];
    float const v[2][4] = {{low.x, low.y, low.z, low.w}, {high.x, high.y, high.z, high.w}};
    store_tile<typename Tr::element>(k.tile(0, row, column), v, k.lane);
  };
  each_tile_below<Tr>(k.warp, round);
  round(k.warp, k.warp);
}

/// All units of the first team, with dC.
template <class Tr>
__device__ inline void first_units(backward_chunk_block<Tr>& k, backward_chunk_scratch const& s,
                                   chunk_sums_of_states<Tr>& dc) {
#pragma unroll 1
  for (int unit = 0; unit < Tr::units; ++unit) {
    bool const more = unit + 1 < Tr::units;
    wait_copies<0>();
    barrier<Tr::threads>(unit_starts);
    hide(k.lane), hide(k.warp);  // else what depends on them alone is kept in registers from here to the loop's end
    unit_rows(k, unit, dc);
    barrier<Tr::threads>(unit_middle);
    hide(k.lane), hide(k.warp);
    unit_through(k, unit);
    arrive<Tr::threads>(gradient_read);
    barrier<128>(first_alone);
    if (more && k.enters()) copy_one_state(k, s.entering, unit + 1, 0);
    commit_copies();
    if (more && k.warp == 1) scan_vectors(k, unit + 1);
    float const skip = sum_over_warp(staggered_tiles(k, unit));
    float& sum = k.totals(unit).y;
    if (k.lane == 0) sum = unit % Tr::slices == 0 ? skip : sum + skip;
  }
  barrier<Tr::threads>(unit_starts);
  round_staggered(k);
}

/// All units of the second team, with dB. dx of a unit is finished in the time of the next.
template <class Tr>
__device__ inline void second_units(backward_chunk_block<Tr>& k, backward_chunk_scratch const& s,
                                    chunk_sums_of_states<Tr>& db) {
  float u[1][Tr::slice / 8][4], carried = 0, after = 0;
#pragma unroll 1
  for (int unit = 0; unit < Tr::units; ++unit) {
    bool const more = unit + 1 < Tr::units;
    if (unit == 0)
      wait_copies<0>();
    else
      wait_copies<1>();  // x and dy; dh may come later
    barrier<Tr::threads>(unit_starts);
    hide(k.lane), hide(k.warp);
    if (unit > 0) after = finish_dx(k, unit - 1, u);
    wait_copies<0>();  // dh
    barrier<Tr::threads>(unit_middle);
    hide(k.lane), hide(k.warp);
    if (more) copy_unit<Tr, 128>(k, unit + 1);
    commit_copies();
    if (unit > 0) finish_steps(k, unit - 1, after, carried);
#pragma unroll
    for (int i = 0; i < Tr::slice / 2; ++i) u[0][i / 4][i % 4] = 0;
    unit_columns(k, unit, db, u);
    barrier<Tr::threads>(gradient_read);
    if (more && k.leaves()) copy_one_state(k, s.leaving, unit + 1, Tr::state_bytes);
    commit_copies();
  }
  barrier<Tr::threads>(unit_starts);
  after = finish_dx(k, Tr::units - 1, u);
  finish_steps(k, Tr::units - 1, after, carried);
}

}  // namespace dm2::cuda::detail::ssd
