/// @file
/// The mixer core for few sequences: convolution, then scores, scan and gate.
///
/// The quadratic form, with the difference of the decays taken before the exponential for every pair of tokens: with
/// few sequences nothing is busy, and what counts is the way from the first load to the last store. A block's fourteen
/// warps share the tiles of 16 x 16 pairs of tokens: seven for each 16 rows, each with every seventh tile of columns;
/// their sums go through shared memory. While they wait for their copies, the first seven make the decays, a lane that
/// of one token.
#pragma once

#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/early_start.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/mixer_core/fill.cuh>
#include <dm2/cuda/mixer_core/layout.cuh>
#include <dm2/cuda/tile/fragment.cuh>
#include <dm2/cuda/tile/squares.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::mixer_core {

template <class T>
struct few_arguments {
  T const* zxbcdt;  ///< [B L, projected]
  T* convolved;     ///< [2, B L, conv_dim]: each direction's silu(conv(xBC)), channels in the direction's order
  T* g;             ///< [B L, 2 inner], before its norm
  float* squares;   ///< [B L, 2, units], parts of each row's sum of g^2
  direction_pointers direction[2];
  int sequences, length;
};

/// convolved = silu(conv(xBC)) for both directions: a thread four channels of four tokens. The kernel's blocks are all
/// of that, 128 threads each.
template <class Tr>
__global__ void __launch_bounds__(128) few_conv_kernel(__grid_constant__ few_arguments<typename Tr::element> const p) {
  using T = typename Tr::element;
  constexpr int V = 4, S = 4, groups = Tr::conv_dim / V;
  let_next_start();
  int const task = int(blockIdx.x) * 128 + int(threadIdx.x), runs = (p.length + S - 1) / S;
  int const run = task / groups % runs, sequence = task / groups / runs % p.sequences;
  int const direction = task / groups / runs / p.sequences, second = min(direction, 1), channel = task % groups * V;
  direction_slices<Tr> const at{second == 1};
  int const slice = at.channels_reversed ? Tr::heads : Tr::inner;
  channel_taps<Tr> const taps{at, at.conv_channel(slice, channel), 2, p.direction[second]};
  wait_for_previous();
  if (direction >= 2) return;
  std::ptrdiff_t const first_row = std::ptrdiff_t(sequence) * p.length;
  T const* const from = p.zxbcdt + first_row * Tr::projected + slice + channel;
  T* const to = p.convolved + (std::ptrdiff_t(second) * p.sequences * p.length + first_row) * Tr::conv_dim + channel;
  convolve<Tr, S>(
      taps, run * S, run * S + S,
      [&](int t) {
        bool const inside = t >= 0 && t < p.length;
        return inside ? *reinterpret_cast<packed<V> const*>(from + at.row(t, p.length) * Tr::projected) : packed<V>{};
      },
      [&](int t, float const(&v)[V]) {
        if (t < p.length)
          *reinterpret_cast<packed<V>*>(to + at.row(t, p.length) *
                                                 Tr::conv_dim) = {{pack<T>(v[0], v[1]), pack<T>(v[2], v[3])}};
      });
}

/// The kernel's constants beside the mixer core's own.
template <class Tr>
struct few_scan_traits {
  static constexpr int row_tiles = 2, rows = 16 * row_tiles, parts = 7, each = 2;  ///< most tiles of columns of a warp
  static constexpr int warps = row_tiles * parts, threads = 32 * warps, decay_warps = (Tr::most_tiles + 1) / 2;
  static constexpr int state_pitch = Tr::state * 2 + 16, pitch = Tr::columns * 2 + 16;  ///< odd numbers of 16 bytes
  static constexpr int sum_pitch = Tr::columns + 8;                                     ///< floats
  static constexpr int quads = Tr::columns / 4, quads_each = (rows * quads + threads - 1) / threads;
  static_assert(Tr::most_tiles <= parts * each && decay_warps <= warps && decay_warps <= rows * quads);
};

/// Where things lie in shared memory, for n tiles of 16 tokens. The sums take the place of B and C.
template <class Tr>
struct few_scan_layout {
  using F = few_scan_traits<Tr>;
  int tokens, c, x, cum, squares, bytes;

  __host__ __device__ explicit few_scan_layout(int n) : tokens{16 * n} {
    int const sums = F::parts * F::rows * F::sum_pitch * 4;
    c = tokens * F::state_pitch;
    int const operands = c + F::rows * F::state_pitch;
    x = operands > sums ? operands : sums;
    cum = x + tokens * F::pitch;
    squares = cum + 2 * tokens * 4;
    bytes = squares + F::rows * F::quads * 4;
  }
};

/// What a block works on.
template <class Tr>
struct few_scan_place {
  using F = few_scan_traits<Tr>;
  int unit, second, tiles, first_tile, last_tile;
  std::ptrdiff_t first_row;  ///< of the sequence
  direction_slices<Tr> at;

  __device__ explicit few_scan_place(few_arguments<typename Tr::element> const& p)
      : unit{int(blockIdx.x)},
        second{int(blockIdx.z) % 2},
        tiles{(p.length + 15) / 16},
        first_tile{int(gridDim.y - 1 - blockIdx.y) * F::row_tiles},  // the longest rows first
        last_tile{min(first_tile + F::row_tiles, tiles) - 1},
        first_row{std::ptrdiff_t(blockIdx.z / 2) * p.length},
        at{second == 1} {}
};

/// Starts copies of `Columns` columns of tokens [first, first + count), at most Most, of the direction's convolved
/// rows, from position `column` on; zeros from `length` on. All threads, each always the same piece of a row, so that
/// the next one is a fixed way off: few instructions stand between the wait for the kernel ahead and the last copy.
template <class Tr, int Columns, int Most>
__device__ inline void copy_convolved(few_arguments<typename Tr::element> const& p, few_scan_place<Tr> const& place,
                                      int column, int first, int count, std::uint32_t to) {
  constexpr int pieces = Columns / 8, step = few_scan_traits<Tr>::threads / pieces, pitch = Columns * 2 + 16;
  int const row = int(threadIdx.x) / pieces, piece = int(threadIdx.x) % pieces, t = first + row;
  if (row >= step) return;
  using T = typename Tr::element;
  std::ptrdiff_t const rows = std::ptrdiff_t(place.second) * p.sequences * p.length + place.first_row;
  std::ptrdiff_t const offset = (rows + place.at.row(t, p.length)) * Tr::conv_dim + column + piece * 8;
  std::ptrdiff_t const stride = (place.at.tokens_reversed ? -step : step) * Tr::conv_dim * int(sizeof(T));
  std::size_t from = global_address(p.convolved) + std::size_t(offset * std::ptrdiff_t(sizeof(T)));
  int target = int(to + std::uint32_t(row * pitch + piece * 16));
  hide(from);  // else the compiler computes both anew for each copy, in 30 instructions
  hide(target);
#pragma unroll
  for (int j = 0; j < (Most + step - 1) / step; ++j) {
    bool const inside = t + j * step < p.length;
    if (row + j * step < count)
      copy_async(std::uint32_t(target) + std::uint32_t(j * step * pitch),
                 inside ? global_pointer<T const>(from + std::size_t(j * stride)) : p.convolved, inside);
  }
}

/// s[i] = C B^T of the warp's 16 rows and `Tiles` tiles of columns, seven apart; c, b: the lane's.
template <class Tr, int Tiles>
__device__ inline void few_scores_of(float (&s)[few_scan_traits<Tr>::each][2][4], std::uint32_t c, std::uint32_t b) {
  using F = few_scan_traits<Tr>;
#pragma unroll
  for (int k = 0; k < Tr::state / 16; ++k) {
    std::uint32_t rows[4];
    load_matrix(rows, c + std::uint32_t(k * 32));
#pragma unroll
    for (int i = 0; i < Tiles; ++i) {
      std::uint32_t columns[4];
      load_matrix(columns, b + std::uint32_t(i * F::parts * 16 * F::state_pitch + k * 32));
      mma<typename Tr::element>(s[i][0], rows, columns[0], columns[1]);
      mma<typename Tr::element>(s[i][1], rows, columns[2], columns[3]);
    }
  }
}

/// The same of the tiles `first` + 7 i that are none after the rows' own tile: no branch within the chain of products.
template <class Tr>
__device__ inline void few_scores(float (&s)[few_scan_traits<Tr>::each][2][4], int first, int own, std::uint32_t c,
                                  std::uint32_t b) {
  using F = few_scan_traits<Tr>;
  static_assert(F::each == 2);
  int const lane = int(threadIdx.x) % 32;
  c += std::uint32_t(fragment::left_operand(lane, F::state_pitch));
  b += std::uint32_t(first * 16 * F::state_pitch + fragment::right_operand(lane, F::state_pitch));
  if (first + F::parts <= own)
    few_scores_of<Tr, 2>(s, c, b);
  else if (first <= own)
    few_scores_of<Tr, 1>(s, c, b);
}

/// Scores of tile c times dt_j exp(c_i - c_j), as a fragment: in the rows' own tile up to each row's own token, to
/// whose score the skip term is added.
template <class Tr>
__device__ inline void few_decayed(float const (&s)[2][4], int c, int own, float const* cum, int tokens, float skip,
                                   std::uint32_t (&a)[4]) {
  int const lane = int(threadIdx.x) % 32, row = fragment::row(lane), column = fragment::column(lane);
  int const behind = c == own ? row : 1 << 20;  // of columns before the own tile none is ahead of any row
  float const at_row[2]{cum[own * 16 + row], cum[own * 16 + 8 + row]};
#pragma unroll
  for (int e = 0; e < 4; ++e) {  // row half e % 2, column half e / 2
    float2 const to = *reinterpret_cast<float2 const*>(cum + tokens + c * 16 + e / 2 * 8 + column);
    float v = s[e / 2][e % 2 * 2] * exp2_fast(at_row[e % 2] - to.x);
    float w = s[e / 2][e % 2 * 2 + 1] * exp2_fast(at_row[e % 2] - to.y);
    int const ahead = column + e / 2 * 8 - behind - e % 2 * 8;
    v = ahead < 0 ? v : ahead == 0 ? v + skip : 0.f;
    w = ahead + 1 < 0 ? w : ahead + 1 == 0 ? w + skip : 0.f;
    a[e] = pack<typename Tr::element>(v, w);
  }
}

/// The warp's part of the scan, y = (decayed scores) x, to `sums` [parts, rows, sum_pitch].
template <class Tr>
__device__ inline void few_scan(float const (&s)[few_scan_traits<Tr>::each][2][4], int first, int own, float const* cum,
                                int tokens, float skip, std::uint32_t x, float* sums) {
  using F = few_scan_traits<Tr>;
  int const lane = int(threadIdx.x) % 32;
  float acc[2 * Tr::column_groups][4] = {};
  x += std::uint32_t(first * 16 * F::pitch + fragment::left_operand(lane, F::pitch));
#pragma unroll
  for (int i = 0; i < F::each; ++i) {
    int const c = first + i * F::parts;
    if (c > own) break;
    std::uint32_t a[4];
    few_decayed<Tr>(s[i], c, own, cum, tokens, skip, a);
#pragma unroll
    for (int n = 0; n < Tr::column_groups; ++n) {
      std::uint32_t b[4];
      load_matrix_transposed(b, x + std::uint32_t(i * F::parts * 16 * F::pitch + n * 32));
      mma<typename Tr::element>(acc[2 * n], a, b[0], b[1]);
      mma<typename Tr::element>(acc[2 * n + 1], a, b[2], b[3]);
    }
  }
  sums += fragment::row(lane) * F::sum_pitch + fragment::column(lane);
#pragma unroll
  for (int n = 0; n < 2 * Tr::column_groups; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      *reinterpret_cast<float2*>(sums + half * 8 * F::sum_pitch + n * 8) =
          make_float2(acc[n][half * 2], acc[n][half * 2 + 1]);
}

/// A thread's quads of four channels of the block's rows: gate and result.
template <class Tr>
struct few_gate {
  using F = few_scan_traits<Tr>;
  using T = typename Tr::element;
  packed<4> z[F::quads_each];

  /// Row in the batch of the token of quad number i, negative where there is none.
  static __device__ std::ptrdiff_t row_of(int i, few_arguments<T> const& p, few_scan_place<Tr> const& place) {
    int const t = place.first_tile * 16 + i / F::quads;
    return i < F::rows * F::quads && t < p.length ? place.first_row + place.at.row(t, p.length) : -1;
  }
  __device__ void load(few_arguments<T> const& p, few_scan_place<Tr> const& place) {
#pragma unroll
    for (int j = 0; j < F::quads_each; ++j) {
      int const i = int(threadIdx.x) + j * F::threads;
      std::ptrdiff_t const row = row_of(i, p, place);
      z[j] = {};
      if (row >= 0)
        z[j] = *reinterpret_cast<packed<4> const*>(p.zxbcdt + row * Tr::projected + place.at.z() +
                                                   place.unit * Tr::columns + i % F::quads * 4);
    }
  }
  /// g = y silu(z), and each quad's squares to `squares`.
  __device__ void write(few_arguments<T> const& p, few_scan_place<Tr> const& place, float const* sums,
                        float* squares) const {
#pragma unroll
    for (int j = 0; j < F::quads_each; ++j) {
      int const i = int(threadIdx.x) + j * F::threads;
      std::ptrdiff_t const row = row_of(i, p, place);
      if (row < 0) continue;
      float const* const from = sums + i / F::quads * F::sum_pitch + i % F::quads * 4;
      int const written = min(F::parts, place.first_tile + i / F::quads / 16 + 1);
      float4 y{0, 0, 0, 0};
#pragma unroll
      for (int part = 0; part < F::parts; ++part) {
        float4 v{0, 0, 0, 0};  // no branch: the loads wait for each other no longer than they must
        if (part < written) v = *reinterpret_cast<float4 const*>(from + part * F::rows * F::sum_pitch);
        y.x += v.x, y.y += v.y, y.z += v.z, y.w += v.w;
      }
      float2 const low = unpack<T>(z[j].v[0]), high = unpack<T>(z[j].v[1]);
      y.x *= silu_fast(low.x), y.y *= silu_fast(low.y), y.z *= silu_fast(high.x), y.w *= silu_fast(high.y);
      squares[i] = y.x * y.x + y.y * y.y + y.z * y.z + y.w * y.w;
      *reinterpret_cast<packed<4>*>(p.g + (2 * row + place.second) * Tr::inner + place.unit * Tr::columns +
                                    i % F::quads * 4) = {{pack<T>(y.x, y.y), pack<T>(y.z, y.w)}};
    }
  }
};

/// Starts copies of B, and of the rows' C, then of x, to shared memory. All threads.
template <class Tr>
__device__ inline void few_copy_operands(few_arguments<typename Tr::element> const& p, few_scan_place<Tr> const& place,
                                         few_scan_layout<Tr> const& lay, std::uint32_t shared) {
  int const begin = place.at.channels_reversed ? Tr::heads : Tr::inner;
  constexpr int most = 16 * Tr::most_tiles, rows = few_scan_traits<Tr>::rows;
  copy_convolved<Tr, Tr::state, most>(p, place, place.at.b() - begin, 0, lay.tokens, shared);
  copy_convolved<Tr, Tr::state, rows>(p, place, place.at.c() - begin, place.first_tile * 16, rows,
                                      shared + std::uint32_t(lay.c));
  commit_copies();
  copy_convolved<Tr, Tr::columns, most>(p, place, place.at.x() - begin + place.unit * Tr::columns, 0, lay.tokens,
                                        shared + std::uint32_t(lay.x));
  commit_copies();
}

/// The sums of each row's squares, from its quads'. The block's first threads.
template <class Tr>
__device__ inline void few_write_squares(few_arguments<typename Tr::element> const& p, few_scan_place<Tr> const& place,
                                         float const* squares) {
  using F = few_scan_traits<Tr>;
  if (int(threadIdx.x) >= F::rows) return;
  std::ptrdiff_t const row = few_gate<Tr>::row_of(int(threadIdx.x) * F::quads, p, place);
  float const sum = sum_of_units<F::quads>(squares + int(threadIdx.x) * F::quads);
  if (row >= 0) p.squares[(2 * row + place.second) * Tr::units + place.unit] = sum;
}

/// One head's numbers that make decays and skip term, in the direction's order.
struct few_head {
  float rate, bias, skip;

  template <class Tr>
  __device__ few_head(few_arguments<typename Tr::element> const& p, few_scan_place<Tr> const& place) {
    direction_pointers const& from = p.direction[place.second];
    int const head = place.at.head(place.unit / Tr::per_head);
    rate = -expf(from.a_log[head]) * log2_e, bias = from.dt_bias[head], skip = from.d[head];
  }
};

/// The decay of a lane's token, number threadIdx.x: what head_decays makes, to the same bits. There one warp has 746
/// instructions for seven tokens a lane, here warps that wait for their copies have a third of that each. On an H200
/// Tiny at batch 2 takes 409 us for 416 in that way, at batch 1 352 in both.
template <class Tr>
struct few_token {
  using F = few_scan_traits<Tr>;
  float raw, sum, log_step;

  /// Whether the warp has tokens.
  static __device__ bool has(few_scan_layout<Tr> const& lay) {
    return int(threadIdx.x) / 32 * 32 < lay.tokens && int(threadIdx.x) < 32 * F::decay_warps;
  }
  /// `from`: the projection's dt of the sequence's first row and this head.
  __device__ void load(typename Tr::element const* from, few_scan_place<Tr> const& place, int length) {
    int const t = int(threadIdx.x);
    raw = t < length ? to_float(from[place.at.row(t, length) * Tr::projected]) : 0.f;
  }
  /// Sums up the warp's tokens, and leaves the whole in `totals` [decay warps]; a barrier must follow.
  __device__ void sum_up(few_head const& head, int length, float* totals) {
    int const lane = int(threadIdx.x) % 32;
    float const step = int(threadIdx.x) < length ? softplus(raw + head.bias) : 0.f;
    sum = sum_up_to_lane(step * head.rate, lane);
    log_step = log2f(step);
    if (lane == 31) totals[threadIdx.x / 32] = sum;
  }
  /// cum [2, tokens], as head_decays writes it; a barrier must follow.
  __device__ void write(float const* totals, int tokens, float* cum) const {
    int const t = int(threadIdx.x);
    float before = 0;
#pragma unroll
    for (int w = 0; w < F::decay_warps; ++w)
      if (w < t / 32) before += totals[w];
    if (t < tokens) cum[t] = before + sum, cum[tokens + t] = before + sum - log_step;
  }
};

/// Copies, decays and scores of one block, up to the point where all of it is wanted: a barrier must follow.
template <class Tr>
__device__ inline void few_prepare(few_arguments<typename Tr::element> const& p, few_scan_place<Tr> const& place,
                                   few_scan_layout<Tr> const& lay, few_head const& head, few_gate<Tr>& gate,
                                   float (&s)[few_scan_traits<Tr>::each][2][4]) {
  using F = few_scan_traits<Tr>;
  unsigned char* const shared = dynamic_shared();
  float* const cum = reinterpret_cast<float*>(shared + lay.cum);
  float* const totals = reinterpret_cast<float*>(shared + lay.squares);  // until the gate writes its squares
  int const warp = int(threadIdx.x) / 32, m = warp / F::parts, own = place.first_tile + m;
  auto const* const dt = p.zxbcdt + place.first_row * Tr::projected + place.at.dt() + place.unit / Tr::per_head;
  std::uint32_t const at = shared_address(shared);
  few_token<Tr> token;
  bool const has = few_token<Tr>::has(lay);
  if (has) token.load(dt, place, p.length);
  few_copy_operands(p, place, lay, at);
  gate.load(p, place);
  if (has) token.sum_up(head, p.length, totals);
  wait_copies<1>();
  __syncthreads();
  if (has) token.write(totals, lay.tokens, cum);
  if (own <= place.last_tile)
    few_scores<Tr>(s, warp % F::parts, own, at + std::uint32_t(lay.c + m * 16 * F::state_pitch), at);
  wait_copies<0>();
}

/// Grid (units, row groups, 2 sequences).
template <class Tr>
__global__ void __launch_bounds__(few_scan_traits<Tr>::threads, 2)
    few_scan_kernel(__grid_constant__ few_arguments<typename Tr::element> const p) {
  using F = few_scan_traits<Tr>;
  let_next_start();
  unsigned char* const shared = dynamic_shared();
  int const warp = int(threadIdx.x) / 32;
  few_scan_place<Tr> const place{p};
  few_scan_layout<Tr> const lay{place.last_tile + 1};
  float* const sums = reinterpret_cast<float*>(shared);
  float* const squares = reinterpret_cast<float*>(shared + lay.squares);
  few_head const head{p, place};
  int const m = warp / F::parts, first = warp % F::parts, own = place.first_tile + m;
  wait_for_previous();
  few_gate<Tr> gate;
  float s[F::each][2][4] = {};
  few_prepare<Tr>(p, place, lay, head, gate, s);
  __syncthreads();
  if (own <= place.last_tile && first <= own)
    few_scan<Tr>(s, first, own, reinterpret_cast<float const*>(shared + lay.cum), lay.tokens, head.skip,
                 shared_address(shared) + std::uint32_t(lay.x), sums + (first * F::rows + m * 16) * F::sum_pitch);
  __syncthreads();
  gate.write(p, place, sums, squares);
  __syncthreads();
  few_write_squares(p, place, squares);
}

/// Whether there are kernels for these sizes.
template <class T, mixer_shape M>
inline constexpr bool few_possible =
    traits<T, M>::possible && !traits<T, M>::padded && M.groups == 1 && M.d_inner() % 8 == 0 && M.heads % 8 == 0;

/// Most sequences that they are for, on any device: memory for more is not planned.
inline constexpr int few_most = 4;

/// Whether they are the way to do so many sequences of this length on this device: no more than two blocks a
/// multiprocessor.
template <class T, mixer_shape M>
bool few_fits(device_properties const& device, int sequences, int length) {
  if constexpr (few_possible<T, M>) {
    using Tr = traits<T, M>;
    int const tiles = (length + 15) / 16,
              groups = (tiles + few_scan_traits<Tr>::row_tiles - 1) / few_scan_traits<Tr>::row_tiles;
    return sequences <= few_most && tiles <= Tr::most_tiles &&
           Tr::units * groups * 2 * sequences <= 2 * device.multiprocessors &&
           2 * (few_scan_layout<Tr>{tiles}.bytes + 1024) <= device.shared_per_sm;
  } else {
    return false;
  }
}

/// Numbers of scratch memory that the kernels need.
template <mixer_shape M>
constexpr std::size_t few_numbers(std::size_t rows) {
  return 2 * rows * M.conv_dim();
}

/// The kernels' arguments. `convolved` is scratch, few_numbers() of them.
template <mixer_shape M, class T>
few_arguments<T> few_arguments_of(T const* zxbcdt, mixer_parameters<M, float const, space::device> const& p,
                                  T* convolved, T* g, float* squares, int sequences, int length) {
  return {.zxbcdt = zxbcdt,
          .convolved = convolved,
          .g = g,
          .squares = squares,
          .direction = {pointers_of(p.forward), pointers_of(p.backward)},
          .sequences = sequences,
          .length = length};
}

/// g before its norm, and squares [rows, 2, units], which sum up to a row's g^2, as launch_tensor leaves them.
/// few_fits() must hold; `convolves`: p.convolved has still to be made.
template <mixer_shape M, precision P>
void launch_few(context<P>& ctx, few_arguments<element<P>> const& p, bool convolves) {
  using Tr = traits<element<P>, M>;
  using F = few_scan_traits<Tr>;
  int const tasks = 2 * p.sequences * ((p.length + 3) / 4) * (Tr::conv_dim / 4);
  if (convolves)
    launch("mixer_core: convolution", few_conv_kernel<Tr>, {unsigned((tasks + 127) / 128), 128, 0, ctx.early()},
           ctx.stream(), p);
  int const tiles = (p.length + 15) / 16;
  dim3 const grid(unsigned(Tr::units), unsigned((tiles + F::row_tiles - 1) / F::row_tiles), unsigned(2 * p.sequences));
  launch("mixer_core: scan", few_scan_kernel<Tr>,
         {grid, F::threads, std::size_t(few_scan_layout<Tr>{tiles}.bytes), ctx.early()}, ctx.stream(), p);
}

}  // namespace dm2::cuda::detail::mixer_core
