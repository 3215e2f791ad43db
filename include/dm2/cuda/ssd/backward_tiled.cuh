/// @file
/// The scan's backward as masked products in tiles, in float or TF32.
///
/// With G_ij = C_i . B_j, E_ij = exp(c_i - c_j) (i >= j, c the sum of dt A from the sequence's start) and
/// W_ij = dy_i . x_j:
///     U_j = sum_{i >= j} G_ij E_ij dy_i       dx_j = dt_j U_j + D dy_j,  dD = sum dy . x
///     dG_ij = sum over the group's heads of E_ij W_ij dt_j                  dC = dG B,  dB = dG^T C
///     da_t = sum_{i >= t > j} gamma_ij,  gamma_ij = G_ij E_ij W_ij dt_j     d dt = x . U + A da,  dA = sum dt da
/// The sums for da are over rectangles, without cancellation: of whole tiles, of rows or columns of the tiles beside
/// the token's own, and inside that one. Decays of all tokens are as in tiled.cuh. For 197 tokens of Tiny it is 82
/// million operations a sequence, in chunks (backward_general.cuh) 217.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/ssd/backward_operands.cuh>
#include <dm2/cuda/ssd/backward_tiled_scores.cuh>
#include <dm2/cuda/ssd/tiled.cuh>
#include <dm2/cuda/ssd/tiled_sums.cuh>
#include <dm2/cuda/tile/float_outer_product.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <algorithm>
#include <cstddef>
#include <type_traits>

namespace dm2::cuda::detail::ssd {

/// A warp's place: 32 tokens from j0 on of a unit of a sequence.
template <class Tr, class P>
struct tiled_unit {
  int j0, length, lane, width, head;
  std::ptrdiff_t row;        ///< the sequence's first token
  int column, stride;        ///< the unit's first column; dy's rows
  float const *dy, *scores;  ///< of the unit's first column; of this lane's token
  float4 const* decays;
  float4 own;

  __device__ tiled_unit(P const& p, tiled_gradients const& s, int tile, int local, int first, int unit)
      : j0{tile * Tr::rows},
        length{s.length},
        lane{int(threadIdx.x) % 32},
        width{min(Tr::slice, Tr::headdim - unit % Tr::slices * Tr::slice)},
        head{unit / Tr::slices},
        row{std::ptrdiff_t{first + local} * s.length},
        column{tiled_place<Tr>::column(unit)},
        stride{p.dy_stride} {
    int const token = min(j0 + lane, length - 1), place = local * Tr::groups + head / Tr::per_group;
    dy = p.dy + row * stride + column;
    scores = s.scores + s.square(place) + token;
    decays = s.decays_of(local * Tr::heads + head);
    own = decays[token];
  }
  /// Starts the copy of dy of the tokens from i0 on.
  __device__ void copy_dy(int i0, float (&to)[Tr::depth][Tr::x_pitch]) const {
    if (i0 < length)
      for (int at = lane; at < Tr::depth * (Tr::columns / 4); at += 32) {
        int const k = at / (Tr::columns / 4), c = at % (Tr::columns / 4) * 4;
        bool const inside = i0 + k < length && c < width;
        copy_async(shared_address(&to[k][c]), inside ? dy + std::ptrdiff_t{i0 + k} * stride + c : dy, inside);
      }
    commit_copies();
  }
  /// The scores of the lane's token with the tokens from i0 on; those before it are not looked at.
  __device__ void load_scores(int i0, int pitch, float (&g)[Tr::depth]) const {
#pragma unroll
    for (int k = 0; k < Tr::depth; ++k) g[k] = __ldg(scores + std::ptrdiff_t{min(i0 + k, length - 1)} * pitch);
  }
  /// The scores, decayed from token to token, to shared memory.
  __device__ void weight(int i0, float const (&g)[Tr::depth], float (&to)[Tr::depth][Tr::weight_pitch]) const {
#pragma unroll
    for (int k = 0; k < Tr::depth; ++k) {
      float4 const from = __ldg(decays + min(i0 + k, length - 1));
      float const decay = exp2_fast((from.x - own.x) + (from.y - own.y));
      to[k][lane] = i0 + k >= j0 + lane && i0 + k < length ? g[k] * decay : 0.f;
    }
  }
};

/// dx of 32 tokens, and their x . U and dy . x over the unit's columns. `sums` holds U.
template <class Tr, class P, class Sums>
__device__ inline void write_unit(tiled_unit<Tr, P> const& at, P const& p, tiled_gradients const& s, Sums const& sums,
                                  std::ptrdiff_t line, float skip) {
  sums.each_token([&](int i, auto const& columns) {
    int const token = at.j0 + i;
    bool const inside = token < at.length;
    float const step = inside ? at.decays[token].z : 0.f;
    float x_u = 0, dy_x = 0;
    columns([&](int c, auto v) {
      if (!inside || c >= at.width) return;
      constexpr int n = int(sizeof v / 4);
      auto const dy = load_packet<n>(at.dy + std::ptrdiff_t{token} * at.stride + c);
      auto const x = load_packet<n>(p.x + (at.row + token) * p.x_stride + at.column + c);
#pragma unroll
      for (int k = 0; k < n; ++k) {
        x_u = fmaf(x.v[k], v.v[k], x_u), dy_x = fmaf(dy.v[k], x.v[k], dy_x);
        v.v[k] = fmaf(skip, dy.v[k], step * v.v[k]);
      }
      store_packet(p.dx + (at.row + token) * p.dx_stride + at.column + c, v);
    });
    x_u = Sums::over_token(x_u), dy_x = Sums::over_token(dy_x);
    if (Sums::first_of_token() && inside) s.x_u[line + token] = x_u, s.skip[line + token] = dy_x;
  });
}

/// U of 32 tokens a block, a unit a warp; early tokens first, since they take longest. Block x: tile, then sequence.
template <class Tr, class P, class Sums>
__global__ void __launch_bounds__(Tr::threads, Tr::blocks)
    tiled_input_kernel(__grid_constant__ P const p, __grid_constant__ tiled_gradients const s, int first) {
  __shared__ tiled_stage<Tr> stages[Tr::warps];
  int const warp = int(threadIdx.x) / 32, unit = int(blockIdx.y) * Tr::warps + warp;
  if (unit >= Tr::units) return;
  tiled_stage<Tr>& stage = stages[warp];
  int const tiles = (s.length - 1) / Tr::rows + 1, local = int(blockIdx.x) / tiles;
  tiled_unit<Tr, P> const at{p, s, int(blockIdx.x) % tiles, local, first, unit};
  Sums sums;
  float g[Tr::depth];
  at.copy_dy(at.j0, stage.x[0]);
  at.load_scores(at.j0, s.pitch, g);
#pragma unroll 1
  for (int i0 = at.j0, turn = 0; i0 < at.length; i0 += Tr::depth, turn ^= 1) {
    at.copy_dy(i0 + Tr::depth, stage.x[turn ^ 1]);
    at.weight(i0, g, stage.weights);
    at.load_scores(i0 + Tr::depth, s.pitch, g);
    wait_copies<1>();
    __syncwarp();
    sums.multiply(stage.weights, stage.x[turn]);
    __syncwarp();  // before the weights are written over
  }
  float const skip = p.d[(first + local) / p.set_size * Tr::heads + at.head];
  write_unit(at, p, s, sums, (std::ptrdiff_t{local} * Tr::units + unit) * s.length, skip);
}

/// dC = dG B or dB = dG^T C of 64 tokens and 64 states. Block x: tile of states, of tokens, then sequence; y: group;
/// z: dB or dC.
template <class P, class Sums>
__global__ void __launch_bounds__(outer_tile::threads, 4)
    tiled_group_kernel(__grid_constant__ P const p, __grid_constant__ tiled_gradients const s, int first) {
  using sizes = typename P::sizes;
  constexpr int across = (sizes::state - 1) / outer_tile::side + 1;
  __shared__ outer_stage stage[outer_tile::stages];
  int const tile = int(blockIdx.x) / across, local = tile / s.tiles, group = int(blockIdx.y);
  int const t0 = tile % s.tiles * block_side, n0 = int(blockIdx.x) % across * outer_tile::side;
  bool const of_b = blockIdx.z == 0;
  std::ptrdiff_t const token = std::ptrdiff_t{first + local} * s.length;
  std::ptrdiff_t const square = s.square(local * sizes::groups + group);
  outer_operand const scores{(of_b ? s.gradient : s.transposed) + square, s.pitch, s.pitch};
  outer_operand const other =
      of_b ? outer_operand{p.c + token * p.c_stride + group * sizes::state, p.c_stride, sizes::state}
           : outer_operand{p.b + token * p.b_stride + group * sizes::state, p.b_stride, sizes::state};
  Sums sums;
  outer_product(sums, stage, scores, other, t0, n0, of_b ? t0 : 0, of_b ? s.length : min(t0 + block_side, s.length));
  int const stride = of_b ? p.db_stride : p.dc_stride;
  float* const to = (of_b ? p.db : p.dc) + token * stride + group * sizes::state;
  sums.each([&](int i, int n, auto v) {
    if (t0 + i < s.length && n0 + n < sizes::state) store_packet(to + std::ptrdiff_t{t0 + i} * stride + n0 + n, v);
  });
}

/// Longest sequences whose gradient is one product. Its work a token grows with the length, that of the chunks does
/// not: an H200 takes 2.6 ms for 87 sequences of 577 tokens of Tiny's shape and 3.5 for 64 of 785, in chunks 6.4 for
/// both. A straight line through the tiles' two is at 4.6 for 1,024 tokens and at 6.4 for 1,400; nothing longer than
/// 785 was measured.
inline constexpr int backward_tiled_longest = 1024;
/// Their tiles of 64 tokens.
inline constexpr int most_tiles = (backward_tiled_longest - 1) / block_side + 1;

/// middle[k] = sum of gamma over rows in tiles after k and columns in tiles before it. The whole block of 128 threads.
__device__ inline void sum_between_tiles(tiled_gradients const& s, int line, float (&tile)[most_tiles][most_tiles],
                                         float (&middle)[most_tiles]) {
  int const warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  for (int at = warp; at < s.tiles * s.tiles; at += 4) {
    int const i = at / s.tiles, j = at % s.tiles;
    if (j >= i) continue;
    float const* const rows = s.sums_of(line, j);
    float sum = 0;
    for (int t = i * block_side + lane; t < min((i + 1) * block_side, s.length); t += 32) sum += rows[t];
    sum = sum_over_warp(sum);
    if (lane == 0) tile[i][j] = sum;
  }
  __syncthreads();
  int const k = int(threadIdx.x);
  if (k < s.tiles) {
    float sum = 0;
    for (int i = k + 1; i < s.tiles; ++i)
      for (int j = 0; j < k; ++j) sum += tile[i][j];
    middle[k] = sum;
  }
  __syncthreads();
}

/// A line's tokens t and t + 1, a lane's of a tile: their da but for the sums between other tiles.
__device__ inline float2 sum_rectangles(tiled_gradients const& s, int line, int tile, int t, int lane) {
  float row[2] = {}, column[2] = {}, own[2] = {};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (t + i >= s.length) continue;
    for (int k = 0; k < tile; ++k) row[i] += s.sums_of(line, k)[t + i];
    for (int k = tile + 1; k < s.tiles; ++k) column[i] += s.sums_of(line, k)[t + i];
    own[i] = s.sums_of(line, tile)[t + i];
  }
  float later = row[0] + row[1];  // of this lane and those after it
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    float const after = __shfl_down_sync(~0u, later, distance);
    if (lane + distance < 32) later += after;
  }
  later = __shfl_down_sync(~0u, later, 1);
  if (lane == 31) later = 0;
  float earlier = __shfl_up_sync(~0u, sum_up_to_lane(column[0] + column[1], lane), 1);
  if (lane == 0) earlier = 0;
  return {own[0] + (row[0] + (row[1] + later)) + earlier, own[1] + (row[1] + later) + (earlier + column[0])};
}

/// The steps' gradient of one head of one sequence, and its sums for A and D. Block: sequence and head.
template <class Tr, class P>
__global__ void __launch_bounds__(128)
    tiled_steps_kernel(__grid_constant__ P const p, __grid_constant__ tiled_gradients const s, int first) {
  __shared__ float tile[most_tiles][most_tiles], middle[most_tiles], parts[2][4];
  int const line = int(blockIdx.x), local = line / Tr::heads, head = line % Tr::heads, sequence = first + local;
  int const warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  float const rate = p.a[sequence / p.set_size * Tr::heads + head];
  sum_between_tiles(s, line, tile, middle);
  float da_sum = 0, skip_sum = 0;
  for (int k = warp; k < s.tiles; k += 4) {
    int const t0 = k * block_side + 2 * lane;
    float2 const rectangles = sum_rectangles(s, line, k, t0, lane);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      int const t = t0 + i;
      if (t >= s.length) continue;
      float const da = (i == 0 ? rectangles.x : rectangles.y) + middle[k];
      float x_u = 0;
      for (int slice = 0; slice < Tr::slices; ++slice) {
        std::ptrdiff_t const at = (std::ptrdiff_t{local} * Tr::units + head * Tr::slices + slice) * s.length + t;
        x_u += s.x_u[at], skip_sum += s.skip[at];
      }
      std::ptrdiff_t const at = (std::ptrdiff_t{sequence} * s.length + t) * Tr::heads + head;
      p.ddt[at] = fmaf(rate, da, x_u);
      da_sum = fmaf(p.dt[at], da, da_sum);
    }
  }
  da_sum = sum_over_warp(da_sum), skip_sum = sum_over_warp(skip_sum);
  if (lane == 0) parts[0][warp] = da_sum, parts[1][warp] = skip_sum;
  __syncthreads();
  if (threadIdx.x >= 2) return;
  auto const& part = parts[threadIdx.x];
  (threadIdx.x == 0 ? p.da : p.d_skip)[std::ptrdiff_t{sequence} * Tr::heads + head] =
      (part[0] + part[1]) + (part[2] + part[3]);
}

/// A form of the scan's backward (backward_operands.cuh).
template <mixer_shape M, class T, bool Tf32>
struct backward_tiled {
  using operands = backward_operands<M, T>;
  using traits = tiled_traits<M>;
  static constexpr bool possible = std::is_same_v<T, float> && traits::possible, in_place = false;

  static bool fits(operands const& p, device_properties const&) {
    return p.aligned() && p.length <= backward_tiled_longest;
  }

  static std::size_t scratch_bytes(int sequences, int length, device_properties const&) {
    return bytes(slice(sequences, length), length);
  }

  static void launch(operands const& p, std::byte* scratch, device_properties const&, cudaStream_t stream) {
    int const most = slice(p.sequences, p.length);
    arena memory{scratch, bytes(most, p.length)};
    auto const s = tiled_gradients::take(memory, std::type_identity<traits>{}, most, p.length);
    for (int first = 0; first < p.sequences; first += most)
      launch_slice(p, s, first, std::min(most, p.sequences - first), stream);
  }

 private:
  static std::size_t bytes(int sequences, int length) {
    arena ruler;
    static_cast<void>(tiled_gradients::take(ruler, std::type_identity<traits>{}, sequences, length));
    return ruler.peak();
  }
  /// Sequences at a time: what is between the kernels stays near the L2 cache's size, and makes thousands of blocks.
  static int slice(int sequences, int length) {
    std::size_t const fit = std::clamp<std::size_t>(scores_bytes / bytes(1, length), 1, 65535);
    return int(std::min<std::size_t>(fit, std::size_t(std::max(sequences, 1))));
  }
  static void launch_slice(operands const& p, tiled_gradients const& s, int first, int n, cudaStream_t stream) {
    using inputs = std::conditional_t<Tf32, tiled_sums_tf32<traits>, tiled_sums<traits>>;
    using outer = std::conditional_t<Tf32, outer_sums_tf32, outer_sums>;
    unsigned const count = unsigned(n), work = count * traits::heads;
    unsigned const tiles = unsigned(s.tiles), groups = traits::groups;
    detail::launch("ssd_backward: decays", token_decays_kernel<traits::heads>, {blocks_for(work, 4), 128}, stream,
                   p.dt + std::ptrdiff_t{first} * p.length * traits::heads, p.a, s.decays, p.length, int(work),
                   rate_sets{first, p.set_size});
    detail::launch("ssd_backward: scores", tiled_gradient_kernel<operands, Tf32>,
                   {dim3(count * (tiles * (tiles + 1) / 2), groups), float_tile::threads}, stream, p, s, first);
    detail::launch(
        "ssd_backward: inputs", tiled_input_kernel<traits, operands, inputs>,
        {dim3(count * ((unsigned(p.length) - 1) / traits::rows + 1), (traits::units - 1) / traits::warps + 1),
         traits::threads},
        stream, p, s, first);
    detail::launch("ssd_backward: groups", tiled_group_kernel<operands, outer>,
                   {dim3(count * tiles * ((M.d_state - 1) / outer_tile::side + 1), groups, 2), outer_tile::threads},
                   stream, p, s, first);
    detail::launch("ssd_backward: steps", tiled_steps_kernel<traits, operands>, {dim3(work), 128}, stream, p, s, first);
  }
};

}  // namespace dm2::cuda::detail::ssd
