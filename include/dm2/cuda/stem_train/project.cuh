/// @file
/// The stem's projection of patches in training on tensor cores.
#pragma once

#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/stem/layout.cuh>
#include <dm2/cuda/stem/project.cuh>
#include <dm2/cuda/stem_train/eight_channels.cuh>
#include <dm2/cuda/tile/copy_rows.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::stem_train {

/// The forward's inputs are raw outputs, patch after patch: BatchNorm and ReLU are applied in shared memory. A step of
/// 64 inputs is a pixel of 64 channels.
struct activated_inputs {
  batch_norm norm;

  /// A thread's eight channels.
  struct lane {
    eight_activations eight;

    template <class Block, class T>
    __device__ void prepare(unsigned char* at) const {
#pragma unroll
      for (int j = 0; j < Block::row_tiles; ++j) {
        int const i = j * Block::threads + int(threadIdx.x), row = i / 8;
        uint4* const v = reinterpret_cast<uint4*>(at + row * 128 + (i % 8 ^ row % 8) * 16);
        *v = eight.apply<T>(*v);
      }
    }
  };
  __device__ lane start() const { return {{norm, int(threadIdx.x) % 8 * 8}}; }
};

/// Bias added and rounded, to the grid [rows, D], which is aligned to 4 bytes.
template <int D, class T>
struct element_grid_sink {
  float const* bias;
  T* grid;

  __device__ void operator()(int row, int column, float2 v) const {
    *reinterpret_cast<std::uint32_t*>(grid + std::ptrdiff_t{row} * D + column) =
        pack<T>(v.x + bias[column], v.y + bias[column + 1]);
  }
};

/// [D, tap, channel], the channels in the order of stem::fragment_column: the gradient's second factor.
template <int Taps, int Hidden, int D>
struct project_gradient_layout {
  static constexpr std::size_t size = std::size_t(D) * Taps * Hidden;
  static __host__ __device__ constexpr int index(int tap, int channel, int out) {
    return (out * Taps + tap) * Hidden + stem::fragment_column<Hidden>(channel);
  }
};

/// A block of the gradient of the patches: 128 of their numbers, two pixels, whose weights stay in shared memory, for
/// tiles of 64 patches. 2 x 4 warps, each of 32 rows and half a pixel. Rows are an odd number of 16 bytes, so that
/// ldmatrix meets no bank twice.
template <class G>
struct project_input_block {
  using geometry = G;
  static constexpr int threads = 256, rows = 64, columns = 128, dim = G::dim, depth = G::depth;
  static constexpr int inner = (dim + 15) / 16 * 16, row_bytes = inner * 2 + 16, weight_row_bytes = columns * 2 + 16;
  static constexpr int weight_bytes = inner * weight_row_bytes, table_offset = weight_bytes + rows * row_bytes;
  static constexpr int shared_bytes = table_offset + 2 * 4 * 64;
  static constexpr int resident = shared_bytes <= 113 * 1024 ? 2 : 1;
  static constexpr int column_blocks = (depth + columns - 1) / columns;
  static_assert(G::hidden == 64 && dim % 8 == 0,
                "dm2::cuda::detail::stem_train::project_input_block: 64 channels, even rows");
};

/// What the kernel reads and writes.
template <class G, class T>
struct project_input_operands {
  T const* dgrid;             ///< [rows, D]
  T const* weights;           ///< in project_gradient_layout
  stem_number<T> const* raw;  ///< [rows, depth], the third convolution's output
  batch_norm norm;            ///< of it
  T* dz;                      ///< [rows, depth]
  float* parts;               ///< [parts, 2, hidden]
};

/// Starts the copy of the weights of 128 numbers of a patch from `first` on, zeros past the last one: rows of d.
template <class G, class T>
__device__ inline void load_project_weights(std::uint32_t to, T const* weights, int first) {
  using block = project_input_block<G>;
  row_source<T> const rows{weights + first, block::depth, block::dim, block::depth - first};
  copy_rows<128>(to, block::weight_row_bytes, rows, 0, block::inner, int(threadIdx.x), block::threads);
}

/// A warp's sums: 32 patches, 32 of their numbers. A lane has eight channels of patches 8 i from its first one on.
template <class G, class T>
struct project_input_sums {
  using block = project_input_block<G>;
  float c[2][4][4] = {};

  /// += the product; a and b are this lane's addresses of the first step.
  __device__ void multiply(std::uint32_t a_at, std::uint32_t b_at) {
#pragma unroll 4
    for (int k = 0; k < block::inner / 16; ++k) {
      std::uint32_t a[2][4], b[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) load_matrix(a[m], a_at + unsigned(m * 16 * block::row_bytes + k * 32));
#pragma unroll
      for (int n = 0; n < 2; ++n)
        load_matrix_transposed(b[n], b_at + unsigned(k * 16 * block::weight_row_bytes + n * 32));
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int m = 0; m < 2; ++m) mma<T>(c[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
    }
  }
  /// To dz, `left` rows from this lane's first number on, behind ReLU's mask.
  __device__ void store(T* dz, int left, uint4 const (&raw)[4], eight_masks const& eight, lane_share& own) const {
    eight_sums sums;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (8 * i >= left) continue;
      float v[8];
#pragma unroll
      for (int n = 0; n < 4; ++n) v[2 * n] = c[i / 2][n][i % 2 * 2], v[2 * n + 1] = c[i / 2][n][i % 2 * 2 + 1];
      auto* const to = reinterpret_cast<uint4*>(dz + std::ptrdiff_t{8 * i} * block::depth);
      __stcg(to, eight.apply<T>(v, raw[i], sums));  // the compiler makes four stores of a plain one
    }
    sums.share_out(own);
  }
};

/// A lane's eight numbers of patches 8 i from its first one on, `left` of them; zeros behind.
template <class Block>
struct patch_rows {
  uint4 v[4];

  template <class T>
  __device__ patch_rows(T const* from, int left) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      v[i] = 8 * i < left ? *reinterpret_cast<uint4 const*>(from + std::ptrdiff_t{8 * i} * Block::depth) : uint4{};
  }
};

/// part [2, 64] = the sums of a block's 8 warps, in their order; even warps have the channels below 32. To be called by
/// all threads, `staged` being shared memory that nothing else uses.
__device__ inline void add_warps(lane_share const& own, float* staged, float* part) {
  int const thread = int(threadIdx.x), lane = thread % 32;
  own.write(staged + thread / 32 * 64 + fragment::column<8>(lane), 32);
  __syncthreads();
  if (thread >= 128) return;
  int const sum = thread / 64, c = thread % 64;
  float total = 0;
  for (int w = c / 32; w < 8; w += 2) total += staged[w * 64 + sum * 32 + c % 32];
  part[thread] = total;
}

/// dz = the gradient of BatchNorm's output where ReLU lets it through, and its sums. Block (column block, share of the
/// row tiles).
template <class G, class T>
__global__ void __launch_bounds__(project_input_block<G>::threads, project_input_block<G>::resident)
    project_input_kernel(project_input_operands<G, T> o, int rows) {
  using block = project_input_block<G>;
  unsigned char* const memory = dynamic_shared();
  std::uint32_t const shared = shared_address(memory), tile = shared + unsigned(block::weight_bytes);
  float* const table = reinterpret_cast<float*>(memory + block::table_offset);
  int const warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  int const first_row = warp / 4 * 32, pixel = int(blockIdx.x) * 2 + warp % 4 / 2;
  int const tiles = (rows - 1) / block::rows + 1, channel = warp % 2 * 32 + fragment::column<8>(lane);
  bool const there = block::depth % block::columns == 0 || pixel * 64 < block::depth;
  auto const load = [&](int t) {
    copy_rows<block::inner>(tile, block::row_bytes, row_source<T>{o.dgrid, block::dim, rows, block::dim},
                            t * block::rows, block::rows, int(threadIdx.x), block::threads);
  };

  load_project_weights<G>(shared, o.weights, int(blockIdx.x) * block::columns);
  if (threadIdx.x < 64) eight_masks::fill(table, 64, o.norm, int(threadIdx.x));
  int t = int(blockIdx.y);
  if (t < tiles) load(t);
  commit_copies();
  __syncthreads();  // the table

  lane_share own;
  eight_masks const eight{table, 64, channel};
  std::uint32_t const a_at =
      tile + unsigned(first_row * block::row_bytes + fragment::left_operand(lane, block::row_bytes));
  std::uint32_t const b_at =
      shared + unsigned((lane / 8 % 2 * 8 + lane % 8) * block::weight_row_bytes + (warp % 4 * 4 + lane / 16) * 16);
  for (; t < tiles; t += int(gridDim.y)) {
    int const row = t * block::rows + first_row + fragment::row(lane), left = there ? rows - row : 0;
    std::ptrdiff_t const at = std::ptrdiff_t{row} * block::depth + pixel * 64 + channel;
    patch_rows<block> const raw{o.raw + at, left};
    wait_copies<0>();
    __syncthreads();
    project_input_sums<G, T> sums;
    sums.multiply(a_at, b_at);
    __syncthreads();
    if (t + int(gridDim.y) < tiles) load(t + int(gridDim.y));
    commit_copies();
    sums.store(o.dz + at, left, raw.v, eight, own);
  }
  wait_copies<0>();
  __syncthreads();
  add_warps(own, reinterpret_cast<float*>(memory), o.parts + std::ptrdiff_t(blockIdx.y * gridDim.x + blockIdx.x) * 128);
}

/// Shares of the row tiles.
template <class G>
int project_input_shares(int multiprocessors, int rows) {
  using block = project_input_block<G>;
  return std::clamp(multiprocessors * block::resident / block::column_blocks, 1, (rows - 1) / block::rows + 1);
}

/// Launches the kernel; returns the number of parts of its sums.
template <class G, class T>
int launch_project_input(cudaStream_t stream, int multiprocessors, project_input_operands<G, T> const& operands,
                         int rows) {
  using block = project_input_block<G>;
  unsigned const shares = unsigned(project_input_shares<G>(multiprocessors, rows));
  char const* const name = "stem: gradient of the patches";
  prefer_shared(name, project_input_kernel<G, T>);
  launch(name, project_input_kernel<G, T>, {dim3(block::column_blocks, shares), block::threads, block::shared_bytes},
         stream, operands, rows);
  return block::column_blocks * int(shares);
}

}  // namespace dm2::cuda::detail::stem_train
