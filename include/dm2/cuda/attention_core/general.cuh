/// @file
/// Attention, composed: for any shape, length and precision.
///
/// Kernels: angles, convolution with rotation, softmax attention tile by tile, whose products are float's or TF32's.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dm2::cuda::detail::attention_core {

/// Sizes of the composed attention. A block takes 64 queries of one head and 64 keys at a time, 4 x 4 scores a thread;
/// channels pass through shared memory 32 at a time, so that any head size fits.
template <attention_shape A>
struct general_traits {
  static constexpr int heads = A.heads, head_dim = A.head_dim, rotary = A.rotary, half = A.rotary / 2;
  static constexpr int width = A.width(), taps = A.d_conv;
  static constexpr int tile = 64, depth = 32, threads = 256;
  static constexpr int slabs = (head_dim + depth - 1) / depth;  ///< of `depth` channels
  /// Numbers of a slab's row and of a row of factors: 16 bytes more than whole 128, so that eight rows' lie apart.
  static constexpr int pitch = depth + 4, factor_pitch = tile + 4;
};

/// A thread's part of a tile in float: rows row(i) and columns column(j) of scores, channels channel(c) of sums of
/// rows.
struct float_tile_thread {
  static constexpr int threads = 256;
  static constexpr int rows = 4, columns = 4, channels = 2;  ///< channels of a slab of 32
  static constexpr int sharing = 16;                         ///< neighbouring lanes that have the same rows

  __device__ static int row(int i) { return int(threadIdx.x) / 16 * 4 + i; }
  __device__ static int column(int j) { return int(threadIdx.x) % 16 + 16 * j; }
  __device__ static int channel(int c) { return c / 2 * 32 + int(threadIdx.x) % 16 * 2 + c % 2; }
};

/// The same in TF32, as mma_tf32 has its sums: a warp takes 16 rows.
struct tf32_tile_thread {
  static constexpr int threads = 128;
  static constexpr int rows = 2, columns = 16, channels = 8;
  static constexpr int sharing = 4;

  __device__ static int row(int i) { return int(threadIdx.x) / 32 * 16 + 8 * i + int(threadIdx.x) % 32 / 4; }
  __device__ static int column(int j) { return j / 2 * 8 + int(threadIdx.x) % 4 * 2 + j % 2; }
  __device__ static int channel(int c) { return column(c); }
};

/// Sizes of the kernels that multiply. Heads of more than 128 channels find no registers for TF32's sums.
template <attention_shape A, bool Tf32>
struct tile_traits : general_traits<A> {
  static constexpr bool tf32 = Tf32 && A.head_dim <= 128;
  using thread = std::conditional_t<tf32, tf32_tile_thread, float_tile_thread>;
  static constexpr int threads = thread::threads, rows = thread::rows, columns = thread::columns;
  static constexpr int channels = general_traits<A>::slabs * thread::channels;  ///< of a thread's sums of rows
};

/// Row t: cosines, then sines of t 10000^(-2 i / rotary). In double, since float loses 1e-5 at token 197.
template <class Tr>
__global__ void rotary_table_kernel(float* table, int length) {
  std::size_t const at = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (at >= std::size_t(length) * Tr::half) return;
  int const t = int(at / Tr::half), i = int(at % Tr::half);
  double sine, cosine;
  sincos(t * pow(10000.0, -2.0 * i / Tr::rotary), &sine, &cosine);
  table[std::size_t(t) * Tr::rotary + i] = float(cosine);
  table[std::size_t(t) * Tr::rotary + Tr::half + i] = float(sine);
}

/// Token t of a channel after the convolution; qkv is the channel's number at the token, `t` rows after the first.
template <class Tr, class T>
__device__ inline float convolved(T const* qkv, int channel, int t, float const* conv, float const* bias) {
  if constexpr (Tr::taps == 0) {
    return to_float(qkv[channel]);
  } else {
    float sum = bias[channel];
#pragma unroll
    for (int k = 0; k < Tr::taps; ++k) {
      int const back = Tr::taps - 1 - k;
      if (t >= back)
        sum = fmaf(conv[channel * Tr::taps + k],
                   to_float(qkv[std::ptrdiff_t{channel} - std::ptrdiff_t{back} * (3 * Tr::width)]), sum);
    }
    return sum;
  }
}

/// out = q, k, v [count, 3 width] after convolution and rotation; a thread one number.
template <class Tr, class T>
__global__ void __launch_bounds__(Tr::threads)
    inputs_kernel(T const* qkv, float const* conv, float const* bias, float const* table, T* out, std::size_t count,
                  int length) {
  std::size_t const at = std::size_t{blockIdx.x} * Tr::threads + threadIdx.x, row = at / (3 * Tr::width);
  if (row >= count) return;
  int const channel = int(at % (3 * Tr::width)), in_head = channel % Tr::head_dim;
  int const t = int(row % std::size_t(length));
  T const* const here = qkv + row * (3 * Tr::width);
  float value = convolved<Tr>(here, channel, t, conv, bias);
  if constexpr (Tr::rotary != 0) {
    if (channel < 2 * Tr::width && in_head < Tr::rotary) {
      bool const first = in_head < Tr::half;  // of the two numbers that turn together
      float const other = convolved<Tr>(here, first ? channel + Tr::half : channel - Tr::half, t, conv, bias);
      float const* const angle = table + std::size_t(t) * Tr::rotary + in_head % Tr::half;
      float const turned = other * angle[Tr::half];
      value = first ? fmaf(value, angle[0], -turned) : fmaf(value, angle[0], turned);
    }
  }
  out[at] = from_float<T>(value);
}

/// Tokens of one head: the first one's first channel, and the numbers from token to token.
template <class T>
struct head_tokens {
  T* data;
  int stride;
};

/// What a block works on: `tile` tokens of one head of one sequence, the tile fastest; qkv [B L, 3 width].
template <class Tr, class T>
struct head_place {
  int tile, head;
  std::size_t first;  ///< the sequence's first row
  head_tokens<T const> q, k, v;

  __device__ head_place(T const* qkv, int length, int tiles)
      : tile{int(blockIdx.x % unsigned(tiles)) * Tr::tile},
        head{int(blockIdx.x / unsigned(tiles) % Tr::heads)},
        first{std::size_t{blockIdx.x / unsigned(tiles) / Tr::heads} * std::size_t(length)},
        q{qkv + first * (3 * Tr::width) + head * Tr::head_dim, 3 * Tr::width},
        k{q.data + Tr::width, q.stride},
        v{k.data + Tr::width, q.stride} {}
};

/// What passes through shared memory.
template <class Tr>
struct slabs {
  alignas(16) float a[Tr::tile][Tr::pitch];
  alignas(16) float b[Tr::tile][Tr::pitch];
};

/// slab[i][c] = token first + i, channel c0 + c; zeros outside. Floats come four at a time where they lie so.
template <class Tr, class T>
__device__ inline void load_slab(head_tokens<T const> from, int first, int length, int c0,
                                 float (&slab)[Tr::tile][Tr::pitch]) {
  if constexpr (std::is_same_v<T, float> && Tr::head_dim % 4 == 0) {
    if (from.stride % 4 == 0 && reinterpret_cast<std::uintptr_t>(from.data) % 16 == 0) {
      constexpr int pieces = Tr::depth / 4;
#pragma unroll
      for (int at = int(threadIdx.x); at < Tr::tile * pieces; at += Tr::threads) {
        int const i = at / pieces, c = at % pieces * 4;
        bool const inside = first + i < length && c0 + c < Tr::head_dim;
        packet<float, 4> numbers{};
        if (inside) numbers = load_packet<4>(from.data + std::ptrdiff_t{first + i} * from.stride + c0 + c);
        store_packet(&slab[i][c], numbers);
      }
      return;
    }
  }
  for (int at = int(threadIdx.x); at < Tr::tile * Tr::depth; at += Tr::threads) {
    int const i = at / Tr::depth, c = at % Tr::depth;
    bool const inside = first + i < length && c0 + c < Tr::head_dim;
    slab[i][c] = inside ? to_float(from.data[std::ptrdiff_t{first + i} * from.stride + c0 + c]) : 0.f;
  }
}

/// sum += a b, in the order of the numbers.
__device__ inline void add_products(float& sum, packet<float, 4> const& a, packet<float, 4> const& b) {
#pragma unroll
  for (int k = 0; k < 4; ++k) sum = fmaf(a.v[k], b.v[k], sum);
}

/// A fragment of 16 rows of a warp and 8 columns from k on, in TF32.
template <int Rows, int Pitch>
__device__ inline void load_rows_tf32(float const (&rows)[Rows][Pitch], int k, std::uint32_t (&a)[4]) {
  int const warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  load_matrix(a, shared_address(&rows[16 * warp + lane % 16][k + lane / 16 * 4]));
  round_to_tf32(a);
}

/// The columns 2 n and 2 n + 1 of a thread's sums += a b.
template <int N>
__device__ inline void add_fragment(float (&out)[2][N], int n, std::uint32_t const (&a)[4], std::uint32_t b0,
                                    std::uint32_t b1) {
  float c[4]{out[0][2 * n], out[0][2 * n + 1], out[1][2 * n], out[1][2 * n + 1]};
  mma_tf32(c, a, b0, b1);
  out[0][2 * n] = c[0], out[0][2 * n + 1] = c[1], out[1][2 * n] = c[2], out[1][2 * n + 1] = c[3];
}

/// out += a slab's products, rows of s.a times rows of s.b.
template <class Tr>
__device__ inline void add_scores(slabs<Tr> const& s, float (&out)[Tr::rows][Tr::columns]) {
  if constexpr (Tr::tf32) {
    int const lane = int(threadIdx.x) % 32;
#pragma unroll 2
    for (int k = 0; k < Tr::depth; k += 8) {
      std::uint32_t a[4];
      load_rows_tf32(s.a, k, a);
#pragma unroll
      for (int n = 0; n < Tr::tile / 8; n += 2) {
        std::uint32_t b[4];
        load_matrix(b, shared_address(&s.b[8 * n + lane / 16 * 8 + lane % 8][k + lane / 8 % 2 * 4]));
        round_to_tf32(b);
        add_fragment(out, n, a, b[0], b[1]), add_fragment(out, n + 1, a, b[2], b[3]);
      }
    }
  } else {
#pragma unroll 1  // more would spill, or leave a multiprocessor one block
    for (int c = 0; c < Tr::depth; c += 4) {
      packet<float, 4> left[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) left[i] = load_packet<4>(&s.a[Tr::thread::row(i)][c]);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        auto const right = load_packet<4>(&s.b[Tr::thread::column(j)][c]);
#pragma unroll
        for (int i = 0; i < 4; ++i) add_products(out[i][j], left[i], right);
      }
    }
  }
}

/// out[i][j] = the thread's row i of a's tile from `row` on, times its column j of b's from `column` on, over a head's
/// channels.
template <class Tr, class T>
__device__ inline void tile_product(head_tokens<T const> a, int row, head_tokens<T const> b, int column, int length,
                                    slabs<Tr>& s, float (&out)[Tr::rows][Tr::columns]) {
#pragma unroll
  for (int i = 0; i < Tr::rows; ++i)
#pragma unroll
    for (int j = 0; j < Tr::columns; ++j) out[i][j] = 0.f;
  for (int slab = 0; slab < Tr::slabs; ++slab) {
    __syncthreads();
    load_slab<Tr>(a, row, length, slab * Tr::depth, s.a);
    load_slab<Tr>(b, column, length, slab * Tr::depth, s.b);
    __syncthreads();
    add_scores<Tr>(s, out);
  }
}

/// The channels of slab n of a thread's sums += factors times the slab.
template <class Tr>
__device__ inline void add_weighted(float const (&factors)[Tr::tile][Tr::factor_pitch],
                                    float const (&slab)[Tr::tile][Tr::pitch], int n,
                                    float (&out)[Tr::rows][Tr::channels]) {
  if constexpr (Tr::tf32) {
    int const g = int(threadIdx.x) % 32 / 4, t = int(threadIdx.x) % 4;
#pragma unroll 2
    for (int k = 0; k < Tr::tile; k += 8) {
      std::uint32_t a[4];
      load_rows_tf32(factors, k, a);
#pragma unroll
      for (int f = 0; f < Tr::depth / 8; ++f) {
        std::uint32_t b[2]{__float_as_uint(slab[k + t][8 * f + g]), __float_as_uint(slab[k + t + 4][8 * f + g])};
        round_to_tf32(b);
        add_fragment(out, Tr::depth / 8 * n + f, a, b[0], b[1]);
      }
    }
  } else {
#pragma unroll 2
    for (int k = 0; k < Tr::tile; k += 4) {
      packet<float, 4> left[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) left[i] = load_packet<4>(&factors[Tr::thread::row(i)][k]);
#pragma unroll
      for (int l = 0; l < 4; ++l) {
        auto const right = load_packet<2>(&slab[k + l][Tr::thread::channel(0)]);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          out[i][2 * n] = fmaf(left[i].v[l], right.v[0], out[i][2 * n]);
          out[i][2 * n + 1] = fmaf(left[i].v[l], right.v[1], out[i][2 * n + 1]);
        }
      }
    }
  }
}

/// out[i][c] += sum over k of factors[row i][k] rows[first + k], channel c. Begins and ends with a barrier.
template <class Tr, class T>
__device__ inline void add_product(float const (&factors)[Tr::tile][Tr::factor_pitch], head_tokens<T const> rows,
                                   int first, int length, float (&slab)[Tr::tile][Tr::pitch],
                                   float (&out)[Tr::rows][Tr::channels]) {
#pragma unroll
  for (int n = 0; n < Tr::slabs; ++n) {
    __syncthreads();
    load_slab<Tr>(rows, first, length, n * Tr::depth, slab);
    __syncthreads();
    add_weighted<Tr>(factors, slab, n, out);
  }
  __syncthreads();
}

/// Writes number(i, c) to the thread's tokens from `tile` on, those that there are.
template <class Tr, class T, class Number>
__device__ inline void write_tokens(head_tokens<T> to, int tile, int length, Number const& number) {
#pragma unroll
  for (int i = 0; i < Tr::rows; ++i)
#pragma unroll
    for (int c = 0; c < Tr::channels; ++c) {
      int const t = tile + Tr::thread::row(i), channel = Tr::thread::channel(c);
      if (t < length && channel < Tr::head_dim)
        to.data[std::ptrdiff_t{t} * to.stride + channel] = from_float<T>(number(i, c));
    }
}

/// The greatest of `most` and a query's scores of a tile's keys, of which there are `keys`: finite, since the first is.
template <class Tr>
__device__ inline float greatest_score(float most, float const (&scores)[Tr::columns], int keys) {
#pragma unroll
  for (int j = 0; j < Tr::columns; ++j)
    if (Tr::thread::column(j) < keys) most = fmaxf(most, scores[j]);
  return max_over_lanes<Tr::thread::sharing>(most);
}

/// A thread's queries on their way through the keys.
template <class Tr>
struct score_rows {
  float most[Tr::rows], total[Tr::rows] = {};  ///< the greatest of a query's scores, and the sum of exp(score - most)
  float out[Tr::rows][Tr::channels] = {};      ///< sum of exp(score - most) v
};

/// scores to weights exp(score - most) in shared memory; what was summed before is scaled to the new maximum.
template <class Tr>
__device__ inline void soften(score_rows<Tr>& s, float (&scores)[Tr::rows][Tr::columns], int keys, float scale,
                              float (&weights)[Tr::tile][Tr::factor_pitch]) {
#pragma unroll
  for (int i = 0; i < Tr::rows; ++i) {
    float const most = greatest_score<Tr>(s.most[i], scores[i], keys);
    float const shrink = exp2f((s.most[i] - most) * scale);
    float sum = 0;
#pragma unroll
    for (int j = 0; j < Tr::columns; ++j) {
      int const key = Tr::thread::column(j);
      float const weight = key < keys ? exp2f((scores[i][j] - most) * scale) : 0.f;
      weights[Tr::thread::row(i)][key] = weight;
      sum += weight;
    }
    s.total[i] = s.total[i] * shrink + sum_over_lanes<Tr::thread::sharing>(sum);
    s.most[i] = most;
#pragma unroll
    for (int c = 0; c < Tr::channels; ++c) s.out[i][c] *= shrink;
  }
}

/// y = softmax(q k^T / sqrt(d)) v; `scale` is log2(e) / sqrt(d). Block: query tile, head, sequence, the tile fastest.
template <class Tr, class T>
__global__ void __launch_bounds__(Tr::threads) general_kernel(T const* qkv, T* y, int length, int tiles, float scale) {
  __shared__ slabs<Tr> shared;
  alignas(16) __shared__ float weights[Tr::tile][Tr::factor_pitch];
  head_place<Tr, T> const at{qkv, length, tiles};
  score_rows<Tr> s;
#pragma unroll
  for (int i = 0; i < Tr::rows; ++i) s.most[i] = -INFINITY;
  for (int key = 0; key < length; key += Tr::tile) {
    float scores[Tr::rows][Tr::columns];
    tile_product(at.q, at.tile, at.k, key, length, shared, scores);
    soften<Tr>(s, scores, length - key, scale, weights);
    add_product<Tr>(weights, at.v, key, length, shared.a, s.out);
  }
  head_tokens<T> const to{y + at.first * Tr::width + at.head * Tr::head_dim, Tr::width};
  write_tokens<Tr>(to, at.tile, length, [&](int i, int c) { return s.out[i][c] / s.total[i]; });
}

/// What lies between the kernels.
template <attention_shape A, class T>
struct general_scratch {
  T* qkv;        ///< [B L, 3 H d], convolved and turned
  float* table;  ///< [L, rotary]

  general_scratch(arena& s, std::size_t count, int length)
      : qkv{s.template take<T>(count * 3 * A.width())}, table{s.template take<float>(std::size_t(length) * A.rotary)} {}
};

/// y = softmax(q k^T / sqrt(d)) v for each head, not causal; q, k, v = conv(qkv), q and k turned by their position,
/// rounded to the context's element.
///
/// Shapes   qkv [B L, 3 H d], channels [q, k, v], each head after head; y [B L, H d]; `length` = L, any L >= 1.
/// Writes   y (=), which does not overlap qkv. The scores are not stored.
/// Throws   shape_error if the rows disagree; nothing is written then.
template <attention_shape A, precision P>
void launch_general(context<P>& ctx, rows<element<P> const, 3 * A.width(), space::device> qkv,
                    attention_parameters<A, float const, space::device> const& p,
                    rows<element<P>, A.width(), space::device> y, int length) {
  using T = element<P>;
  using traits = general_traits<A>;
  int const count = whole_sequences("attention_core.qkv", qkv.count, length);
  require_extent("attention_core.y rows", y.count, qkv.count);
  if (!ctx.reserve(planned_bytes<general_scratch<A, T>>(qkv.count, length)) || count == 0) return;
  arena_scope const scope{ctx.shared()};
  general_scratch<A, T> const s{ctx.shared(), qkv.count, length};
  if constexpr (traits::rotary != 0) {
    launch("attention_core: angles", rotary_table_kernel<traits>,
           {blocks_for(std::size_t(length) * traits::half, 128), 128}, ctx.stream(), s.table, length);
  }
  launch("attention_core: convolution", inputs_kernel<traits, T>,
         {blocks_for(qkv.size(), traits::threads), traits::threads}, ctx.stream(), qkv.data, p.conv.data,
         p.conv_bias.data, s.table, s.qkv, qkv.count, length);
  int const tiles = (length + traits::tile - 1) / traits::tile;
  unsigned const blocks = unsigned(count) * unsigned(traits::heads) * unsigned(tiles);
  float const scale = float(1.4426950408889634 / std::sqrt(double(traits::head_dim)));
  using tiled = tile_traits<A, P == precision::tf32>;
  launch("attention_core", general_kernel<tiled, T>, {blocks, tiled::threads}, ctx.stream(), s.qkv, y.data, length,
         tiles, scale);
}

}  // namespace dm2::cuda::detail::attention_core
