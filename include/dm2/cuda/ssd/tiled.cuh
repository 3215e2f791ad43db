/// @file
/// The scan as a masked product in float or TF32.
///
/// Three kernels. Decays of all tokens and heads; scores B C^T once a group, in tiles on and above the diagonal; then a
/// warp makes y of 32 tokens and one head, or a slice of it: 16 earlier tokens at a time it weights the scores in its
/// own shared memory and multiplies them by x. No warp waits for another one.
///
/// The sum of log decays up to token t is kept as a whole number and the rest, from a sum in double: the difference of
/// two tokens' sums is exact where it is small, however long ago the sequence started.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/device/properties.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/ssd/tile.cuh>
#include <dm2/cuda/ssd/tiled_sums.cuh>
#include <dm2/cuda/tile/float_product.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <algorithm>
#include <cstddef>
#include <type_traits>

namespace dm2::cuda::detail::ssd {

/// How the work is cut. A unit is a head, or a slice of at most 64 columns of one.
template <mixer_shape M>
struct tiled_traits : ssd_sizes<M, float> {
  using sizes = ssd_sizes<M, float>;
  static constexpr bool possible = M.headdim % 4 == 0 && M.d_state % 4 == 0;  ///< copies of four numbers
  static constexpr int slices = (sizes::headdim + 63) / 64;
  static constexpr int slice = (sizes::headdim + 4 * slices - 1) / (4 * slices) * 4;
  static constexpr int columns = (slice + 15) / 16 * 16;  ///< zeros past the slice
  static constexpr int units = sizes::heads * slices, warps = std::min(units, 4), threads = 32 * warps;
  static constexpr int blocks = (columns > 48 ? 12 : 16) / warps;  ///< a multiprocessor
  static constexpr int rows = 32, depth = 16;
  /// Rows of weights and of x: eight more numbers than a multiple of 16 or 32, so that four of them meet other banks.
  static constexpr int weight_pitch = rows + 8, x_pitch = columns + 8;
};

/// A warp's shared memory: weights[k][i] of the earlier token k for token i, and two slabs of x and decays.
template <class Tr>
struct tiled_stage {
  alignas(16) float weights[Tr::depth][Tr::weight_pitch];
  alignas(16) float x[2][Tr::depth][Tr::x_pitch];
  float4 decays[2][Tr::depth];
};

/// Whose rates a sequence has: sequence `first` + i, i counted from the kernel's own, those of set / set_size.
struct rate_sets {
  int first, set_size;
};
/// All sequences have the same.
inline constexpr rate_sets one_set{0, 1 << 30};

/// Tokens of a sequence with those that fill up its last 32: decays and scores have numbers for these too, so that no
/// read of a whole slab needs a bound.
__host__ __device__ constexpr int tiled_tokens(int length) { return (length + 31) / 32 * 32; }

/// Where the scores of tile t's 32 tokens start: 32 (t + 1) earlier tokens j, 32 neighbouring numbers for each.
__host__ __device__ constexpr std::ptrdiff_t scores_of_tile(int t) { return std::ptrdiff_t{t} * (t + 1) * 512; }

/// decays [B, H, tiled_tokens] of dt [B L, H]: a token's sum of log2 decays, in whole numbers and the rest, and its
/// step, 0 from L on. A warp a sequence and head; a is [sets, H]. A step counts at most 160, as in scan_decays.
template <int Heads>
__global__ void __launch_bounds__(128)
    token_decays_kernel(float const* dt, float const* a, float4* decays, int length, int work, rate_sets sets) {
  int const at = int(blockIdx.x) * 4 + int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  if (at >= work) return;
  int const head = at % Heads, set = (sets.first + at / Heads) / sets.set_size;
  double const rate = double(a[set * Heads + head]) * 1.4426950408889634;
  float const* const steps = dt + std::ptrdiff_t{at / Heads} * length * Heads + head;
  double before = 0;
  for (int t0 = 0; t0 < length; t0 += 32) {
    int const t = t0 + lane;
    float const step = t < length ? steps[std::ptrdiff_t{t} * Heads] : 0.f;
    double const sum = before + sum_up_to_lane(fmax(double(step) * rate, -160.), lane);
    double const whole = floor(sum);
    decays[std::ptrdiff_t{at} * tiled_tokens(length) + t] = {float(whole), float(sum - whole), step, 0.f};
    before = __shfl_sync(~0u, sum, 31);
  }
}

/// scores[place] of tile t: [j, i] = B_j C_i for its tokens i and all j up to its last, of a sequence's group; zeros
/// for tokens that are not there. Block: a tile of 128 x 64, and the place.
template <class Tr, class Sums>
__global__ void __launch_bounds__(float_tile::threads, Sums::blocks)
    scores_kernel(float const* b, float const* c, float* scores, int length) {
  __shared__ float_stage stage[float_tile::stages];
  constexpr int width = Tr::state_width;
  int const across = (length - 1) / float_tile::columns + 1, place = int(blockIdx.y);
  int const row0 = int(blockIdx.x) / across * float_tile::rows;
  int const column0 = int(blockIdx.x) % across * float_tile::columns;
  if (column0 + float_tile::columns <= row0) return;
  std::ptrdiff_t const first = std::ptrdiff_t{place / Tr::groups} * length * width + place % Tr::groups * Tr::d_state;
  Sums sums;
  float_product(sums, stage, float_rows{b + first, width, length, Tr::d_state},
                float_rows{c + first, width, length, Tr::d_state}, row0, column0, Tr::d_state);
  int const tiles = tiled_tokens(length) / 32, tile = column0 / 32;
  float* const to = scores + std::ptrdiff_t{place} * scores_of_tile(tiles) + row0 * 32;
  float *const left = to + scores_of_tile(tile), *const right = to + scores_of_tile(tile + 1);
  int const left_end = 32 * (tile + 1) - row0, right_end = tile + 1 < tiles ? left_end + 32 : 0;
  sums.each([&](int j, int i, float v) {
    if (j < (i < 32 ? left_end : right_end)) (i < 32 ? left : right)[std::ptrdiff_t{j} * 32 + i % 32] = v;
  });
}

/// What the last kernel reads and writes.
struct tiled_arguments {
  arguments<float> p;
  float4 const* decays;
  float const* scores;
};

/// A warp's place: 32 tokens from i0 on of a unit of a sequence.
template <class Tr>
struct tiled_place {
  int i0, end, length, lane, width;  ///< tokens before `end` count; columns that there are
  float const *x, *scores;           ///< of the unit's first column; of this lane's token
  float4 const* decays;
  float4 own;

  __device__ tiled_place(tiled_arguments const& all, int tile, int sequence, int unit)
      : i0{tile * Tr::rows},
        end{min(i0 + Tr::rows, all.p.length)},
        length{all.p.length},
        lane{int(threadIdx.x) % 32},
        width{min(Tr::slice, Tr::headdim - unit % Tr::slices * Tr::slice)} {
    int const head = unit / Tr::slices, group = head / Tr::per_group, tokens = tiled_tokens(length);
    x = all.p.x + std::ptrdiff_t{sequence} * length * Tr::inner + column(unit);
    scores = all.scores + std::ptrdiff_t{sequence * Tr::groups + group} * scores_of_tile(tokens / 32) +
             scores_of_tile(tile) + lane;
    decays = all.decays + std::ptrdiff_t{sequence * Tr::heads + head} * tokens;
    own = decays[i0 + lane];
  }
  /// A unit's first column.
  __device__ static int column(int unit) { return unit / Tr::slices * Tr::headdim + unit % Tr::slices * Tr::slice; }

  /// Starts the copy of x and the decays of the tokens from j0 on.
  __device__ void copy(int j0, tiled_stage<Tr>& stage, int turn) const {
    if (j0 < end) {
      for (int at = lane; at < Tr::depth * (Tr::columns / 4); at += 32) {
        int const k = at / (Tr::columns / 4), c = at % (Tr::columns / 4) * 4;
        bool const inside = j0 + k < length && c < width;
        copy_async(shared_address(&stage.x[turn][k][c]), inside ? x + std::ptrdiff_t{j0 + k} * Tr::inner + c : x,
                   inside);
      }
      if (lane < Tr::depth) copy_async(shared_address(&stage.decays[turn][lane]), decays + j0 + lane, true);
    }
    commit_copies();
  }
  /// The scores of the lane's token with the tokens from j0 on; those after it are not looked at.
  __device__ void load_scores(int j0, float (&s)[Tr::depth]) const {
    float const* const from = scores + j0 * Tr::rows;
#pragma unroll
    for (int k = 0; k < Tr::depth; ++k) s[k] = __ldg(from + k * Tr::rows);
  }
  /// The scores, decayed from token to token and times the step, to shared memory. Diagonal: some are of later tokens.
  template <bool Diagonal>
  __device__ void weight(int j0, float const (&s)[Tr::depth], tiled_stage<Tr>& stage, int turn) const {
#pragma unroll
    for (int k = 0; k < Tr::depth; ++k) {
      float4 const from = stage.decays[turn][k];
      float const decay = exp2_fast((own.x - from.x) + (own.y - from.y));
      float const w = s[k] * (decay * from.z);
      stage.weights[k][lane] = !Diagonal || j0 + k <= i0 + lane ? w : 0.f;
    }
  }
};

/// y of 32 tokens a block, a unit a warp; late tokens first, since they take longest. Block x: tile, then sequence.
template <class Tr, class Sums>
__global__ void __launch_bounds__(Tr::threads, Tr::blocks)
    tiled_scan_kernel(__grid_constant__ tiled_arguments const all, int tiles) {
  __shared__ tiled_stage<Tr> stages[Tr::warps];
  int const warp = int(threadIdx.x) / 32, unit = int(blockIdx.y) * Tr::warps + warp;
  if (unit >= Tr::units) return;
  tiled_stage<Tr>& stage = stages[warp];
  int const sequence = int(blockIdx.x) / tiles;
  tiled_place<Tr> const at{all, tiles - 1 - int(blockIdx.x) % tiles, sequence, unit};
  Sums sums;
  float s[Tr::depth];
  at.copy(0, stage, 0);
  at.load_scores(0, s);
#pragma unroll 1
  for (int j0 = 0, turn = 0; j0 < at.end; j0 += Tr::depth, turn ^= 1) {
    at.copy(j0 + Tr::depth, stage, turn ^ 1);
    wait_copies<1>();
    __syncwarp();
    if (j0 + Tr::depth <= at.i0)
      at.template weight<false>(j0, s, stage, turn);
    else
      at.template weight<true>(j0, s, stage, turn);
    if (j0 + Tr::depth < at.end) at.load_scores(j0 + Tr::depth, s);
    __syncwarp();
    sums.multiply(stage.weights, stage.x[turn]);
    __syncwarp();  // before the weights are written over
  }
  float const skip = all.p.d[unit / Tr::slices];
  float* const y = all.p.y + std::ptrdiff_t{sequence} * at.length * Tr::inner + at.column(unit);
  sums.each([&](int i, int c, auto v) {
    if (at.i0 + i >= at.length || c >= at.width) return;
    std::ptrdiff_t const to = std::ptrdiff_t{at.i0 + i} * Tr::inner + c;
    auto const x = load_packet<int(sizeof v / 4)>(at.x + to);
    if constexpr (sizeof v == sizeof(float4))  // never four stores of four bytes
      __stcg(reinterpret_cast<float4*>(y + to), float4{fmaf(skip, x.v[0], v.v[0]), fmaf(skip, x.v[1], v.v[1]),
                                                       fmaf(skip, x.v[2], v.v[2]), fmaf(skip, x.v[3], v.v[3])});
    else
      __stcg(reinterpret_cast<float2*>(y + to), float2{fmaf(skip, x.v[0], v.v[0]), fmaf(skip, x.v[1], v.v[1])});
  });
}

/// Most bytes of scores at a time; one sequence's where those are more.
inline constexpr std::size_t scores_bytes = std::size_t{64} << 20;

/// What lies between the kernels, for some of the sequences at a time.
template <mixer_shape M>
struct tiled_scratch {
  int sequences;
  float4* decays;
  float* scores;

  tiled_scratch(arena& a, int count, int length) {
    int const tokens = tiled_tokens(length);
    std::size_t const one = std::size_t(M.groups) * std::size_t(scores_of_tile(tokens / 32));
    sequences = std::clamp(int(scores_bytes / (one * sizeof(float))), 1, std::max(count, 1));
    sequences = std::min(sequences, 65535 / M.groups);
    decays = a.take<float4>(std::size_t(sequences) * M.heads * std::size_t(tokens));
    scores = a.take<float>(std::size_t(sequences) * one);
  }
};

/// Longest sequences that are one product. Its work a token grows with the length, the recurrence's does not. Measured
/// on one H200 with Tiny's shape and about 50,200 tokens, us in tiles of float, of TF32, and by the recurrence: 744,
/// 478, 845 at 659 tokens; 873, 553, 796 at 785 (the tiles' from 33 sequences, 64 / 33 of it). Straight lines between
/// the two cross at 730 in float and past 1,000 in TF32, which takes this length too.
inline constexpr int tiled_longest = 720;
/// The same where the recurrence has at most two blocks a multiprocessor: it takes as long for few sequences as for
/// many, 796 us for 785 tokens with four blocks, while the tiles take 19 us a sequence.
inline constexpr int tiled_longest_of_few = 800, tiled_few_blocks = 2;

/// Most sequences that are few.
template <mixer_shape M>
constexpr int tiled_few(device_properties const& device) {
  return std::max(1, tiled_few_blocks * device.multiprocessors / M.heads);
}
/// Whether the kernels take these sizes and this length; x, B, C and y have to lie at multiples of 16 bytes.
template <mixer_shape M>
constexpr bool tiled_fits(int length, int sequences, device_properties const& device) {
  return tiled_traits<M>::possible &&
         length <= (sequences <= tiled_few<M>(device) ? tiled_longest_of_few : tiled_longest);
}

/// The scan of sequences [first, first + n), whose scratch there is.
template <precision P, mixer_shape M>
void launch_tiled(context<P>& ctx, arguments<float> p, tiled_scratch<M> const& s, std::ptrdiff_t first, int n) {
  using Tr = tiled_traits<M>;
  using sums = std::conditional_t<P == precision::tf32, tiled_sums_tf32<Tr>, tiled_sums<Tr>>;
  std::ptrdiff_t const row = first * p.length;
  p.x += row * Tr::inner, p.y += row * Tr::inner, p.dt += row * Tr::heads;
  p.b += row * Tr::state_width, p.c += row * Tr::state_width;
  int const work = n * Tr::heads, tiles = (p.length - 1) / Tr::rows + 1;
  launch("ssd: decays", token_decays_kernel<Tr::heads>, {blocks_for(std::size_t(work), 4), 128}, ctx.stream(), p.dt,
         p.a, s.decays, p.length, work, one_set);
  int const down = (p.length - 1) / float_tile::rows + 1, across = (p.length - 1) / float_tile::columns + 1;
  launch("ssd: scores", scores_kernel<Tr, sums_for<P>>,
         {dim3(unsigned(down * across), unsigned(n * Tr::groups)), float_tile::threads}, ctx.stream(), p.b, p.c,
         s.scores, p.length);
  launch("ssd: masked product", tiled_scan_kernel<Tr, sums>,
         {dim3(unsigned(n * tiles), unsigned((Tr::units - 1) / Tr::warps + 1)), Tr::threads}, ctx.stream(),
         tiled_arguments{p, s.decays, s.scores}, tiles);
}

/// The scan of `sequences` sequences, where tiled_fits(), with the scratch of as many.
template <mixer_shape M, precision P>
void scan_tiled(context<P>& ctx, arguments<float> const& p, int sequences, tiled_scratch<M> const& scratch) {
  for (int first = 0; first < sequences; first += scratch.sequences)
    launch_tiled(ctx, p, scratch, first, std::min(scratch.sequences, sequences - first));
}

/// The same with scratch of the context's.
template <mixer_shape M, precision P>
void scan_tiled(context<P>& ctx, arguments<float> const& p, int sequences) {
  if (!ctx.reserve(planned_bytes<tiled_scratch<M>>(sequences, p.length)) || sequences == 0) return;
  arena_scope const scope{ctx.shared()};
  scan_tiled<M>(ctx, p, sequences, tiled_scratch<M>{ctx.shared(), sequences, p.length});
}

}  // namespace dm2::cuda::detail::ssd
