/// @file
/// A warpgroup's rows in project-add-norm for a Hopper.
///
/// Constants, arguments, and how a block goes through memory; then the first product, residual addition and norm, which
/// leave the normed rows in registers.
#pragma once

#include <dm2/cuda/device/properties.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/tma.cuh>
#include <dm2/cuda/instructions/wgmma.cuh>
#include <dm2/cuda/project_add_norm/arguments.cuh>
#include <dm2/cuda/tile/fragment.cuh>
#include <dm2/cuda/tile/ring.cuh>
#include <dm2/cuda/tile/squares.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::project_add_norm {

/// T the operands' type, D channels of the residual stream, K those of g (0: there is no output projection), N those of
/// y (0: y are the normed rows), U units whose sums of squares scale each half of g (0: g is taken as it is). Clusters
/// of two blocks that read their weights together took 163 us where single ones take 124 (Tiny, 50,432 rows).
template <class T, int D, int K, int N, int U>
struct hopper_traits {
  using element = T;
  static constexpr int dim = D, inner = K, wide = N, units = U;
  /// Warpgroups that multiply, each 64 rows of a tile; one more copies. Three, of 192 rows, took 124 us where two take
  /// 120 (Tiny, 50,432 rows): fewer stages are left to copy ahead into.
  static constexpr int groups = 2;
  static constexpr int rows = 64 * groups, threads = 128 * (groups + 1);
  /// Registers of a thread that multiplies, and of one that copies: 64 K of them are the multiprocessor's.
  static constexpr int registers = 240, copier_registers = 24;
  static constexpr int part = D < 192 ? D : 192;              ///< columns of one of the first product's instructions
  static constexpr int parts = D / part, numbers = part / 2;  ///< sums that a thread has of a part
  static constexpr int depth = 64;                            ///< columns of an operand in a stage: 128 bytes
  static constexpr int steps = (K + 63) / depth;              ///< of the first product
  static constexpr int result = N == 0 ? D : N;               ///< columns of y
  static constexpr int chunk = N == 0 ? 64 : 72;  ///< of them at a time: 72 divides them in the published networks
  static constexpr int chunks = (result + chunk - 1) / chunk;

  /// A stage is 64 columns of a tile's g and of the output projection's weights, or some columns of the residual rows,
  /// 32 a box, or the input projection's weights of a chunk.
  static constexpr int box_bytes = 64 * 128;  ///< 64 rows, of one warpgroup
  static constexpr int stage_bytes = (rows + D) * 128;
  static constexpr int boxes = D / 32;  ///< of residual columns, of a warpgroup
  static constexpr int boxes_at_once = stage_bytes / (groups * box_bytes);
  static constexpr int box_stages = (boxes + boxes_at_once - 1) / boxes_at_once;
  static constexpr int in_tiles = (D + depth - 1) / depth;  ///< of 64 of the residual's columns, zeros behind the last
  static constexpr int chunk_bytes = N == 0 ? 0 : in_tiles * chunk * depth * 2;
  static constexpr int staging_bytes = 64 * chunk * 2;  ///< y's chunk on its way out, of a warpgroup
  static constexpr int alignment = 1024, limit = most_shared_bytes - 256;
  static constexpr int stages = (limit - alignment - groups * staging_bytes) / stage_bytes;
  static constexpr int bytes = alignment + stages * stage_bytes + groups * staging_bytes;

  static constexpr bool possible = is_half<T> && (D == 96 || D == 192 || D == 384) && K % 8 == 0 && N % 8 == 0 &&
                                   (K != 0 || N != 0) && (U == 0 || (K != 0 && K % 128 == 0));
  static_assert(!possible || (stages >= 3 && chunk_bytes <= stage_bytes));
};

/// The maps' tiles are what comes as one copy: g 64 columns of a tile's rows, out 64 of a part's weight rows, in 64 of
/// a chunk's weight rows, before and after 32 of a warpgroup's rows, y a chunk of a warpgroup's rows.
template <class T>
struct hopper_arguments {
  tensor_map g, out, in, before, after, y;
  arguments<T> plain;
};

/// One thread: fills stage after stage, in the order in which the others read them.
template <class Tr>
__device__ inline void copy_hopper(hopper_arguments<typename Tr::element> const& p, stage_ring<Tr> ring) {
  int const tiles = (p.plain.count + Tr::rows - 1) / Tr::rows;
  for (int tile = int(blockIdx.x); tile < tiles; tile += int(gridDim.x)) {
    int const first = tile * Tr::rows;
    for (int step = 0; step < Tr::steps; ++step, ring.advance()) {
      ring.claim(Tr::stage_bytes);
      ring.copy(0, p.g, first, step * Tr::depth);
      for (int part = 0; part < Tr::parts; ++part)
        ring.copy((Tr::rows + part * Tr::part) * 128, p.out, part * Tr::part, step * Tr::depth);
    }
    for (int box = 0; box < Tr::boxes; box += Tr::boxes_at_once, ring.advance()) {
      int const here = min(Tr::boxes_at_once, Tr::boxes - box);
      ring.claim(here * Tr::groups * Tr::box_bytes);
      for (int i = 0; i < here * Tr::groups; ++i)
        ring.copy(i * Tr::box_bytes, p.before, first + i % Tr::groups * 64, (box + i / Tr::groups) * 32);
    }
    if constexpr (Tr::wide != 0)
      for (int j = 0; j < Tr::chunks; ++j, ring.advance()) {
        ring.claim(Tr::chunk_bytes);
        for (int k = 0; k < Tr::in_tiles; ++k) ring.copy(k * Tr::chunk * 128, p.in, j * Tr::chunk, k * Tr::depth);
      }
  }
}

/// A thread that multiplies: its place, and where its warpgroup's rows begin.
template <class Tr>
struct hopper_place {
  int group, warp, lane;   ///< warpgroup, warp in it, lane in that
  unsigned char* memory;   ///< the stages
  unsigned char* staging;  ///< the warpgroup's
  int first;               ///< row

  /// The first row of the thread's two, 8 apart, in its warpgroup; and in the matrices.
  [[nodiscard]] __device__ int local() const { return warp * 16 + fragment::row(lane); }
  [[nodiscard]] __device__ int row() const { return first + local(); }
  [[nodiscard]] __device__ bool leads() const { return warp == 0 && lane == 0; }
  /// Waits for the warpgroup.
  __device__ void meet() const {
    __syncwarp();
    barrier<128>(group);
  }
};

/// acc += g out^T over `count` steps.
template <class Tr>
__device__ __forceinline__ void first_steps(float (&acc)[Tr::parts][Tr::numbers], stage_ring<Tr>& ring,
                                            hopper_place<Tr> const& at, int count) {
  stage_ring<Tr> before = ring;
  for (int step = 0; step < count; ++step) {
    ring.wait();
    std::uint64_t const a = product_operand(ring.bytes() + std::uint32_t(at.group * Tr::box_bytes));
    std::uint64_t const b = product_operand(ring.bytes() + std::uint32_t(Tr::rows * 128));
    fence_products();
#pragma unroll
    for (int k = 0; k < Tr::depth / 16; ++k)
#pragma unroll
      for (int part = 0; part < Tr::parts; ++part)
        multiply_wide<typename Tr::element>(acc[part], further(a, k), further(b, k + part * (Tr::part * 128 / 32)));
    commit_products();
    if (step != 0) {
      wait_products<1>();
      before.release(at.lane);
    }
    before = ring;
    ring.advance();
  }
  wait_products<0>();
#pragma unroll
  for (int part = 0; part < Tr::parts; ++part) hold(acc[part]);
  before.release(at.lane);
}

/// By what a thread's two rows of acc are multiplied when a half of g has been added, [half][row]: the factor of that
/// half's norm over the next one's. A lane of the four that share the rows makes one factor from its sum of squares.
template <class Tr>
__device__ inline void read_factors(float (&factors)[2][2], arguments<typename Tr::element> const& p,
                                    hopper_place<Tr> const& at) {
  int const row = at.row() + fragment::quarter(at.lane) / 2 * 8;
  float const mine = factor_of_direction<Tr::inner / 2, Tr::units>(p.squares, row, at.lane % 2, p.count);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float const first = __shfl_sync(~0u, mine, fragment::row(at.lane) * 4 + i * 2);
    factors[1][i] = __shfl_sync(~0u, mine, fragment::row(at.lane) * 4 + i * 2 + 1);
    factors[0][i] = __fdividef(first, factors[1][i]);
  }
}

/// acc = g out^T, each half of g times its norm's factor.
template <class Tr>
__device__ __forceinline__ void first_product(float (&acc)[Tr::parts][Tr::numbers],
                                              arguments<typename Tr::element> const& p, stage_ring<Tr>& ring,
                                              hopper_place<Tr> const& at) {
  if constexpr (Tr::units == 0) {
    first_steps<Tr>(acc, ring, at, Tr::steps);
  } else {
    float factors[2][2];  // of a half and a row, when that half has been added
    read_factors<Tr>(factors, p, at);
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      first_steps<Tr>(acc, ring, at, Tr::steps / 2);
      float const f[2] = {half == 0 ? factors[0][0] : factors[1][0], half == 0 ? factors[0][1] : factors[1][1]};
#pragma unroll
      for (int part = 0; part < Tr::parts; ++part)
#pragma unroll
        for (int i = 0; i < Tr::numbers; ++i) acc[part][i] *= f[i / 2 % 2];
    }
  }
}

/// acc += two tiles of 8 columns of `box`, a warpgroup's rows of 32 floats, which become the sum; their squares' sums.
/// All is read before anything is written, so that the reads are under way together.
template <class Tr>
__device__ __forceinline__ void add_columns(float (&acc)[Tr::parts][Tr::numbers], float (&sums)[2], unsigned char* box,
                                            int tile, hopper_place<Tr> const& at) {
  float2 x[4];
  float2* place[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    int const row = at.local() + i % 2 * 8,
              piece = ((tile + i / 2) % 4 * 2 + fragment::quarter(at.lane) / 2) ^ (row % 8);
    place[i] = reinterpret_cast<float2*>(box + row * 128 + piece * 16 + at.lane % 2 * 8);
    x[i] = *place[i];
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float* const v = &acc[tile / (Tr::part / 8)][tile % (Tr::part / 8) * 4 + i * 2];
    v[0] += x[i].x, v[1] += x[i].y;
    if constexpr (Tr::inner != 0) *place[i] = {v[0], v[1]};
    sums[i % 2] += v[0] * v[0] + v[1] * v[1];
  }
}

/// acc += bias.
template <class Tr>
__device__ __forceinline__ void add_out_bias(float (&acc)[Tr::parts][Tr::numbers], float const* bias, int lane) {
#pragma unroll
  for (int i = 0; i < Tr::dim / 4; ++i) {
    float2 const b = *reinterpret_cast<float2 const*>(bias + i / 2 * 8 + fragment::column(lane));
    float* const v = &acc[i / (Tr::part / 4)][i % (Tr::part / 4) * 2];
    v[0] += b.x, v[1] += b.y;
  }
}

/// One thread: starts writing a stage's columns of the new residual, box `first` being the first of them, and waits
/// until the stage before has been read.
template <class Tr>
__device__ inline void store_residual(tensor_map const& after, stage_ring<Tr> const& ring, hopper_place<Tr> const& at,
                                      int first) {
  for (int i = 0; i < Tr::boxes_at_once && first + i < Tr::boxes; ++i)
    store_box(after, at.first, (first + i) * 32,
              ring.bytes() + std::uint32_t((i * Tr::groups + at.group) * Tr::box_bytes));
  commit_stores();
  wait_stores<1>();
}

/// acc += before + bias, which is the new residual and is written; sums, of a thread's columns of its two rows squared.
template <class Tr>
__device__ __forceinline__ void add_residual(float (&acc)[Tr::parts][Tr::numbers], float (&sums)[2],
                                             hopper_arguments<typename Tr::element> const& p, stage_ring<Tr>& ring,
                                             hopper_place<Tr> const& at) {
  if (Tr::inner != 0 && p.plain.out_bias != nullptr) add_out_bias<Tr>(acc, p.plain.out_bias, at.lane);
  stage_ring<Tr> before = ring;
#pragma unroll
  for (int s = 0; s < Tr::box_stages; ++s) {
    int const first = s * Tr::boxes_at_once;
    ring.wait();
    unsigned char* const stage = at.memory + ring.stage * Tr::stage_bytes + at.group * Tr::box_bytes;
#pragma unroll
    for (int i = 0; i < Tr::boxes_at_once * 2; ++i)
      if (first + i / 2 < Tr::boxes)
        add_columns<Tr>(acc, sums, stage + i / 2 * Tr::groups * Tr::box_bytes, first * 4 + i * 2, at);
    fence_copies();
    if constexpr (Tr::inner != 0) {
      at.meet();
      if (at.leads()) store_residual(p.after, ring, at, first);
      if (s != 0) before.release(at.lane);
      before = ring;
    } else {
      ring.release(at.lane);
    }
    ring.advance();
  }
  if constexpr (Tr::inner != 0) {
    if (at.leads()) wait_stores<0>();
    before.release(at.lane);
  }
}

/// a = the rows of acc normed, rounded: an operand of products.
template <class Tr>
__device__ __forceinline__ void norm_rows(std::uint32_t (&a)[Tr::dim / 16][4],
                                          float const (&acc)[Tr::parts][Tr::numbers], float const (&sums)[2],
                                          arguments<typename Tr::element> const& p, hopper_place<Tr> const& at) {
  using T = typename Tr::element;
  float rstd[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    rstd[half] = rsqrtf(sum_over_row(sums[half]) * (1.f / Tr::dim) + p.eps);
    int const row = at.row() + half * 8;
    if (p.rstd != nullptr && row < p.count && fragment::leads_row(at.lane)) p.rstd[row] = rstd[half];
  }
#pragma unroll
  for (int n = 0; n < Tr::dim / 16; ++n) {
    int const k = Tr::dim >= 192 && n < 9 ? 8 - n : n;
    if (n % 4 == 0) keep_order();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float const* const v = &acc[k / (Tr::part / 16)][k % (Tr::part / 16) * 8 + i * 4];
      float2 const w = *reinterpret_cast<float2 const*>(p.norm + k * 16 + i * 8 + fragment::column(at.lane));
      a[k][i * 2] = pack<T>(v[0] * rstd[0] * w.x, v[1] * rstd[0] * w.y);
      a[k][i * 2 + 1] = pack<T>(v[2] * rstd[1] * w.x, v[3] * rstd[1] * w.y);
    }
  }
}

}  // namespace dm2::cuda::detail::project_add_norm
