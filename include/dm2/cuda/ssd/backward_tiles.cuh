/// @file
/// Tiles of 16 x 16 tokens in the scan's tensor-core backward.
///
/// What both forms take of one, then what the chunks of backward_chunked.cuh do with them. Below the diagonal: scores'
/// decay, their gradient, and the sums over rows from which the gradient of the decays comes; then the tiles on the
/// diagonal. See backward_quadratic.cuh for the equations.
#pragma once

#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/ssd/tile.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::ssd {

/// The tiles of 16 tokens below the diagonal of a triangle with `tiles` on the diagonal.
__host__ __device__ constexpr int tiles_below(int tiles) { return tiles * (tiles - 1) / 2; }

/// A tile below the diagonal, and its number in the order of rows.
struct tile_place {
  int row, column, index;
};

/// Operands of a tile's rows, as A fragments.
template <int Steps>
__device__ inline void load_rows(std::uint32_t (&a)[Steps][4], std::uint32_t at) {
#pragma unroll
  for (int s = 0; s < Steps; ++s) load_matrix(a[s], at + s * 32);
}

/// w += a b^T for 16 rows b in memory.
template <class T, int Steps>
__device__ inline void multiply_rows(float (&w)[2][4], std::uint32_t const (&a)[Steps][4], std::uint32_t b) {
#pragma unroll
  for (int s = 0; s < Steps; ++s) {
    std::uint32_t v[4];
    load_matrix(v, b + s * 32);
    mma<T>(w[0], a[s], v[0], v[1]);
    mma<T>(w[1], a[s], v[2], v[3]);
  }
}

/// Accumulators of a tile, rounded, to its place.
template <class T>
__device__ inline void store_tile(unsigned char* tile, float const (&v)[2][4], int lane) {
#pragma unroll
  for (int m = 0; m < 4; ++m)
    *reinterpret_cast<std::uint32_t*>(tile + m * 128 + lane * 4) =
        pack<T>(v[m >> 1][2 * (m & 1)], v[m >> 1][2 * (m & 1) + 1]);
}

/// Operands of a tile's rows.
template <class Tr>
struct tile_rows {
  std::uint32_t dy[Tr::steps][4];
  float c[2];  ///< of rows g and g + 8

  template <class Block>
  __device__ void load(Block const& k, int unit, int row) {
    load_rows(dy, shared_address(k.dy(unit) + row * 16 * Tr::pitch) + k.row_operand(Tr::pitch));
    auto const v = k.vectors(unit);
    c[0] = v.c[row * 16 + fragment::row(unsigned(k.lane))], c[1] = v.c[row * 16 + fragment::row(unsigned(k.lane)) + 8];
  }
};

/// A tile below the diagonal of a unit: its decayed scores, without the decay up to the end of the tile's columns; adds
/// to its gradient; this lane's part of the sums of Gamma over rows g and g + 8.
template <class Block, class Tr>
__device__ inline float2 tile_below(Block const& k, int unit, tile_place const& at, tile_rows<Tr> const& rows,
                                    float (&gradient)[2][4]) {
  using T = typename Tr::element;
  int const t = fragment::quarter(unsigned(k.lane));
  auto const v = k.vectors(unit);
  float w[2][4] = {};
  multiply_rows<T>(w, rows.dy, shared_address(k.x(unit) + at.column * 16 * Tr::pitch) + k.column_operand(Tr::pitch));
  unsigned char* const scores = k.shared + (at.index + at.row) * fragment_bytes;
  std::uint32_t s[4];
  load_matrix(s, shared_address(scores) + k.lane * 16);
  float const end = v.c[at.column * 16 + 15];
  float const decay[2] = {exp2_fast(rows.c[0] - end), exp2_fast(rows.c[1] - end)};
  float gamma[2] = {};
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    float2 const rest = *reinterpret_cast<float2 const*>(v.rest_step + at.column * 16 + 8 * n + 2 * t);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float2 const score = unpack<T>(s[2 * n + half]);
      float const first = w[n][2 * half] * rest.x, second = w[n][2 * half + 1] * rest.y;
      gradient[n][2 * half] = fmaf(decay[half], first, gradient[n][2 * half]);
      gradient[n][2 * half + 1] = fmaf(decay[half], second, gradient[n][2 * half + 1]);
      gamma[half] = fmaf(score.x, first, fmaf(score.y, second, gamma[half]));
      *reinterpret_cast<std::uint32_t*>(scores + k.at.decayed + (2 * n + half) * 128 + k.lane * 4) =
          pack<T>(score.x * decay[half], score.y * decay[half]);
    }
  }
  return {gamma[0] * decay[0], gamma[1] * decay[1]};
}

/// The sums over a tile's 16 rows from their lanes' parts, to `rows`.
__device__ inline void store_row_sums(float* rows, float2 parts, int lane) {
  int const t = fragment::quarter(unsigned(lane));
  float const v[2] = {parts.x, parts.y};
  float sum = fold<2, 1>(v, lane);
  sum += __shfl_xor_sync(~0u, sum, 2);
  if (t < 2) rows[fragment::row(unsigned(lane)) + 8 * t] = sum;
}

/// For a tile on the diagonal, Gamma_ij of which comes as quadrants of accumulators: rows 0 to 7 of columns 0 to 7,
/// rows 8 to 15 of columns 0 to 7 and of columns 8 to 15. This lane's part, over its rows, of the sums over i >= t > j
/// for the t of its four columns. The sums over j are a product with a triangle of ones, Gamma in two parts of 8 bits.
__device__ inline float4 rectangle_parts(float2 const (&gamma)[3], int lane) {
  using T = __nv_bfloat16;
  int const g = fragment::row(unsigned(lane)), t = fragment::quarter(unsigned(lane));
  std::uint32_t const ones = pack<T>(1, 1), below = pack<T>(2 * t < g ? 1.f : 0.f, 2 * t + 1 < g ? 1.f : 0.f);
  float r[2][4] = {};
  float2 left[3] = {gamma[0], gamma[1], gamma[2]};
#pragma unroll
  for (int part = 0; part < 2; ++part) {
    std::uint32_t v[3];
#pragma unroll
    for (int q = 0; q < 3; ++q) {
      v[q] = pack<T>(left[q].x, left[q].y);
      float2 const taken = unpack<T>(v[q]);
      left[q].x -= taken.x, left[q].y -= taken.y;
    }
    std::uint32_t const a[4] = {v[0], v[1], 0, v[2]};
    mma<T>(r[0], a, below, 0);
    mma<T>(r[1], a, ones, below);
  }
  bool const first = 2 * t <= g, second = 2 * t + 1 <= g;
  return {(first ? r[0][0] : 0.f) + r[0][2], (second ? r[0][1] : 0.f) + r[0][3], first ? r[1][2] : 0.f,
          second ? r[1][3] : 0.f};
}

/// The tile of the warp on the diagonal: as tile_below, but every decay by itself, and the decayed scores are times dt
/// and have D on their diagonal: dx whole, but for the other tiles. To shared memory the tile's sums of Gamma over
/// rectangles and x . U. Returns this lane's part of the sum of dy . x.
template <class Block>
__device__ inline float tile_on_diagonal(Block const& k, int unit, float (&gradient)[2][4]) {
  using Tr = typename Block::traits;
  using T = typename Tr::element;
  int const g = fragment::row(unsigned(k.lane)), t = fragment::quarter(unsigned(k.lane)), t0 = k.warp * 16;
  auto const v = k.vectors(unit);
  tile_rows<Tr> rows;
  rows.load(k, unit, k.warp);
  float w[2][4] = {};
  multiply_rows<T>(w, rows.dy, shared_address(k.x(unit) + t0 * Tr::pitch) + k.column_operand(Tr::pitch));
  std::uint32_t s[4];
  load_matrix(s, shared_address(k.tile(0, k.warp, k.warp)) + k.lane * 16);
  unsigned char* const decayed = k.tile(k.at.decayed, k.warp, k.warp) + k.lane * 4;
  float const direct = k.p.d[k.parameter(unit)];
  float2 gamma[3], output[3];
  float skip = 0;
#pragma unroll
  for (int q = 0; q < 3; ++q) {  // quadrants
    int const n = q >> 1, half = (q + 1) >> 1;
    float2 const from = *reinterpret_cast<float2 const*>(v.c + t0 + 8 * n + 2 * t);
    float2 const step = *reinterpret_cast<float2 const*>(v.dt + t0 + 8 * n + 2 * t);
    float2 const score = unpack<T>(s[2 * n + half]);
    float2 decay{exp2_fast(rows.c[half] - from.x), exp2_fast(rows.c[half] - from.y)};
    float2 add{0, 0};
    if (n == half) {  // a choice, not a factor: above the diagonal the exponential may be infinite
      decay = {2 * t <= g ? decay.x : 0.f, 2 * t + 1 <= g ? decay.y : 0.f};
      add = {2 * t == g ? direct : 0.f, 2 * t + 1 == g ? direct : 0.f};
      skip += 2 * t == g ? w[n][2 * half] : 2 * t + 1 == g ? w[n][2 * half + 1] : 0.f;
    }
    float const x = decay.x * w[n][2 * half], y = decay.y * w[n][2 * half + 1];
    gradient[n][2 * half] = fmaf(step.x, x, gradient[n][2 * half]);
    gradient[n][2 * half + 1] = fmaf(step.y, y, gradient[n][2 * half + 1]);
    output[q] = {score.x * x, score.y * y};
    gamma[q] = {output[q].x * step.x, output[q].y * step.y};
    *reinterpret_cast<std::uint32_t*>(decayed + (2 * n + half) * 128) =
        pack<T>(fmaf(score.x * decay.x, step.x, add.x), fmaf(score.y * decay.y, step.y, add.y));
  }
  *reinterpret_cast<std::uint32_t*>(decayed + 2 * 128) = 0;
  float4 const sums = rectangle_parts(gamma, k.lane);
  float const parts[8] = {
      sums.x, output[0].x + output[1].x, sums.y, output[0].y + output[1].y, sums.z, output[2].x, sums.w, output[2].y};
  float const sum = fold<8, 16>(parts, k.lane);
  int const column = (k.lane >> 4) * 8 + 2 * t + (k.lane >> 3 & 1);
  k.own_sums(unit)[(g & 1) * k.at.rows() + t0 + column] = sum;
  return skip;
}

/// 16 rows of `Width` columns from shared memory, of `Columns` there, to global memory, where they are inside the
/// sequence.
template <int Width, int Columns = Width, class T>
__device__ inline void write_rows(unsigned char const* from, T* to, int stride, int inside, int lane) {
  constexpr int pieces = Width / 8, pitch = 2 * Columns + 16;
  __syncwarp();
#pragma unroll
  for (int first = 0; first < 16 * pieces; first += 32) {
    int const i = first + lane, row = i / pieces, piece = i % pieces;
    if (row < inside && row < 16)
      *reinterpret_cast<uint4*>(to + (row * stride + piece * 8)) =
          *reinterpret_cast<uint4 const*>(from + (row * pitch + piece * 16));
  }
}

/// Where a lane reads a tile, so that of load_matrix's registers two neighbours are a right operand whose columns the
/// tile's rows are, and load_matrix_transposed's are a left operand: no moves bring them into order.
__device__ inline std::uint32_t tile_columns(unsigned char const* tile, int lane) {
  return shared_address(tile) + std::uint32_t(fragment::transposed_left_operand(unsigned(lane)));
}

/// The transpose of a tile, as an A fragment.
__device__ inline void load_transposed(std::uint32_t (&a)[4], unsigned char const* tile, int lane) {
  load_matrix_transposed(a, tile_columns(tile, lane));
}

}  // namespace dm2::cuda::detail::ssd
