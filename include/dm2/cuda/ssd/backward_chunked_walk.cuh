/// @file
/// Walks a scan's chunks: entering states, and gradients of leaving ones.
///
/// See backward_chunked.cuh. A block has one, two or four units, a team of four warps for each: they share B or C,
/// which is copied once. One barrier a chunk: in the time between two the products of a chunk are computed, the rows of
/// the next are multiplied by their weights, each by the thread that copied it, and those of the one after it are on
/// their way.
#pragma once

#include <dm2/cuda/instructions/dynamic_shared.cuh>
#include <dm2/cuda/ssd/backward_chunked_block.cuh>
#include <dm2/cuda/ssd/backward_tiles.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::ssd {

/// A team of 4 warps walks one unit's chunks with the state in float registers, transposed [columns, N], each warp
/// having every fourth tile of 16 of N. Units of a block are of one group.
template <class Tr, int Teams = 1>
struct backward_walk_traits : Tr {
  static constexpr int teams = Teams, team_threads = 128, threads = Teams * team_threads;
  static constexpr int owned = (Tr::depth + 3) / 4;
  static constexpr int all_units = Tr::units * Tr::sizes::groups;
  static constexpr int stages = 3;       ///< chunks whose operands are there or on their way
  static constexpr int weight_sets = 8;  ///< chunks whose weights are there
  static constexpr int row_bytes = ssd_tile * Tr::pitch, column_bytes = ssd_tile * Tr::row_pitch;
  static constexpr int rows = 0;  ///< x or dy of a team's unit, `stages` times, then the next team's
  static constexpr int columns = rows + Teams * stages * row_bytes;  ///< B or C, `stages` times
  static constexpr int weight = columns + stages * column_bytes;     ///< chunk_weights of each team
  static constexpr int bytes = weight + Teams * weight_sets * (ssd_tile + 1) * 4;
  /// Blocks of a multiprocessor: 16 warps of 128 registers, or 8 where a state takes more than 64 of them.
  static constexpr int resident = std::max(1, (Tr::steps * owned <= 8 ? 512 : 256) / threads);
  static_assert(Tr::units % Teams == 0);
};

/// What each of a chunk's tokens weighs in the state behind the chunk, and what is left there of the state before it;
/// step i's are in set i % weight_sets.
template <class Tr>
struct chunk_weights {
  float of_token[Tr::weight_sets][ssd_tile];
  float of_state[Tr::weight_sets];
};

/// What a block walks: units, counted in blocks of them over a slice's sequences, and whether it is for the gradient.
struct walk_place {
  int block;
  bool gradient;
};

/// A thread's place. Forward: from the first chunk to the last but one, state += dt_j exp(end - c_j) x_j B_j^T. For the
/// gradient: from the last to the second, gradient += exp(c_i) dy_i C_i^T. Step i is the walk's i-th chunk.
template <class Tr>
struct backward_walk {
  using T = typename Tr::element;
  unsigned char* shared;
  unsigned char* own;  ///< rows of the team's unit
  chunk_weights<Tr>& weights;
  int warp, lane, thread;  ///< warp and thread: of the team
  bool gradient;
  int unit, head, sequence, in_slice, chunks, length;
  T const *rows, *columns;  ///< the sequence's first token's
  int row_stride, column_stride;
  float const* dt;
  float rate;

  __device__ backward_walk(typename Tr::operands const& p, unsigned char* memory, int first, int chunks_,
                           walk_place place)
      : shared{memory},
        own{memory + Tr::rows + team() * Tr::stages * Tr::row_bytes},
        weights{reinterpret_cast<chunk_weights<Tr>*>(memory + Tr::weight)[team()]},
        warp{int(threadIdx.x) >> 5 & 3},
        lane{int(threadIdx.x) & 31},
        thread{int(threadIdx.x) % Tr::team_threads},
        gradient{place.gradient},
        unit{place.block % (Tr::all_units / Tr::teams) * Tr::teams + team()},
        head{unit / Tr::slices},
        in_slice{place.block / (Tr::all_units / Tr::teams)},
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
  [[nodiscard]] __device__ static int team() { return int(threadIdx.x) / Tr::team_threads; }
  /// The steps: the last chunk's state enters none.
  [[nodiscard]] __device__ int count() const { return chunks - 1; }
  /// The chunk of a step, and for the last step + 1 the one that only takes what was added up.
  [[nodiscard]] __device__ int chunk(int step) const { return gradient ? chunks - 1 - step : step; }
  [[nodiscard]] __device__ unsigned char* staged(int stage) const { return own + stage * Tr::row_bytes; }
  [[nodiscard]] __device__ unsigned char* staged_columns(int stage) const {
    return shared + Tr::columns + stage * Tr::column_bytes;
  }
  /// Starts the copies of a step's operands, if there is such a step.
  __device__ void copy(int step, int stage) const {
    if (step < count()) {
      int const t0 = chunk(step) * ssd_tile;
      copy_chunk<Tr::width, Tr::team_threads, Tr::slice>(rows + std::size_t(t0) * row_stride, row_stride, length - t0,
                                                         staged(stage), thread);
      copy_chunk<Tr::state, Tr::threads>(columns + std::size_t(t0) * column_stride, column_stride, length - t0,
                                         staged_columns(stage));
    }
    commit_copies();
  }
  /// dt of the lane's two tokens.
  [[nodiscard]] __device__ float2 steps(int step) const {
    if (step >= count()) return {0, 0};
    return load_steps<typename Tr::sizes>(dt, head, chunk(step) * ssd_tile + 2 * lane, length);
  }
  /// One warp: a step's weights.
  __device__ void weigh(int step, float2 steps) const {
    int const set = step % Tr::weight_sets;
    lane_decays const c = sum_decays(steps, rate, lane);
    reinterpret_cast<float2*>(weights.of_token[set])[lane] =
        gradient ? float2{exp2_fast(c.first), exp2_fast(c.second)} : weights_at_end(c, steps);
    if (lane == 0) weights.of_state[set] = exp2_fast(c.total);
  }
  /// The step's rows that the thread has copied, times their weights, in place.
  __device__ void scale(int step, int stage) const {
    using pieces = chunk_pieces<Tr::slice, Tr::team_threads>;
    pieces const mine{thread};
    if (!mine.any()) return;
    float const* const weight = weights.of_token[step % Tr::weight_sets] + mine.row;
#pragma unroll
    for (int i = 0; i < ssd_tile; i += pieces::each) {
      float const w = weight[i];
#pragma unroll
      for (int n = 0; n < pieces::count; n += pieces::lanes) {
        auto& v = *reinterpret_cast<uint4*>(staged(stage) + mine.at() + i * pieces::pitch + n * 16);
        v = {scale_pair<T>(v.x, w), scale_pair<T>(v.y, w), scale_pair<T>(v.z, w), scale_pair<T>(v.w, w)};
      }
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
__device__ inline void add_chunk(backward_walk<Tr> const& k, int step, int stage, walk_registers<Tr>& state) {
  using T = typename Tr::element;
  float const whole = k.weights.of_state[step % Tr::weight_sets];
#pragma unroll
  for (int m = 0; m < Tr::steps; ++m)
#pragma unroll
    for (int j = 0; j < Tr::owned; ++j) scale_rows(state[m][j], whole, whole);
  std::uint32_t const rows =
      shared_address(k.staged(stage)) + std::uint32_t(fragment::right_operand(unsigned(k.lane), Tr::pitch));
  std::uint32_t const columns =
      shared_address(k.staged_columns(stage)) + std::uint32_t(fragment::left_operand(unsigned(k.lane), Tr::row_pitch));
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

/// The state after a step, to its place in the scratch.
template <class Tr>
__device__ inline void leave_state(backward_walk<Tr> const& k, backward_chunk_scratch const& s, int step,
                                   walk_registers<Tr> const& state) {
  std::size_t const chunk = std::size_t(k.in_slice) * std::size_t(k.chunks) + std::size_t(k.chunk(step + 1));
  unsigned char* const to =
      (k.gradient ? s.leaving : s.entering) + (chunk * Tr::all_units + std::size_t(k.unit)) * Tr::state_bytes;
  each_owned<Tr>(k.warp, [&](int j, int d) {
#pragma unroll
    for (int m = 0; m < Tr::steps; ++m)
      store_tile<typename Tr::element>(to + (d * Tr::steps + m) * fragment_bytes, state[m][j], k.lane);
  });
}

/// All steps of a walk, by a block. Each warp of a team makes the weights of every fourth step, all four in the same
/// time: those of steps 4 i to 4 i + 3 two steps before.
template <class Tr>
__device__ inline void walk_chunks(typename Tr::operands const& p, backward_chunk_scratch const& s, int first,
                                   int chunks, walk_place place) {
  backward_walk<Tr> const k{p, dynamic_shared(), first, chunks, place};
  walk_registers<Tr> state = {};
  int now = 0, next = 1, after = 2;  // stages of a step, the one behind it and the one behind that
  k.copy(0, now), k.copy(1, next);
  float2 steps = k.steps(k.warp);
  k.weigh(k.warp, steps);
  wait_copies<1>();
  __syncthreads();
  k.scale(0, now);
#pragma unroll 1
  for (int step = 0; step < k.count(); ++step) {
    __syncthreads();  // the step's operands are there, those of the step before are done with
    k.copy(step + 2, after);
    if (step % 4 == 0) steps = k.steps(step + 4 + k.warp);
    if (step % 4 == 2) k.weigh(step + 2 + k.warp, steps);
    add_chunk(k, step, now, state);
    leave_state(k, s, step, state);
    wait_copies<1>();
    if (step + 1 < k.count()) k.scale(step + 1, next);
    int const done = now;
    now = next, next = after, after = done;
  }
}

/// The walks of a slice. Block (units and sequence, 0: states, 1: their gradients).
template <class Tr>
__global__ void __launch_bounds__(Tr::threads, Tr::resident)
    backward_walk_kernel(typename Tr::operands const p, backward_chunk_scratch const s, int first, int chunks) {
  walk_chunks<Tr>(p, s, first, chunks, {int(blockIdx.x), blockIdx.y == 1});
}

}  // namespace dm2::cuda::detail::ssd
