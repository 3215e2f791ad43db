/// @file
/// The stem's projection of patches on tensor cores.
///
/// [rows, K] times [N, K] transposed, into a sink.
///
/// The patches of 256 pictures of Tiny are 411 MB, so they are read once: a block takes all 192 columns of 128 rows
/// where there are many. Few rows are split over K as well, each block writing a part of the sum, and a second kernel
/// adds the parts in their order.
#pragma once

#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/early_start.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::stem {

// Where the projection's sums go: the patch grid, token rows, or parts of a sum that was split.
//
// A sink takes number v of row `row` and column `column`, or two of consecutive columns, the first one even. What it
// adds is read with __ldg: a plain load could be of what the sink wrote before, and each would wait for the one before.

/// Bias added, to the grid [rows, D].
template <int D>
struct grid_sink {
  float const* bias;  ///< [D], aligned to 8 bytes where D is even
  float* grid;

  [[nodiscard]] grid_sink skip(std::ptrdiff_t rows) const { return {bias, grid == nullptr ? grid : grid + rows * D}; }
  __device__ void operator()(int row, int column, float v) const {
    grid[std::ptrdiff_t{row} * D + column] = v + __ldg(bias + column);
  }
  /// What is added to two numbers. Read apart from the writing, that of many numbers is on its way at once.
  struct addends {
    float2 bias;
  };
  [[nodiscard]] __device__ addends read(int, int column) const {
    return {__ldg(reinterpret_cast<float2 const*>(bias + column))};
  }
  __device__ void operator()(int row, int column, float2 v, addends const& a) const {
    *reinterpret_cast<float2*>(grid + std::ptrdiff_t{row} * D + column) = make_float2(v.x + a.bias.x, v.y + a.bias.y);
  }
  __device__ void operator()(int row, int column, float2 v) const { (*this)(row, column, v, read(row, column)); }
};

/// Bias and position embedding added, to token rows [pictures (Tokens + 1), D]. A picture's first patch also writes its
/// class token. The embeddings may lie at any address.
template <int D, int Tokens>
struct token_sink {
  static constexpr int middle = Tokens / 2;  ///< the class token of Tokens + 1
  float const *bias, *cls, *pos;
  float* x;

  [[nodiscard]] token_sink skip(std::ptrdiff_t rows) const {
    return {bias, cls, pos, x == nullptr ? x : x + rows / Tokens * (Tokens + 1) * D};
  }
  __device__ void operator()(int row, int column, float v) const {
    std::ptrdiff_t const b = row / Tokens;
    int const patch = row % Tokens, token = patch + (patch >= middle ? 1 : 0);
    float* const to = x + b * (Tokens + 1) * D + column;
    to[token * D] = v + __ldg(bias + column) + __ldg(pos + token * D + column);
    if (patch == 0) to[middle * D] = __ldg(cls + column) + __ldg(pos + middle * D + column);
  }
  /// As grid_sink's.
  struct addends {
    float2 bias, pos;
  };
  [[nodiscard]] __device__ addends read(int row, int column) const {
    int const patch = row % Tokens;
    float const* const p = pos + (patch + (patch >= middle ? 1 : 0)) * D + column;
    return {__ldg(reinterpret_cast<float2 const*>(bias + column)), make_float2(__ldg(p), __ldg(p + 1))};
  }
  __device__ void operator()(int row, int column, float2 v, addends const& a) const {
    std::ptrdiff_t const b = row / Tokens;
    int const patch = row % Tokens, token = patch + (patch >= middle ? 1 : 0);
    float* const to = x + b * (Tokens + 1) * D + column;
    *reinterpret_cast<float2*>(to + token * D) = make_float2(v.x + a.bias.x + a.pos.x, v.y + a.bias.y + a.pos.y);
    if (patch != 0) return;
    float const* const q = pos + middle * D + column;
    *reinterpret_cast<float2*>(to + middle * D) =
        make_float2(__ldg(cls + column) + __ldg(q), __ldg(cls + column + 1) + __ldg(q + 1));
  }
  __device__ void operator()(int row, int column, float2 v) const { (*this)(row, column, v, read(row, column)); }
};

/// As it is, to part blockIdx.z of [parts, rows, D].
template <int D>
struct part_sink {
  float* parts;
  std::ptrdiff_t rows;

  __device__ void operator()(int row, int column, float2 v) const {
    *reinterpret_cast<float2*>(parts + (std::ptrdiff_t(blockIdx.z) * rows + row) * D + column) = v;
  }
};

/// The tile of a block of 2 x 4 warps.
struct project_form {
  int row_tiles;     ///< of 16, a warp
  int column_tiles;  ///< of 8, a warp
  int stages;        ///< steps of 64 inputs in shared memory
};

/// The sizes of a block.
template <int K, int N, project_form F>
struct project_block {
  static constexpr int depth = K, width = N, row_tiles = F.row_tiles, column_tiles = F.column_tiles, stages = F.stages;
  static constexpr int rows = 32 * row_tiles, columns = 32 * column_tiles, threads = 256, steps = K / 64;
  static constexpr int a_bytes = rows * 128, stage_bytes = a_bytes + columns * 128;
  static constexpr int shared_bytes = stages * stage_bytes;
};

/// Starts the copy of inputs [64 step, 64 step + 64): rows of 128 bytes whose 16-byte pieces trade places by row. Zeros
/// past the last row.
template <class Block, class T>
__device__ inline void load_inputs(std::uint32_t to, T const* a, int rows, int step) {
  int const first_row = int(blockIdx.x) * Block::rows;
#pragma unroll
  for (int j = 0; j < Block::row_tiles; ++j) {
    int const i = j * Block::threads + int(threadIdx.x), row = i / 8, piece = i % 8;
    bool const inside = first_row + row < rows;
    T const* const from = a + std::ptrdiff_t{first_row + row} * Block::depth + step * 64 + piece * 8;
    copy_async(to + unsigned(row * 128 + (piece ^ row % 8) * 16), inside ? from : a, inside);
  }
}
/// The same of the weights, behind the inputs. Zeros past the last column.
template <class Block, class T>
__device__ inline void load_input_weights(std::uint32_t to, T const* weights, int step) {
  int const first = int(blockIdx.y) * Block::columns;
#pragma unroll
  for (int j = 0; j < Block::column_tiles; ++j) {
    int const i = j * Block::threads + int(threadIdx.x);
    bool const inside = first + i / 8 < Block::width;
    T const* const from = weights + (step * Block::width + first) * 64 + i * 8;
    copy_async(to + unsigned(Block::a_bytes + i * 16), inside ? from : weights, inside);
  }
}

/// c += the warp's part of a step. `a` is the lane's row of the warp's first row tile, `weights` the warp's first
/// column.
template <class Block, class T>
__device__ inline void multiply_inputs(float (&c)[Block::row_tiles][Block::column_tiles][4], std::uint32_t a,
                                       std::uint32_t weights) {
  int const lane = int(threadIdx.x) % 32;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    std::uint32_t r[2][Block::row_tiles][4];
#pragma unroll
    for (int k = 0; k < 2; ++k)
#pragma unroll
      for (int m = 0; m < Block::row_tiles; ++m)
        load_matrix(r[k][m], a + unsigned(m * 2048 + ((half * 4 + k * 2 + lane / 16) ^ lane % 8) * 16));
    std::uint32_t const column = weights + unsigned(lane % 8 * 128 + ((half * 4 + lane / 8) ^ lane % 8) * 16);
#pragma unroll
    for (int n = 0; n < Block::column_tiles; ++n) {
      std::uint32_t b[4];
      load_matrix(b, column + unsigned(n * 1024));
#pragma unroll
      for (int m = 0; m < Block::row_tiles; ++m) mma<T>(c[m][n], r[0][m], b[0], b[1]);
#pragma unroll
      for (int m = 0; m < Block::row_tiles; ++m) mma<T>(c[m][n], r[1][m], b[2], b[3]);
    }
  }
}

/// Inputs are multiplied as they lie in memory.
struct inputs_as_they_are {
  struct lane {
    template <class Block, class T>
    __device__ void prepare(unsigned char*) const {}
  };
  /// What a thread prepares with.
  __device__ lane start() const { return {}; }
};

/// A thread's results of a block's tile into the sink; `warp_row` and `warp_tile` are the warp's first row, and its
/// first tile of 8 columns.
template <class Block, class Sink>
__device__ inline void write_results(float const (&c)[Block::row_tiles][Block::column_tiles][4], Sink const& sink,
                                     int warp_row, int warp_tile, int rows) {
  int const lane = int(threadIdx.x) % 32;
#pragma unroll
  for (int m = 0; m < Block::row_tiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int const row = int(blockIdx.x) * Block::rows + warp_row + 16 * m + fragment::row(lane, half);
      if (row >= rows) continue;
      auto const each = [&](auto const& f) {
#pragma unroll
        for (int n = 0; n < Block::column_tiles; ++n) {
          int const column = int(blockIdx.y) * Block::columns + (warp_tile + n) * 8 + fragment::column(lane);
          if (Block::width % Block::columns == 0 || column < Block::width)
            f(n, column, make_float2(c[m][n][2 * half], c[m][n][2 * half + 1]));
        }
      };
      if constexpr (requires { typename Sink::addends; }) {
        typename Sink::addends a[Block::column_tiles];
        each([&](int n, int column, float2) { a[n] = sink.read(row, column); });
        each([&](int n, int column, float2 v) { sink(row, column, v, a[n]); });
      } else {
        each([&](int, int column, float2 v) { sink(row, column, v); });
      }
    }
}

/// Block (i, j, z): rows of tile i, columns of tile j, part z of K, into the sink. A thread prepares the inputs that it
/// copied before others read them: of its piece, number threadIdx.x % 8 of each row of 128 bytes.
template <class Block, class T, class Prepare, class Sink>
__global__ void __launch_bounds__(Block::threads, 1)
    project_kernel(T const* __restrict__ a, T const* __restrict__ weights, Prepare inputs, Sink sink, int rows) {
  let_next_start();
  unsigned char* const stem_shared = dynamic_shared();
  std::uint32_t const shared = shared_address(stem_shared);
  int const warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  int const warp_row = warp / 4 * 16 * Block::row_tiles, warp_tile = warp % 4 * Block::column_tiles;
  int const first = Block::steps * int(blockIdx.z) / int(gridDim.z);
  int const last = Block::steps * (int(blockIdx.z) + 1) / int(gridDim.z);
  float c[Block::row_tiles][Block::column_tiles][4] = {};

#pragma unroll
  for (int s = 0; s < Block::stages - 1; ++s)
    if (first + s < last) load_input_weights<Block>(shared + unsigned(s * Block::stage_bytes), weights, first + s);
  wait_for_previous();
  auto const own = inputs.start();
#pragma unroll
  for (int s = 0; s < Block::stages - 1; ++s) {
    if (first + s < last) load_inputs<Block>(shared + unsigned(s * Block::stage_bytes), a, rows, first + s);
    commit_copies();
  }
  int slot = 0, next = Block::stages - 1;
  for (int step = first; step < last; ++step) {
    wait_copies<Block::stages - 2>();
    own.template prepare<Block, T>(stem_shared + slot * Block::stage_bytes);
    __syncthreads();  // the step is there, and the one before is read
    if (step + Block::stages - 1 < last) {
      std::uint32_t const to = shared + unsigned(next * Block::stage_bytes);
      load_inputs<Block>(to, a, rows, step + Block::stages - 1);
      load_input_weights<Block>(to, weights, step + Block::stages - 1);
    }
    commit_copies();
    int const at = slot * Block::stage_bytes;
    multiply_inputs<Block, T>(c, shared + unsigned(at + (warp_row + lane % 16) * 128),
                              shared + unsigned(at + Block::a_bytes + warp_tile * 1024));
    next = slot;
    slot = slot + 1 == Block::stages ? 0 : slot + 1;
  }
  write_results<Block>(c, sink, warp_row, warp_tile, rows);
}

/// The sum of `count` parts [count, rows, N], in their order, into the sink; a thread two columns.
template <int N, class Sink>
__global__ void __launch_bounds__(128) add_product_parts_kernel(float const* parts, int count, Sink sink, int rows) {
  let_next_start();
  wait_for_previous();
  int const i = int(blockIdx.x) * 128 + int(threadIdx.x), row = i / (N / 2), column = i % (N / 2) * 2;
  if (row >= rows) return;
  float2 sum = make_float2(0, 0);
#pragma unroll 8
  for (int part = 0; part < count; ++part) {
    float2 const v = *reinterpret_cast<float2 const*>(parts + (std::ptrdiff_t{part} * rows + row) * N + column);
    sum.x += v.x, sum.y += v.y;
  }
  sink(row, column, sum);
}

/// How a product of that many rows is divided.
struct project_plan {
  bool many;          ///< tiles of 128 rows, else of 64 rows and 96 columns
  int splits;         ///< of K
  std::size_t parts;  ///< floats of scratch
};

/// The forms: many rows, the same for 99 KB of shared memory, and few rows.
template <int N>
inline constexpr project_form project_many{4, N > 96 ? 6 : 3, 4};
template <int N>
inline constexpr project_form project_many_small{4, N > 96 ? 6 : 3, 2};
inline constexpr project_form project_few{2, 3, 4};

/// Few rows where their tiles leave multiprocessors idle; then, and wherever half of them or more would be, K is split,
/// at least 4 steps of 64 a part.
template <int K, int N>
project_plan plan_projection(device_properties const& device, int rows) {
  auto const tiles = [&](int height, int width) { return ((rows - 1) / height + 1) * ((N - 1) / width + 1); };
  int const few = tiles(64, 96), many = tiles(128, 32 * project_many<N>.column_tiles);
  project_plan p{few > device.multiprocessors, 1, 0};
  p.splits = std::clamp(device.multiprocessors / (p.many ? many : few), 1, std::max(1, K / 256));
  if (p.splits > 1) p.parts = std::size_t(p.splits) * std::size_t(rows) * N;
  return p;
}

/// Launches the product in form F; `early` as in launch_shape.
template <int K, int N, project_form F, class T, class Sink, class Prepare = inputs_as_they_are>
void launch_projection(cudaStream_t stream, project_plan const& plan, T const* a, T const* weights, Sink const& sink,
                       int rows, float* parts, Prepare const& inputs = {}, bool early = false) {
  using block = project_block<K, N, F>;
  launch_shape const shape{
      dim3(unsigned((rows - 1) / block::rows + 1), unsigned((N - 1) / block::columns + 1), unsigned(plan.splits)),
      block::threads, block::shared_bytes, early};
  if (plan.splits == 1) {
    launch("stem: projection", project_kernel<block, T, Prepare, Sink>, shape, stream, a, weights, inputs, sink, rows);
    return;
  }
  launch("stem: projection", project_kernel<block, T, Prepare, part_sink<N>>, shape, stream, a, weights, inputs,
         part_sink<N>{parts, rows}, rows);
  launch("stem: projection, sum of its parts", add_product_parts_kernel<N, Sink>,
         {unsigned((rows * (N / 2) - 1) / 128 + 1), 128, 0, early}, stream, parts, plan.splits, sink, rows);
}

}  // namespace dm2::cuda::detail::stem
