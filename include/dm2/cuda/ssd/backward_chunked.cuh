/// @file
/// The scan's backward in chunks of 64 tokens.
///
/// Sequences of any length, in 16-bit numbers on the tensor cores.
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
/// Sequences go in slices, so that the states between the kernels stay small. Of many long ones a launch has the second
/// kernel's blocks of one slice and the first's of the next (backward_beside_kernel).
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/dynamic_shared.cuh>
#include <dm2/cuda/instructions/early_start.cuh>
#include <dm2/cuda/ssd/backward_chunk.cuh>
#include <dm2/cuda/ssd/backward_chunked_staggered.cuh>
#include <dm2/cuda/ssd/backward_chunked_teams.cuh>
#include <dm2/cuda/ssd/backward_chunked_walk.cuh>
#include <dm2/cuda/tile/fragment.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

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

/// When a slice is walked: by itself ahead of its chunks, beside the chunks of the slice before, or beside them and
/// begun before the chunks before those have all ended.
enum class backward_walks { alone, beside, early };

/// How sequences are cut up.
struct backward_chunk_plan {
  int slice;  ///< sequences of a slice, the last one having what is left
  int teams;  ///< units of a block that walks: 1, 2 or 4; 2 unless slices are walked alone
  backward_walks walks = backward_walks::alone;

  /// Slices whose states are there at a time.
  [[nodiscard]] int sets() const {
    return walks == backward_walks::alone ? 1 : walks == backward_walks::beside ? 2 : 3;
  }
};

/// The form, as backward_operands.cuh describes one.
template <mixer_shape M, class T>
struct backward_chunked {
  using operands = backward_operands<M, T>;
  /// Kernels are built for 16-bit numbers, heads of a multiple of 8 up to 128 and states of a multiple of 16 up to 256.
  static constexpr bool possible =
      is_half<T> && M.headdim % 8 == 0 && M.d_state % 16 == 0 && M.headdim <= 128 && M.d_state <= 256;
  static constexpr bool in_place = false;
  /// Sequences go in slices of at most about this much scratch: as many blocks as keep a device busy many times over.
  static constexpr std::size_t most_scratch = std::size_t{512} << 20;

  /// Pointers and rows at multiples of 16 bytes, and a block's shared memory: of Tiny or Small 112 KB, or 98 KB with
  /// one unit's operands at a time.
  static bool fits(operands const& p, device_properties const& device) {
    if constexpr (possible)
      return p.aligned() && layout{1}.bytes <= device.shared_per_block && walk::bytes <= device.shared_per_block;
    else
      return false;
  }
  /// Whether launch has the teams a phase apart: where a head's group has several units, and a multiprocessor of the
  /// device as many blocks as in step.
  static bool staggers(device_properties const& device) {
    return traits::units > 1 && blocks_of(backward_chunk_layout<apart>{2}.bytes, device) >=
                                    std::max(1, blocks_of(layout_for(device).bytes, device));
  }
  static std::size_t scratch_bytes(int sequences, int length, device_properties const& device) {
    return scratch_bytes(sequences, length, plan(sequences, length, device));
  }
  static std::size_t scratch_bytes(int sequences, int length, backward_chunk_plan const& plan) {
    return planned_bytes<backward_chunk_scratch>(plan.sets() * slice_bytes(plan, length), sums_of(sequences, length));
  }
  /// Slices are walked early where each multiprocessor then has at most one block that walks, and at least three blocks
  /// of chunks to go with it: shorter walks are over before they are of use. There are three slices at least, since the
  /// first walks and the last chunks have nothing beside them, and three slices' states fit into most_scratch. Beside
  /// without early is slower than four units a block by themselves.
  static backward_chunk_plan plan(int sequences, int length, device_properties const& device) {
    int const most = device.multiprocessors / int(units);
    if (most > 0 && sequences > 2 * most && shares(device) && has_early_starts(device)) {
      int const slices = (sequences + most - 1) / most, n = (sequences + slices - 1) / slices;
      if (1LL * n * chunks_of(length) * M.groups >= 3LL * device.multiprocessors &&
          3 * std::size_t(n) * one_bytes(length) <= most_scratch)
        return {n, 2, backward_walks::early};
    }
    int const n = slice(sequences, length, device);
    return {n, teams(n, device)};
  }
  /// Where slices are walked by themselves: as few slices as there can be, and of their sizes, equal
  /// ones up to an eighth more, the smallest that leaves the device the fewest rounds of blocks. Of 64 sequences of
  /// 3,137 tokens of Tiny on an H200 33 and 31, which are 7 and 6 rounds of 264 blocks in the second kernel; 32 and 32
  /// would be 7 and 7, the last of 16 blocks.
  static int slice(int sequences, int length, device_properties const& device) {
    int const fit = int(std::clamp<std::size_t>(most_scratch / one_bytes(length), 1, 65535)),
              all = std::max(sequences, 1);
    int const slices = (all + fit - 1) / fit, equal = (all + slices - 1) / slices;
    int best = equal;
    for (int n = equal + 1; n <= std::min({fit, all, equal + equal / 8}); ++n)
      if (rounds(n, all, length, device) < rounds(best, all, length, device)) best = n;
    return best;
  }
  /// Enqueues the gradient. Only where fits(p, device).
  static void launch(operands const& p, std::byte* scratch, device_properties const& device, cudaStream_t stream) {
    launch(p, scratch, device, stream, plan(p.sequences, p.length, device));
  }
  /// As planned: with teams that divide a group's units, beside chunks only where shares(device), and early only where
  /// has_early_starts(device).
  static void launch(operands const& p, std::byte* scratch, device_properties const& device, cudaStream_t stream,
                     backward_chunk_plan const& plan) {
    if (p.sequences == 0) return;
    int const chunks = chunks_of(p.length);
    bool const walks = chunks > 1, beside = walks && plan.walks != backward_walks::alone;
    std::size_t const bytes = slice_bytes(plan, p.length);
    arena memory{scratch, scratch_bytes(p.sequences, p.length, plan)};
    backward_chunk_scratch const s{memory, plan.sets() * bytes, sums_of(p.sequences, p.length)};
    auto const count = [&](int first) { return std::clamp(p.sequences - first, 0, plan.slice); };
    auto const states = [&](int first) { return s.behind(std::size_t(first / plan.slice % plan.sets()) * bytes); };
    if (beside) launch_walks(p, s, 0, count(0), chunks, 2, stream);
    for (int first = 0; first < p.sequences; first += plan.slice) {
      int const next = first + plan.slice;
      if (walks && !beside) launch_walks(p, s, first, count(first), chunks, plan.teams, stream);
      if (beside && next < p.sequences)
        launch_beside(p, states(first), first, count(first), {states(next), next, count(next) * int(units) / 2, 0},
                      chunks, plan.walks == backward_walks::early, stream);
      else
        launch_chunks(p, states(first), first, dim3(unsigned(chunks * M.groups), unsigned(count(first))), device,
                      stream);
    }
    detail::launch("ssd_backward: sums", chunk_sums_kernel<operands>,
                   {dim3(blocks_for(std::size_t(p.sequences) * M.heads, 128)), 128}, stream, p, s.da, s.d, 0,
                   p.sequences, chunks);
  }
  /// Whether a multiprocessor has room for a block that walks two units beside one of a chunk.
  static bool shares(device_properties const& device) {
    return can_share && staggers(device) && blocks_of(beside_bytes, device) >= 2;
  }

 private:
  using traits = backward_chunk_traits<M, T>;
  using apart = backward_chunk_traits<M, T, true>;
  using walk = backward_walk_traits<traits>;
  /// Two units a block, which share B or C, where a group's are even in number; four where the state of a unit leaves
  /// 512 threads registers enough.
  using walk_of_pairs = backward_walk_traits<traits, traits::units % 2 == 0 ? 2 : 1>;
  using walk_of_fours =
      backward_walk_traits<traits,
                           traits::units % 4 == 0 && traits::steps * walk::owned <= 8 ? 4 : walk_of_pairs::teams>;
  using layout = backward_chunk_layout<traits>;
  static constexpr unsigned units = unsigned(traits::units * M.groups);
  static constexpr std::size_t state_bytes = std::size_t(units) * traits::state_bytes;
  static constexpr bool can_share = walk_of_pairs::teams == 2 && traits::resident > 1;
  static constexpr int beside_bytes = std::max(backward_chunk_layout<apart>{2}.bytes, walk_of_pairs::bytes);

  static int chunks_of(int length) { return (length + ssd_tile - 1) / ssd_tile; }
  /// Bytes of a sequence's states, of both kinds.
  static std::size_t one_bytes(int length) { return 2 * state_bytes * std::size_t(chunks_of(length)); }
  /// Bytes of a slice's states of one kind.
  static std::size_t slice_bytes(backward_chunk_plan const& plan, int length) {
    return std::size_t(plan.slice) * state_bytes * std::size_t(chunks_of(length));
  }
  static std::size_t sums_of(int sequences, int length) {
    return std::size_t(sequences) * std::size_t(chunks_of(length)) * std::size_t(M.heads);
  }
  /// Rounds of blocks of all slices of n sequences: of the first kernel, whose blocks walk a whole sequence, and of the
  /// second.
  static std::pair<long long, long long> rounds(int n, int all, int length, device_properties const& device) {
    std::pair<long long, long long> sum{0, 0};
    int const resident =
        blocks_of(staggers(device) ? backward_chunk_layout<apart>{2}.bytes : layout_for(device).bytes, device);
    for (auto const& [times, count] : {std::pair{all / n, n}, std::pair{1, all % n}}) {
      sum.first += times * with_walk(teams(count, device), [count = count, &device](auto of) {
                     return walk_rounds<decltype(of)>(count, device);
                   });
      sum.second += times * rounds_of(1LL * count * chunks_of(length) * M.groups, resident, device);
    }
    return sum;
  }
  template <class Walk>
  static long long walk_rounds(int count, device_properties const& device) {
    return rounds_of(2LL * count * (units / Walk::teams),
                     std::min(Walk::resident, device.shared_per_sm / (Walk::bytes + 1024)), device);
  }
  static long long rounds_of(long long blocks, int resident, device_properties const& device) {
    long long const at_a_time = std::max(1LL, 1LL * resident * device.multiprocessors);
    return (blocks + at_a_time - 1) / at_a_time;
  }
  /// Units of the multiprocessor that has the most of the first kernel.
  template <class Walk>
  static long long most_units(int count, device_properties const& device) {
    return rounds_of(2LL * count * (units / Walk::teams), 1, device) * Walk::teams;
  }
  /// Units of a block of the first kernel where a slice is walked by itself: two only where blocks of one, in both
  /// directions, would be more than the multiprocessors, and four only where none of them then has more to do.
  static int teams(int count, device_properties const& device) {
    if (2LL * count * units <= device.multiprocessors || walk_of_pairs::bytes > device.shared_per_block) return 1;
    bool const four = walk_of_fours::bytes <= device.shared_per_block &&
                      most_units<walk_of_fours>(count, device) <= most_units<walk_of_pairs>(count, device);
    return four ? walk_of_fours::teams : walk_of_pairs::teams;
  }
  /// f(traits of the first kernel with so many units a block).
  template <class F>
  static auto with_walk(int teams, F const& f) {
    return teams == 4 ? f(walk_of_fours{}) : teams == 2 ? f(walk_of_pairs{}) : f(walk{});
  }
  /// Two units' operands at a time where that leaves a multiprocessor as many blocks.
  static layout layout_for(device_properties const& device) {
    layout const one{1}, two{2};
    bool const fit = blocks_of(two.bytes, device) >= std::max(1, blocks_of(one.bytes, device));
    return traits::units > 1 && fit ? two : one;
  }
  /// Blocks of a multiprocessor.
  static int blocks_of(int bytes, device_properties const& device) {
    return bytes > device.shared_per_block ? 0 : std::min(traits::resident, device.shared_per_sm / (bytes + 1024));
  }
  template <class Tr, class Kernel>
  static void launch_kernel(Kernel kernel, backward_chunk_layout<Tr> const& at, operands const& p,
                            backward_chunk_scratch const& s, int first, dim3 grid, cudaStream_t stream) {
    prefer_shared("ssd_backward: chunks", kernel);
    detail::launch("ssd_backward: chunks", kernel, {grid, Tr::threads, std::size_t(at.bytes)}, stream, p, at, s, first);
  }
  /// The first kernel.
  static void launch_walks(operands const& p, backward_chunk_scratch const& s, int first, int count, int chunks,
                           int teams, cudaStream_t stream) {
    with_walk(teams, [&](auto of) {
      using Walk = decltype(of);
      auto const kernel = backward_walk_kernel<Walk>;
      prefer_shared("ssd_backward: states of chunks", kernel);
      detail::launch("ssd_backward: states of chunks", kernel,
                     {dim3(unsigned(count) * (units / Walk::teams), 2), Walk::threads, std::size_t(Walk::bytes)},
                     stream, p, s, first, chunks);
    });
  }
  /// The second kernel.
  static void launch_chunks(operands const& p, backward_chunk_scratch const& s, int first, dim3 grid,
                            device_properties const& device, cudaStream_t stream) {
    if constexpr (traits::units > 1)
      if (staggers(device))
        return launch_kernel(backward_staggered_kernel<apart>, backward_chunk_layout<apart>{2}, p, s, first, grid,
                             stream);
    launch_kernel(backward_chunked_kernel<traits>, layout_for(device), p, s, first, grid, stream);
  }
  /// The second kernel with the next slice's walks, next.rows not being set.
  static void launch_beside(operands const& p, backward_chunk_scratch const& s, int first, int count, walks_beside next,
                            int chunks, bool early, cudaStream_t stream) {
    if constexpr (can_share) {
      auto const kernel = backward_beside_kernel<walk_of_pairs, apart>;
      int const columns = chunks * M.groups;
      next.rows = (2 * next.blocks + columns - 1) / columns;
      prefer_shared("ssd_backward: chunks beside walks", kernel);
      detail::launch(
          "ssd_backward: chunks beside walks", kernel,
          {dim3(unsigned(columns), unsigned(next.rows + count)), apart::threads, std::size_t(beside_bytes), early},
          stream, p, backward_chunk_layout<apart>{2}, s, first, next);
    }
  }
};

}  // namespace dm2::cuda::detail::ssd
