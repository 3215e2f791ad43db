/// @file
/// Walks a scan's chunks: entering states, and gradients of leaving ones.
///
/// See backward_chunked.cuh.
#pragma once

#include <dm2/cuda/instructions/dynamic_shared.cuh>
#include <dm2/cuda/ssd/backward_chunked_block.cuh>
#include <dm2/cuda/ssd/backward_tiles.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::ssd {

/// A block of 4 warps walks one unit's chunks with the state in float registers, transposed [columns, N], each warp
/// having every fourth tile of 16 of N.
template <class Tr>
struct backward_walk_traits : Tr {
  static constexpr int threads = 128, owned = (Tr::depth + 3) / 4;
  static constexpr int rows = 0, columns = rows + 2 * ssd_tile * Tr::pitch;  ///< x and B, or dy and C, of two chunks
  static constexpr int decay = columns + 2 * ssd_tile * Tr::row_pitch;       ///< {c_t, dt_t}, of two chunks
  static constexpr int weight = decay + 2 * ssd_tile * 8;                    ///< of the tokens of two chunks
  static constexpr int bytes = weight + 2 * ssd_tile * 4;
  static constexpr int resident = Tr::steps * owned <= 8 ? 4 : 2;
};

/// A thread's place. Forward: from the first chunk to the last but one, state += dt_j exp(end - c_j) x_j B_j^T. For the
/// gradient: from the last to the second, gradient += exp(c_i) dy_i C_i^T.
template <class Tr>
struct backward_walk {
  using T = typename Tr::element;
  unsigned char* shared;
  int warp, lane;
  bool gradient;
  int unit, head, sequence, in_slice, chunks, length;
  T const *rows, *columns;  ///< the sequence's first token's
  int row_stride, column_stride;
  float const* dt;
  float rate;

  __device__ backward_walk(typename Tr::operands const& p, unsigned char* memory, int first, int chunks_)
      : shared{memory},
        warp{int(threadIdx.x) >> 5},
        lane{int(threadIdx.x) & 31},
        gradient{blockIdx.y == 1},
        unit{int(blockIdx.x) % (Tr::units * Tr::sizes::groups)},
        head{unit / Tr::slices},
        in_slice{int(blockIdx.x) / (Tr::units * Tr::sizes::groups)},
        chunks{chunks_},
        length{p.length} {
    using sizes = typename Tr::sizes;
    sequence = first + in_slice;
    std::size_t const row = std::size_t(sequence) * std::size_t(length);
    row_stride = gradient ? p.dy_stride : p.x_stride, column_stride = gradient ? p.c_stride : p.b_stride;
    rows = (gradient ? p.dy : p.x) + row * std::size_t(row_stride) + unit * Tr::width;
    columns = (gradient ? p.c : p.b) + row * std::size_t(column_stride) + head / sizes::per_group * sizes::state;
    dt = p.dt + row * sizes::heads;
    rate = p.a[sequence / p.set_size * sizes::heads + head] * log2_e;
  }
  /// The chunk of a step, and for the last step + 1 the one that only takes what was added up.
  [[nodiscard]] __device__ int chunk(int step) const { return gradient ? chunks - 1 - step : step; }
  [[nodiscard]] __device__ unsigned char* staged(int step) const {
    return shared + Tr::rows + (step & 1) * ssd_tile * Tr::pitch;
  }
  [[nodiscard]] __device__ unsigned char* staged_columns(int step) const {
    return shared + Tr::columns + (step & 1) * ssd_tile * Tr::row_pitch;
  }
  [[nodiscard]] __device__ float2* decay(int step) const {
    return reinterpret_cast<float2*>(shared + Tr::decay) + (step & 1) * ssd_tile;
  }
  [[nodiscard]] __device__ float* weight(int step) const {
    return reinterpret_cast<float*>(shared + Tr::weight) + (step & 1) * ssd_tile;
  }
  __device__ void copy(int step) const {
    int const t0 = chunk(step) * ssd_tile;
    copy_chunk<Tr::width, Tr::threads, Tr::slice>(rows + std::size_t(t0) * row_stride, row_stride, length - t0,
                                                  staged(step));
    copy_chunk<Tr::state, Tr::threads>(columns + std::size_t(t0) * column_stride, column_stride, length - t0,
                                       staged_columns(step));
  }
  /// dt of the lane's two tokens.
  [[nodiscard]] __device__ float2 steps(int step) const {
    return load_steps<typename Tr::sizes>(dt, head, chunk(step) * ssd_tile + 2 * lane, length);
  }
  /// One warp: a chunk's decays and its tokens' weights.
  __device__ void scan(int step, float2 steps) const {
    auto* const to = reinterpret_cast<float4*>(decay(step));
    auto* const weights = reinterpret_cast<float2*>(weight(step));
    scan_decays(steps, rate, lane, to, weights);
    if (gradient) weights[lane] = {exp2_fast(to[lane].x), exp2_fast(to[lane].z)};
  }
  /// The chunk's rows times their weights, in place.
  __device__ void scale(int step) const {
    constexpr int pieces = Tr::slice / 8;
    for (int i = int(threadIdx.x); i < ssd_tile * pieces; i += Tr::threads) {
      auto& v = *reinterpret_cast<uint4*>(staged(step) + i / pieces * Tr::pitch + i % pieces * 16);
      float const w = weight(step)[i / pieces];
      v = {scale_pair<T>(v.x, w), scale_pair<T>(v.y, w), scale_pair<T>(v.z, w), scale_pair<T>(v.w, w)};
    }
  }
};

template <class Tr>
using walk_registers = float[Tr::steps][Tr::owned][2][4];

/// f(the place among the warp's tiles of N, the tile) for each of them; places are constants once this is unrolled.
template <class Tr, class F>
__device__ inline void each_owned(int warp, F const& f) {
#pragma unroll
  for (int j = 0; j < Tr::owned; ++j)
    if (Tr::depth % 4 == 0 || j * 4 + warp < Tr::depth) f(j, j * 4 + warp);
}

/// state = exp(end) state + scaled rows^T columns.
template <class Tr>
__device__ inline void add_chunk(backward_walk<Tr> const& k, int step, walk_registers<Tr>& state) {
  using T = typename Tr::element;
  float const whole = exp2_fast(k.decay(step)[ssd_tile - 1].x);
#pragma unroll
  for (int m = 0; m < Tr::steps; ++m)
#pragma unroll
    for (int j = 0; j < Tr::owned; ++j) scale_rows(state[m][j], whole, whole);
  std::uint32_t const rows =
      shared_address(k.staged(step)) + std::uint32_t(fragment::right_operand(unsigned(k.lane), Tr::pitch));
  std::uint32_t const columns =
      shared_address(k.staged_columns(step)) + std::uint32_t(fragment::left_operand(unsigned(k.lane), Tr::row_pitch));
#pragma unroll
  for (int t = 0; t < Tr::tiles; ++t) {
    std::uint32_t a[Tr::steps][4];
#pragma unroll
    for (int m = 0; m < Tr::steps; ++m) load_matrix_transposed(a[m], rows + t * 16 * Tr::pitch + m * 32);
    each_owned<Tr>(k.warp, [&](int j, int d) {
      std::uint32_t b[4];
      load_matrix_transposed(b, columns + t * 16 * Tr::row_pitch + d * 32);
#pragma unroll
      for (int m = 0; m < Tr::steps; ++m) {
        mma<T>(state[m][j][0], a[m], b[0], b[1]);
        mma<T>(state[m][j][1], a[m], b[2], b[3]);
      }
    });
  }
}

/// All steps of a walk. Block (unit and sequence, 0: states, 1: their gradients).
template <class Tr>
__global__ void __launch_bounds__(Tr::threads, Tr::resident)
    backward_walk_kernel(typename Tr::operands p, backward_chunk_scratch s, int first, int chunks) {
  backward_walk<Tr> const k{p, dynamic_shared(), first, chunks};
  walk_registers<Tr> state = {};
  bool const scanner = k.warp == 0;
  int const count = chunks - 1;
  k.copy(0), commit_copies();
  float2 steps{0, 0};
  if (scanner) {
    k.scan(0, k.steps(0));
    if (count > 1) steps = k.steps(1);
  }
  unsigned char* const to = k.gradient ? s.leaving : s.entering;
#pragma unroll 1
  for (int step = 0; step < count; ++step) {
    wait_copies<0>();
    __syncthreads();  // the step's operands and weights are there, those of the step before are done with
    if (step + 1 < count) k.copy(step + 1);
    commit_copies();
    k.scale(step);
    __syncthreads();
    if (scanner && step + 1 < count) k.scan(step + 1, steps);
    if (scanner && step + 2 < count) steps = k.steps(step + 2);
    add_chunk(k, step, state);
    std::size_t const place = (std::size_t(k.in_slice) * std::size_t(chunks) + std::size_t(k.chunk(step + 1))) *
                                  (Tr::units * Tr::sizes::groups) +
                              std::size_t(k.unit);
    each_owned<Tr>(k.warp, [&](int j, int d) {
#pragma unroll
      for (int m = 0; m < Tr::steps; ++m)
        store_tile<typename Tr::element>(to + place * Tr::state_bytes + (d * Tr::steps + m) * fragment_bytes,
                                         state[m][j], k.lane);
    });
  }
}

}  // namespace dm2::cuda::detail::ssd
