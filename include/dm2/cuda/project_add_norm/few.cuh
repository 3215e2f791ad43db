/// @file
/// Project-add-norm for few rows, in two kernels.
///
/// The first one projects and adds, the second one norms and projects.
///
/// With few rows nothing is busy, and what counts is how often a thread waits for memory on the way through. Blocks are
/// small, one or two a multiprocessor, and ask for all they need at once: weights before the kernel ahead has ended,
/// straight into the registers of the warp that multiplies them, where no other warp of the block wants them.
///
/// A lane loads 16 bytes of a row, 8 columns of every 32: lane t of four takes columns 8 t to 8 t + 7 on both sides, of
/// which mma.sync's two steps of 16 take four each, an order of summation as good as its own.
#pragma once

#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/early_start.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/project_add_norm/arguments.cuh>
#include <dm2/cuda/rms_norm.cuh>
#include <dm2/cuda/tile/fragment.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/tile/squares.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <cstddef>

namespace dm2::cuda::detail::project_add_norm {

/// The smallest multiple of 8 from `least` on that divides `whole`, a multiple of 8 itself.
constexpr int divisor_from(int whole, int least) {
  int n = least < 8 ? 8 : (least + 7) / 8 * 8;
  while (n < whole && whole % n != 0) n += 8;
  return n;
}

/// Constants of the first kernel, as tensor_traits has them; RowTiles: tiles of 16 rows of a block. Its warps have all
/// of its rows and columns, and share K.
template <class T, int D, int K, int U, int RowTiles>
struct few_add_traits {
  using element = T;
  static constexpr int dim = D, inner = K, units = U, row_tiles = RowTiles, rows = 16 * RowTiles;
  static constexpr int columns = divisor_from(D, RowTiles == 1 ? D / 8 : D / 4), tiles = columns / 8;
  static constexpr int warps = RowTiles == 1 ? 12 : 8,
                       threads = 32 * warps;                                ///< an even number: half for each half of g
  static constexpr int steps = K / 32, each = (steps + warps - 1) / warps;  ///< of 32 columns of g; most of a warp
  static constexpr int pitch = columns % 16 == 0 ? columns + 8 : columns;   ///< floats, against bank conflicts
  static constexpr int quads = rows * columns / 4, quads_each = (quads + threads - 1) / threads;
  static constexpr std::size_t bytes = std::size_t(warps * rows * pitch + 2 * rows) * sizeof(float);
  static constexpr bool possible = is_half<T> && D % 8 == 0 && K % (U == 0 ? 32 : 64) == 0 &&
                                   4 * tiles * (each + row_tiles) <= (RowTiles == 1 ? 128 : 176);  ///< registers
};

/// A lane's 16 bytes of columns [32 step, 32 step + 32) of a row.
template <class T>
__device__ inline uint4 row_piece(T const* matrix, int row, int width, int step) {
  int const lane = int(threadIdx.x) % 32;
  return *reinterpret_cast<uint4 const*>(matrix + std::ptrdiff_t(row) * width + step * 32 + fragment::column<8>(lane));
}

/// c += a b over 32 columns, a from a lane's pieces of rows g and g + 8.
template <class T>
__device__ inline void multiply_pieces(float (&c)[4], float (&d)[4], uint4 const& upper, uint4 const& lower,
                                       uint4 const& b) {
  mma<T>(c, {upper.x, lower.x, upper.y, lower.y}, b.x, b.y);
  mma<T>(d, {upper.z, lower.z, upper.w, lower.w}, b.z, b.w);
}

/// What a thread of the first kernel needs beside the product, asked for before it: its quads of four neighbouring
/// columns of what the product is added to, and one row's and half's sums of squares.
template <class Tr>
struct few_addends {
  float4 quad[Tr::quads_each];
  float squares[Tr::units == 0 ? 1 : Tr::units];
  int first, column;  ///< row and column of the block

  static __device__ int row_of(int i) { return i / (Tr::columns / 4); }
  static __device__ int column_of(int i) { return i % (Tr::columns / 4) * 4; }
  /// Where quad number i of the block lies; negative where there is none.
  [[nodiscard]] __device__ std::ptrdiff_t place(int i, int count) const {
    bool const valid = i < Tr::quads && first + row_of(i) < count;
    return valid ? std::ptrdiff_t(first + row_of(i)) * Tr::dim + column + column_of(i) : -1;
  }
  __device__ void load_bias(float const* bias) {
#pragma unroll
    for (int j = 0; j < Tr::quads_each; ++j) {
      quad[j] = float4{0, 0, 0, 0};
      if (bias != nullptr)
        quad[j] = *reinterpret_cast<float4 const*>(bias + column + column_of(int(threadIdx.x) + j * Tr::threads));
    }
  }
  __device__ void load(arguments<typename Tr::element> const& p) {
#pragma unroll
    for (int j = 0; j < Tr::quads_each; ++j) {
      std::ptrdiff_t const at = place(int(threadIdx.x) + j * Tr::threads, p.count);
      float4 const x = at < 0 ? float4{0, 0, 0, 0} : *reinterpret_cast<float4 const*>(p.before + at);
      quad[j].x += x.x, quad[j].y += x.y, quad[j].z += x.z, quad[j].w += x.w;
    }
    static_assert(2 * Tr::rows <= Tr::threads);
    if (Tr::units != 0 && int(threadIdx.x) < 2 * Tr::rows) {
      int const row = min(first + int(threadIdx.x) / 2, p.count - 1);
#pragma unroll
      for (int u = 0; u < Tr::units; ++u)
        squares[u] = p.squares[(std::ptrdiff_t(row) * 2 + int(threadIdx.x) % 2) * Tr::units + u];
    }
  }
  /// Each half's factor of the block's rows, 1 / root mean square, to rho [rows, 2]. A barrier must follow.
  __device__ void write_factors(float* rho) const {
    if (Tr::units == 0 || int(threadIdx.x) >= 2 * Tr::rows) return;
    rho[threadIdx.x] = factor_of_squares<Tr::inner / 2>(sum_of_units<Tr::units>(squares));
  }
};

/// v + quad number i of the block's product, from every warp's part.
template <class Tr>
__device__ inline float4 few_sum(float const* parts, float const* rho, int i, float4 v) {
  int const row = few_addends<Tr>::row_of(i);
  float const* const at = parts + row * Tr::pitch + few_addends<Tr>::column_of(i);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float4 sum{0, 0, 0, 0};
#pragma unroll
    for (int w = 0; w < Tr::warps / 2; ++w) {
      float4 const x = *reinterpret_cast<float4 const*>(at + (half * Tr::warps / 2 + w) * Tr::rows * Tr::pitch);
      sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w;
    }
    float const scale = Tr::units == 0 ? 1.f : rho[2 * row + half];
    v.x = fmaf(sum.x, scale, v.x), v.y = fmaf(sum.y, scale, v.y);
    v.z = fmaf(sum.z, scale, v.z), v.w = fmaf(sum.w, scale, v.w);
  }
  return v;
}

/// The warp's part of g out^T for the block's rows from `first` on, `steps` times 32 columns of g from step `step` on,
/// to `part`.
template <class Tr>
__device__ inline void few_multiply(arguments<typename Tr::element> const& p, int first, int step, int steps,
                                    uint4 const (&w)[Tr::each][Tr::tiles], float* part) {
  int const lane = int(threadIdx.x) % 32, g = fragment::row(lane);
  uint4 upper[Tr::row_tiles][Tr::each], lower[Tr::row_tiles][Tr::each];
#pragma unroll
  for (int m = 0; m < Tr::row_tiles; ++m)
#pragma unroll
    for (int i = 0; i < Tr::each; ++i) {
      int const row = first + 16 * m + g, at = i < steps ? step + i : 0;  // the weights of what is too much are zeros
      upper[m][i] = row_piece(p.g, min(row, p.count - 1), Tr::inner, at);
      lower[m][i] = row_piece(p.g, min(row + 8, p.count - 1), Tr::inner, at);
    }
  part += g * Tr::pitch + fragment::column(lane);
#pragma unroll
  for (int m = 0; m < Tr::row_tiles; ++m, part += 16 * Tr::pitch) {
    float acc[Tr::tiles][4] = {};
#pragma unroll
    for (int i = 0; i < Tr::each; ++i)
#pragma unroll
      for (int n = 0; n < Tr::tiles; ++n)
        multiply_pieces<typename Tr::element>(acc[n], acc[n], upper[m][i], lower[m][i], w[i][n]);
#pragma unroll
    for (int n = 0; n < Tr::tiles; ++n) {
      *reinterpret_cast<float2*>(part + 8 * n) = make_float2(acc[n][0], acc[n][1]);
      *reinterpret_cast<float2*>(part + 8 * Tr::pitch + 8 * n) = make_float2(acc[n][2], acc[n][3]);
    }
  }
}

/// after = before + g out^T + bias. Grid (column tiles, row tiles).
template <class Tr>
__global__ void __launch_bounds__(Tr::threads)
    few_add_kernel(__grid_constant__ arguments<typename Tr::element> const p) {
  let_next_start();
  float* const parts = reinterpret_cast<float*>(dynamic_shared());
  float* const rho = parts + Tr::warps * Tr::rows * Tr::pitch;
  int const lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  int const step = Tr::steps * warp / Tr::warps, steps = Tr::steps * (warp + 1) / Tr::warps - step;
  few_addends<Tr> addends;
  addends.first = int(blockIdx.y) * Tr::rows, addends.column = int(blockIdx.x) * Tr::columns;
  uint4 w[Tr::each][Tr::tiles];
#pragma unroll
  for (int i = 0; i < Tr::each; ++i)
#pragma unroll
    for (int n = 0; n < Tr::tiles; ++n)
      w[i][n] = i < steps ? row_piece(p.out, addends.column + 8 * n + fragment::row(lane), Tr::inner, step + i)
                          : uint4{0, 0, 0, 0};
  addends.load_bias(p.out_bias);
  wait_for_previous();
  addends.load(p);
  few_multiply<Tr>(p, addends.first, step, steps, w, parts + warp * Tr::rows * Tr::pitch);
  addends.write_factors(rho);
  __syncthreads();
#pragma unroll
  for (int j = 0; j < Tr::quads_each; ++j) {
    int const i = int(threadIdx.x) + j * Tr::threads;
    std::ptrdiff_t const at = addends.place(i, p.count);
    if (at >= 0) *reinterpret_cast<float4*>(p.after + at) = few_sum<Tr>(parts, rho, i, addends.quad[j]);
  }
}

/// Constants of the second kernel. A warp has 16 or 32 columns of y, and all of the block's rows, which the block norms
/// for itself.
template <class T, int D, int N, int RowTiles>
struct few_project_traits {
  using element = T;
  static constexpr int dim = D, wide = N, row_tiles = RowTiles, rows = 16 * RowTiles;
  static constexpr int warps = 8, threads = 32 * warps;
  static constexpr int pairs = RowTiles == 1 || D > 192 ? 1 : 2;  ///< of tiles of 8 columns, of a warp
  static constexpr int columns = 16 * pairs * warps, steps = D / 32, quads = (D + 63) / 64;
  static constexpr int pitch =
      D * 2 + (D % 64 == 0 ? 64 : 0);                   ///< bytes: 64 more than whole 128, against bank conflicts
  static constexpr int chains = RowTiles == 1 ? 2 : 1;  ///< sums of a result: shorter chains of products
  static constexpr std::size_t bytes = std::size_t(rows) * pitch;
  static constexpr bool possible = is_half<T> && D % 32 == 0 && N % 4 == 0 && pairs * steps <= 12 &&
                                   row_tiles * quads * 4 + 8 * pairs * steps <= 160;  ///< registers
};

/// The block's rows from `first` on, which may be negative, normed, to shared memory: half a warp a row. Zeros where
/// there is no row. All threads; a barrier must follow.
template <class Tr>
__device__ inline void few_norm(arguments<typename Tr::element> const& p, int first, float4 const* norm,
                                unsigned char* normed) {
  using T = typename Tr::element;
  int const lane = int(threadIdx.x) % 32, row = int(threadIdx.x) / 16;  // of each tile of 16
  float4 v[Tr::row_tiles][Tr::quads];
#pragma unroll
  for (int m = 0; m < Tr::row_tiles; ++m)
#pragma unroll
    for (int j = 0; j < Tr::quads; ++j) {
      int const r = first + 16 * m + row, c = j * 64 + lane % 16 * 4;
      v[m][j] = float4{0, 0, 0, 0};
      if (r >= 0 && r < p.count && c < Tr::dim)
        v[m][j] = *reinterpret_cast<float4 const*>(p.before + std::ptrdiff_t(r) * Tr::dim + c);
    }
#pragma unroll
  for (int m = 0; m < Tr::row_tiles; ++m) {
    float sum = 0;
#pragma unroll
    for (int j = 0; j < Tr::quads; ++j)
      sum += v[m][j].x * v[m][j].x + v[m][j].y * v[m][j].y + v[m][j].z * v[m][j].z + v[m][j].w * v[m][j].w;
    float const rstd = rsqrtf(sum_over_half_warp(sum) * (1.f / Tr::dim) + p.eps);
    int const r = first + 16 * m + row;
    if (p.rstd != nullptr && blockIdx.x == 0 && lane % 16 == 0 && r >= 0 && r < p.count) p.rstd[r] = rstd;
#pragma unroll
    for (int j = 0; j < Tr::quads; ++j) {
      int const c = j * 64 + lane % 16 * 4;
      if (c < Tr::dim)
        *reinterpret_cast<uint2*>(normed + (16 * m + row) * Tr::pitch + 2 * c) =
            uint2{pack<T>(v[m][j].x * rstd * norm[j].x, v[m][j].y * rstd * norm[j].y),
                  pack<T>(v[m][j].z * rstd * norm[j].z, v[m][j].w * rstd * norm[j].w)};
    }
  }
}

/// What a lane needs of parameters: its warp's columns of y are those from `column` on. Two tiles' columns are mixed so
/// that a lane's four results of a row are neighbours.
template <class Tr>
struct few_project_weights {
  uint4 w[2 * Tr::pairs][Tr::steps];
  float4 norm[Tr::quads], bias[Tr::pairs];

  __device__ few_project_weights(arguments<typename Tr::element> const& p, int column) {
    int const lane = int(threadIdx.x) % 32, g = fragment::row(lane), t = fragment::quarter(lane);
#pragma unroll
    for (int n = 0; n < 2 * Tr::pairs; ++n)
#pragma unroll
      for (int k = 0; k < Tr::steps; ++k)
        w[n][k] = row_piece(p.in, min(column + n / 2 * 16 + g / 2 * 4 + n % 2 * 2 + g % 2, Tr::wide - 1), Tr::dim, k);
#pragma unroll
    for (int j = 0; j < Tr::quads; ++j)
      norm[j] = *reinterpret_cast<float4 const*>(p.norm + min(j * 64 + lane % 16 * 4, Tr::dim - 4));
#pragma unroll
    for (int n = 0; n < Tr::pairs; ++n) {
      bias[n] = float4{0, 0, 0, 0};
      if (p.in_bias != nullptr)
        bias[n] = *reinterpret_cast<float4 const*>(p.in_bias + min(column + 16 * n + 4 * t, Tr::wide - 4));
    }
  }
};

/// y of a tile of 16 rows that begins at `normed`: the lane's four columns of each pair of tiles, rounded, in rows g
/// and g + 8.
template <class Tr>
__device__ inline void few_project_tile(uint2 (&y)[Tr::pairs][2], few_project_weights<Tr> const& in,
                                        unsigned char const* normed) {
  using T = typename Tr::element;
  int const lane = int(threadIdx.x) % 32;
  float acc[2 * Tr::pairs][Tr::chains][4] = {};
  unsigned char const* const from = normed + fragment::row(lane) * Tr::pitch + fragment::quarter(lane) * 16;
#pragma unroll
  for (int k = 0; k < Tr::steps; ++k) {
    uint4 const upper = *reinterpret_cast<uint4 const*>(from + k * 64);
    uint4 const lower = *reinterpret_cast<uint4 const*>(from + 8 * Tr::pitch + k * 64);
#pragma unroll
    for (int n = 0; n < 2 * Tr::pairs; ++n)
      multiply_pieces<T>(acc[n][0], acc[n][Tr::chains - 1], upper, lower, in.w[n][k]);
  }
#pragma unroll
  for (int pair = 0; pair < Tr::pairs; ++pair)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float v[4]{in.bias[pair].x, in.bias[pair].y, in.bias[pair].z, in.bias[pair].w};
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int c = 0; c < Tr::chains; ++c) v[i] += acc[2 * pair + i / 2][c][2 * half + i % 2];
      y[pair][half] = uint2{pack<T>(v[0], v[1]), pack<T>(v[2], v[3])};
    }
}

/// y = RMSNorm(before) in^T + bias. Grid (column tiles, row tiles).
template <class Tr>
__global__ void __launch_bounds__(Tr::threads)
    few_project_kernel(__grid_constant__ arguments<typename Tr::element> const p) {
  let_next_start();
  unsigned char* const normed = dynamic_shared();
  int const lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  int const first = int(blockIdx.y) * Tr::rows, column = (int(blockIdx.x) * Tr::warps + warp) * 16 * Tr::pairs;
  few_project_weights<Tr> const in{p, column};
  wait_for_previous();
  few_norm<Tr>(p, first, in.norm, normed);
  __syncthreads();
  if (column >= Tr::wide) return;
#pragma unroll
  for (int m = 0; m < Tr::row_tiles; ++m) {
    uint2 y[Tr::pairs][2];
    few_project_tile<Tr>(y, in, normed + 16 * m * Tr::pitch);
#pragma unroll
    for (int pair = 0; pair < Tr::pairs; ++pair)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int const row = first + 16 * m + fragment::row(lane, half), at = column + 16 * pair + fragment::column<4>(lane);
        if (row < p.count && at < Tr::wide)
          *reinterpret_cast<uint2*>(p.y + std::ptrdiff_t(row) * Tr::wide + at) = y[pair][half];
      }
  }
}

/// Whether there are kernels for these sizes in blocks of RowTiles tiles of 16 rows. K, N: 0 where there is no such
/// product.
template <class T, int D, int K, int N, int U, int RowTiles>
inline constexpr bool few_possible = (K == 0 || few_add_traits<T, D, K, U, RowTiles>::possible) &&
                                     (N == 0 || few_project_traits<T, D, N, RowTiles>::possible);

/// The tiles of 16 rows of a block that do `count` rows: 1, with no more than two blocks of Tiny's size a
/// multiprocessor, or 4, which read the weights a quarter as often, with no more than one; 0: this is not for so many
/// rows, or these sizes. On an H100, Tiny's sizes, 197 rows 4.5 us for 8.0 through cuBLASLt, 394 rows 5.8 for 8.1, 788
/// rows 8.5 for 8.8 with 4 tiles, 3,152 rows 19.3 for 13.7; Small's 197 rows 9.3 for 10.0, 394 rows 17 for 11.
template <class T, int D, int K, int N, int U>
int few_row_tiles(device_properties const& device, std::size_t count) {
  auto const fits = [&](std::size_t rows, std::size_t splits, std::size_t each) {
    return (count + rows - 1) / rows * splits * D <= 192 * each * std::size_t(device.multiprocessors);
  };
  if (count == 0) return 0;
  if (few_possible<T, D, K, N, U, 1> && fits(16, 8, 2)) return 1;
  if (few_possible<T, D, K, N, U, 4> && fits(64, 4, 1)) return 4;
  return 0;
}

/// Whether every address is a multiple of what the kernels read or write there at once.
template <class T>
bool few_aligned(arguments<T> const& p) {
  auto const whole = [](auto const*... at) { return (packets_at<16 / int(sizeof(*at))>(at) && ...); };
  return whole(p.g, p.out, p.out_bias, p.before, p.after, p.norm, p.in, p.in_bias) && packets_at<4>(p.y);
}

/// The first kernel: p.after = p.before + g out^T + bias.
template <int D, int K, int U, int RowTiles, precision P>
void launch_few_add(context<P>& ctx, arguments<element<P>> const& p) {
  using Tr = few_add_traits<element<P>, D, K, U, RowTiles>;
  unsigned const tiles = unsigned((p.count - 1) / Tr::rows + 1);
  launch("project_add", few_add_kernel<Tr>, {dim3(D / Tr::columns, tiles), Tr::threads, Tr::bytes, ctx.early()},
         ctx.stream(), p);
}

/// The second kernel: y = RMSNorm(p.before) in^T + bias.
template <int D, int N, int RowTiles, precision P>
void launch_few_project(context<P>& ctx, arguments<element<P>> const& p) {
  using Tr = few_project_traits<element<P>, D, N, RowTiles>;
  unsigned const tiles = unsigned((p.count - 1) / Tr::rows + 1);
  launch("norm_project", few_project_kernel<Tr>,
         {dim3((N - 1) / Tr::columns + 1, tiles), Tr::threads, Tr::bytes, ctx.early()}, ctx.stream(), p);
}

template <int D, int K, int N, int U, int RowTiles, precision P>
void launch_few(context<P>& ctx, arguments<element<P>> p) {
  using T = element<P>;
  static_assert(few_possible<T, D, K, N, U, RowTiles>);
  if constexpr (K != 0) {
    launch_few_add<D, K, U, RowTiles>(ctx, p);
    p.before = p.after;
  }
  if constexpr (N != 0) {
    launch_few_project<D, N, RowTiles>(ctx, p);
  } else {
    std::size_t const count = std::size_t(p.count);
    rms_norm(ctx, rows<float const, D, space::device>{p.before, count}, block<float const, space::device, D>{p.norm},
             double(p.eps), rows<T, D, space::device>{p.y, count}, p.rstd);
  }
}

/// The kernels, where they are the ones to take, on this device and for so many rows; else false.
template <int D, int K, int N, int U, precision P>
bool try_few(context<P>& ctx, arguments<element<P>> const& p) {
  using T = element<P>;
  int const row_tiles = few_row_tiles<T, D, K, N, U>(ctx.device(), std::size_t(p.count));
  if (row_tiles == 0 || !few_aligned(p)) return false;
  if (!ctx.reserve(0)) return true;
  if constexpr (few_possible<T, D, K, N, U, 1>)
    if (row_tiles == 1) launch_few<D, K, N, U, 1>(ctx, p);
  if constexpr (few_possible<T, D, K, N, U, 4>)
    if (row_tiles == 4) launch_few<D, K, N, U, 4>(ctx, p);
  return true;
}

}  // namespace dm2::cuda::detail::project_add_norm
