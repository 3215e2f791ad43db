/// @file
/// The scan's backward in chunks of 64 tokens: its kernels.
///
/// For sequences of any length, in 16-bit numbers on the tensor cores; backward_chunked.cuh launches them.
///
/// With G = C B^T, c the sum of dt A from the chunk's start up to and with a token, E_ij = exp(c_i - c_j) for i >= j in
/// the chunk, W_ij = dy_i . x_j, and the state h that enters and the gradient dh of the state that leaves a chunk whose
/// decays sum to e:
///     U_j  = sum_{i >= j} G_ij E_ij dy_i + exp(e - c_j) dh B_j               dx_j = dt_j U_j + D dy_j,  dD = sum W_ii
///     dG   = sum over heads of E W dt_j
///     dC_i = (dG B)_i + sum over heads of exp(c_i) h dy_i
///     dB_j = (dG^T C)_j + sum over heads of dt_j exp(e - c_j) dh x_j
///     da_t = sum_{i >= t > j} G_ij E_ij W_ij dt_j + sum_{i >= t} exp(c_i) dy_i . (C_i h)
///            + sum_{j < t} dt_j exp(e - c_j) x_j . (dh B_j) + exp(e) <h, dh>
///     d dt = x . U + A da,  dA = sum dt da
///
/// Two kernels, and a sum over chunks:
///  1. backward_chunked_walk.cuh: a block has one, two or four units, each a head's columns, of one sequence. It walks
///     the chunks forward with h in float registers, or backward with dh, and leaves both for each chunk, rounded to 16
///     bits.
///  2. here: a block has one chunk of one sequence and group, and goes through the group's
///     units with dC and dB in float registers, so that the sum over heads has a fixed order. Inside the chunk it
///     computes as the quadratic form does (backward_quadratic.cuh): tiles of 16 tokens, decays in two factors below
///     the diagonal, da as sums over rectangles. Two teams of warps, the second a phase behind with what the first has
///     left (backward_chunked_staggered.cuh), or both in step where a multiprocessor's shared memory asks for it:
///        first:  W, dG and G E of the chunk's tiles; h dy_i, which goes into dC and, times C_i, into da; <h, dh>
///        second: dh B_j and dh x_j; then (G E)^T dy, dx, d dt and the sums for A and D
#pragma once

#include <dm2/cuda/instructions/dynamic_shared.cuh>
#include <dm2/cuda/instructions/early_start.cuh>
#include <dm2/cuda/ssd/backward_chunk.cuh>
#include <dm2/cuda/ssd/backward_chunked_staggered.cuh>
#include <dm2/cuda/ssd/backward_chunked_teams.cuh>
#include <dm2/cuda/ssd/backward_chunked_walk.cuh>
#include <dm2/cuda/tile/fragment.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::ssd {

/// The scores of the chunk's tiles, and their gradient's sums to 0.
template <class Tr>
__device__ inline void chunk_scores(backward_chunk_block<Tr> const& k) {
  using T = typename Tr::element;
  for (int i = k.warp + (k.second ? 4 : 0); i < k.at.tile_count; i += 8) {
    int const row = i < 1 ? 0 : i < 3 ? 1 : i < 6 ? 2 : 3, column = i - tiles_below(row + 1);
    std::uint32_t const c = shared_address(k.shared + k.at.c + row * 16 * Tr::row_pitch) + k.row_operand(Tr::row_pitch);
    std::uint32_t const b =
        shared_address(k.shared + k.at.b + column * 16 * Tr::row_pitch) + k.column_operand(Tr::row_pitch);
    float score[2][4] = {};
#pragma unroll 4
    for (int d = 0; d < Tr::depth; ++d) {
      std::uint32_t a[1][4];
      load_matrix(a[0], c + d * 32);
      multiply_rows<T>(score, a, b + d * 32);
    }
    store_tile<T>(k.shared + i * fragment_bytes, score, k.lane);
  }
  auto* const gradients = reinterpret_cast<float4*>(k.shared + k.at.gradient);
  for (int i = int(threadIdx.x); i < k.at.tile_count * 64; i += Tr::threads) gradients[i] = {0, 0, 0, 0};
}

/// The gradient of the scores, rounded, to the scores' place: the tiles of a warp of the first team.
template <class Tr>
__device__ inline void round_gradient(backward_chunk_block<Tr> const& k) {
  for (int j = 0; j <= k.warp; ++j) {
    auto const* const at =
        reinterpret_cast<float4 const*>(k.shared + k.at.gradient) + (tiles_below(k.warp + 1) + j) * 64 + k.lane;
    float4 const low = at[0], high = at[32];
    float const v[2][4] = {{low.x, low.y, low.z, low.w}, {high.x, high.y, high.z, high.w}};
    store_tile<typename Tr::element>(k.tile(0, k.warp, j), v, k.lane);
  }
}

/// dC of the warp's tokens in the first team, dB in the second: what the scores give to what the states gave. Its rows
/// go out over those of C and B.
template <class Tr>
__device__ inline void finish_states(backward_chunk_block<Tr> const& k, chunk_sums_of_states<Tr>& total) {
  using T = typename Tr::element;
  std::uint32_t a[1][4];
  std::uint32_t const from = shared_address(k.shared + (k.second ? k.at.c : k.at.b)) + k.row_operand(Tr::row_pitch);
#pragma unroll 1
  for (int i = k.second ? k.warp : 0; i < (k.second ? Tr::tiles : k.warp + 1); ++i) {
    if (k.second)
      load_transposed(a[0], k.tile(0, i, k.warp), k.lane);
    else
      load_matrix(a[0], shared_address(k.tile(0, k.warp, i)) + k.lane * 16);
    multiply_x<T, 0, 1, Tr::state>(total, a, from + i * 16 * Tr::row_pitch);
  }
  __syncthreads();  // B and C are done with
  unsigned char* const rows = k.shared + (k.second ? k.at.b : k.at.c) + k.warp * 16 * Tr::row_pitch;
#pragma unroll
  for (int n = 0; n < Tr::state / 8; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      *reinterpret_cast<std::uint32_t*>(rows + fragment::row(unsigned(k.lane), half) * Tr::row_pitch + n * 16 +
                                        fragment::column(unsigned(k.lane)) * 2) =
          pack<T>(total[0][n][2 * half], total[0][n][2 * half + 1]);
  int const stride = k.second ? k.p.db_stride : k.p.dc_stride;
  write_rows<Tr::state>(rows,
                        (k.second ? k.p.db : k.p.dc) + k.row(k.warp * 16) * std::size_t(stride) + k.group() * Tr::state,
                        stride, k.tokens() - k.warp * 16, k.lane);
}

/// Each head's sums for A and D over the chunk's tokens.
template <class Tr>
__device__ inline void write_totals(backward_chunk_block<Tr> const& k, backward_chunk_scratch const& s) {
  constexpr int heads = Tr::sizes::per_group;
  auto const* const totals = reinterpret_cast<float2 const*>(k.shared + k.at.totals);
  for (int h = int(threadIdx.x); h < heads; h += Tr::threads) {
    float2 sum{0, 0};
    for (int w = 0; w < Tr::tiles; ++w) sum.x += totals[w * heads + h].x, sum.y += totals[w * heads + h].y;
    std::size_t const chunk = std::size_t(k.sequence) * std::size_t(k.chunks()) + std::size_t(k.chunk());
    std::size_t const to = chunk * Tr::sizes::heads + std::size_t(k.group() * heads + h);
    s.da[to] = sum.x, s.d[to] = sum.y;
  }
}

/// Starts the copies of B and C and of the first unit, and computes what units share.
template <class Tr>
__device__ inline void begin_chunk(backward_chunk_block<Tr> const& k, backward_chunk_scratch const& s) {
  int const column = k.group() * Tr::state;
  copy_chunk<Tr::state, Tr::threads>(k.p.b + k.row(0) * std::size_t(k.p.b_stride) + column, k.p.b_stride, k.tokens(),
                                     k.shared + k.at.b);
  copy_chunk<Tr::state, Tr::threads>(k.p.c + k.row(0) * std::size_t(k.p.c_stride) + column, k.p.c_stride, k.tokens(),
                                     k.shared + k.at.c);
  commit_copies();
  copy_unit(k, 0);
  copy_states(k, s, 0);
  commit_copies();
  if (k.warp == 0 && !k.second) scan_vectors(k, 0);
  wait_copies<1>();
  __syncthreads();
  chunk_scores(k);
}

/// Where both teams have done what they do side by side: the tiles and the sums are there, the states are done with.
/// The teams wait in code of their own, so that neither keeps registers for what the other has.
template <class Tr>
__device__ inline void meet(backward_chunk_block<Tr>& k, backward_chunk_scratch const& s, int unit) {
  barrier<Tr::threads>(0);
  hide(k.lane), hide(k.warp);
  if (unit + 1 < Tr::units) copy_states(k, s, unit + 1);
  commit_copies();
}

/// A unit's work of the first team; of the next unit the decays.
template <class Tr>
__device__ inline void first_team(backward_chunk_block<Tr>& k, backward_chunk_scratch const& s, int unit,
                                  chunk_sums_of_states<Tr>& dc) {
  unit_rows(k, unit, dc);
  unit_through(k, unit);
  hide(k.lane), hide(k.warp);
  float const skip = sum_over_warp(unit_tiles(k, unit));
  float& sum = k.totals(unit).y;
  if (k.lane == 0) sum = unit % Tr::slices == 0 ? skip : sum + skip;
  meet(k, s, unit);
  if (unit + 1 < Tr::units && k.warp == 0) scan_vectors(k, unit + 1);
}

/// A unit's work of the second team.
template <class Tr>
__device__ inline void second_team(backward_chunk_block<Tr>& k, backward_chunk_scratch const& s, int unit,
                                   chunk_sums_of_states<Tr>& db, float& carried) {
  float u[1][Tr::slice / 8][4] = {};
  unit_columns(k, unit, db, u);
  meet(k, s, unit);
  float const after = finish_dx(k, unit, u);
  finish_steps(k, unit, after, carried);
}

/// The teams in step. Block (group + G chunk,
/// sequence counted from `first`). Where at.stages is 2, the next unit's x and dy are copied
/// while a unit is computed; its states, while the second team finishes the unit.
template <class Tr>
__global__ void __launch_bounds__(Tr::threads, Tr::resident)
    backward_chunked_kernel(typename Tr::operands const p, backward_chunk_layout<Tr> const at,
                            backward_chunk_scratch const s, int first) {
  backward_chunk_block<Tr> k{p, at, dynamic_shared(), first};
  begin_chunk(k, s);
  chunk_sums_of_states<Tr> total = {};
  float carried = 0;
#pragma unroll 1
  for (int unit = 0; unit < Tr::units; ++unit) {
    if (at.stages == 1 && unit > 0) {
      __syncthreads();  // x and dy of the unit before are done with
      copy_unit(k, unit);
      commit_copies();
    }
    wait_copies<0>();
    __syncthreads();             // the unit's operands and decays are there, those of the unit before are done with
    hide(k.lane), hide(k.warp);  // else what depends on them alone is kept in registers from here to the loop's end
    if (at.stages == 2 && unit + 1 < Tr::units) copy_unit(k, unit + 1);
    if (k.second)
      second_team(k, s, unit, total, carried);
    else
      first_team(k, s, unit, total);
  }
  if (!k.second) round_gradient(k);
  __syncthreads();
  write_totals(k, s);
  finish_states(k, total);
}

/// A block's chunk with the teams a phase apart, which takes nine tenths of the time on an H200; at.stages is 2. The
/// first rows of the grid, so many, are no chunks.
template <class Tr>
__device__ inline void staggered_chunk(typename Tr::operands const& p, backward_chunk_layout<Tr> const& at,
                                       backward_chunk_scratch const& s, int first, int before) {
  backward_chunk_block<Tr> k{p, at, dynamic_shared(), first, before};
  begin_chunk(k, s);
  chunk_sums_of_states<Tr> total = {};
  if (k.second)
    second_units(k, s, total);
  else
    first_units(k, s, total);
  __syncthreads();
  write_totals(k, s);
  finish_states(k, total);
}

/// A slice's chunks with the teams a phase apart.
template <class Tr>
__global__ void __launch_bounds__(Tr::threads, Tr::resident)
    backward_staggered_kernel(typename Tr::operands const p, backward_chunk_layout<Tr> const at,
                              backward_chunk_scratch const s, int first) {
  staggered_chunk(p, at, s, first, 0);
}

/// The walks that go beside a slice's chunks.
struct walks_beside {
  backward_chunk_scratch s;  ///< of the slice that is walked
  int first;                 ///< its first sequence
  int blocks;                ///< that walk it in one direction
  int rows;                  ///< of the grid, which hold the blocks of both
};

/// A slice's chunks, and the next slice's walks, whose blocks come first. A walk waits for memory and for its own
/// steps, the chunks wait for their barriers: a multiprocessor with a block of each has more to do than with two alike.
///
/// Where it may start early (instructions/early_start.cuh), its walks begin while the last chunks of the launch ahead
/// are under way, and do not wait for it. Launch k has slice k's walks and slice k - 1's chunks; launch 0, which is not
/// early, is the first slice's walks by themselves (backward_walk_kernel). Why nothing is read or written too soon:
///   - Launch k starts when each block of launch k - 1 has ended or let it start. Either comes behind the block's wait
///     for launch k - 2, or k is 1. So launch k - 2 and all ahead of it have ended, and what goes on is launch k - 1's
///     chunks alone: its walks let nothing start, and have ended.
///   - Walks read x, B, C, dy, dt and A. No launch of these writes them, since no gradient overlaps an input; what
///     wrote them, and what used the scratch before, as the same call just ahead does, has ended before launch 0.
///   - Walks write states to place k % 3 of three. Slice k - 3's chunks read it last, in launch k - 2, which has ended.
///     Launch k - 1's chunks read place (k - 2) % 3; its walks have written (k - 1) % 3.
///   - Chunks wait before anything else: launch k - 1, whose walks wrote the states that they read, has then ended.
///     Their sums for A and D have places of their own in every slice.
///   - The last slice's chunks and the sums over chunks are not early. Every block here waits, those of chunks first,
///     those of walks and the empty ones last, so that a launch ends only after all ahead of it.
template <class Walk, class Tr>
__global__ void __launch_bounds__(Tr::threads, Tr::resident)
    backward_beside_kernel(typename Tr::operands const p, backward_chunk_layout<Tr> const at,
                           backward_chunk_scratch const s, int first, walks_beside const next) {
  static_assert(Walk::threads == Tr::threads);
  if (int(blockIdx.y) >= next.rows) {
    wait_for_previous();
    let_next_start();
    return staggered_chunk(p, at, s, first, next.rows);
  }
  int const block = int(blockIdx.y * gridDim.x + blockIdx.x);
  if (block < 2 * next.blocks)
    walk_chunks<Walk>(p, next.s, next.first, int(gridDim.x) / Tr::sizes::groups,
                      {block % next.blocks, block >= next.blocks});
  wait_for_previous();
}

}  // namespace dm2::cuda::detail::ssd
