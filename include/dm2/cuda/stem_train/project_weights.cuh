/// @file
/// The gradient of the weights of the stem's projection, on tensor cores.
///
/// dgrid^T patches, where the patches are BatchNorm and ReLU of the raw output, applied in shared memory. A block sums
/// 192 rows and 128 columns, two pixels, over a share of the patches, and writes it as a part; a second kernel adds the
/// parts in their order.
#pragma once

#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/stem_train/eight_channels.cuh>
#include <dm2/cuda/stem_train/weights.cuh>
#include <dm2/cuda/tile/copy_rows.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::stem_train {

/// A block of 4 x 2 warps, each of 48 rows and a pixel; 64 patches a step, three steps in shared memory. Rows are an
/// odd number of 16 bytes.
template <class G>
struct project_weights_block {
  static constexpr int threads = 256, rows = 192, columns = 128, step = 64, stages = 3, dim = G::dim, depth = G::depth;
  static constexpr int a_row_bytes = rows * 2 + 16, b_row_bytes = columns * 2 + 16, a_bytes = step * a_row_bytes;
  static constexpr int stage_bytes = a_bytes + step * b_row_bytes, shared_bytes = stages * stage_bytes;
  static constexpr int row_blocks = (dim + rows - 1) / rows, column_blocks = (depth + columns - 1) / columns;
  static_assert(G::hidden == 64 && dim % 8 == 0,
                "dm2::cuda::detail::stem_train::project_weights_block: 64 channels, even rows");
};

/// Starts the copy of patches [first, first + step), zeros past the last one: their gradients, 192 of them from `row`
/// on, and 128 of their numbers from `column` on.
template <class G, class T>
__device__ inline void load_patches(std::uint32_t to, T const* dgrid, stem_number<T> const* raw, int first, int last,
                                    int row, int column) {
  using block = project_weights_block<G>;
  row_source<T> const gradients{dgrid + row, block::dim, last, block::dim - row};
  copy_tile<block::rows, block::step, block::threads>(to, block::a_row_bytes, gradients, first, int(threadIdx.x));
  row_source<stem_number<T>> const patches{raw + column, block::depth, last, block::depth - column};
  copy_tile<128, block::step, block::threads>(to + unsigned(block::a_bytes), block::b_row_bytes, patches, first,
                                              int(threadIdx.x));
}

/// BatchNorm and ReLU of a step's raw outputs, in the pieces that this thread copied.
template <class G, class T>
__device__ inline void activate_patches(unsigned char* at, eight_activations const& eight) {
  using block = project_weights_block<G>;
#pragma unroll
  for (int j = 0; j < block::step * 16 / block::threads; ++j) {
    int const i = int(threadIdx.x) + j * block::threads;
    uint4* const v = reinterpret_cast<uint4*>(at + block::a_bytes + i / 16 * block::b_row_bytes + i % 16 * 16);
    *v = eight.apply<T>(*v);
  }
}

/// A warp's sums: 48 rows, and 64 columns.
template <class G, class T>
struct project_weights_sums {
  using block = project_weights_block<G>;
  float c[3][8][4] = {};

  /// += a step of 64 patches; a and b are this lane's addresses of the first sixteen.
  __device__ void multiply(std::uint32_t a_at, std::uint32_t b_at) {
#pragma unroll
    for (int k = 0; k < block::step / 16; ++k) {
      std::uint32_t a[3][4];
#pragma unroll
      for (int m = 0; m < 3; ++m) load_matrix_transposed(a[m], a_at + unsigned(k * 16 * block::a_row_bytes + m * 32));
#pragma unroll
      for (int n = 0; n < 8; n += 2) {
        std::uint32_t b[4];
        load_matrix_transposed(b, b_at + unsigned(k * 16 * block::b_row_bytes + n * 16));
#pragma unroll
        for (int m = 0; m < 3; ++m) mma<T>(c[m][n], a[m], b[0], b[1]), mma<T>(c[m][n + 1], a[m], b[2], b[3]);
      }
    }
  }
  /// To a part [D, depth], from (row, column) on.
  __device__ void write(float* part, int row, int column) const {
    int const lane = int(threadIdx.x) % 32;
#pragma unroll
    for (int m = 0; m < 3; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int const d = row + 16 * m + fragment::row(lane, half);
        if (d >= block::dim || column >= block::depth) continue;
#pragma unroll
        for (int n = 0; n < 8; ++n)
          *reinterpret_cast<float2*>(part + std::ptrdiff_t{d} * block::depth + column + n * 8 +
                                     fragment::column(lane)) = make_float2(c[m][n][2 * half], c[m][n][2 * half + 1]);
      }
  }
};

/// parts [gridDim.z, D, depth]. Block (128 columns, 192 rows, share of the patches).
template <class G, class T>
__global__ void __launch_bounds__(256, 1)
    project_weights_kernel(T const* __restrict__ dgrid, stem_number<T> const* __restrict__ raw, batch_norm norm,
                           int patches, float* __restrict__ parts) {
  using block = project_weights_block<G>;
  unsigned char* const memory = dynamic_shared();
  std::uint32_t const shared = shared_address(memory);
  int const warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  int const row = int(blockIdx.y) * block::rows, column = int(blockIdx.x) * block::columns;
  int const steps = (patches - 1) / block::step + 1;
  int const first = steps * int(blockIdx.z) / int(gridDim.z), last = steps * (int(blockIdx.z) + 1) / int(gridDim.z);
  eight_activations const eight{norm, int(threadIdx.x) % 8 * 8};
  // Lane l points at row l % 8 of matrix l / 8: (k, m), (k, m + 8), (k + 8, m), ... and (k, n), (k + 8, n), (k, n + 8),
  // ...
  int const a_at = (lane / 16 * 8 + lane % 8) * block::a_row_bytes + (warp / 2 * 6 + lane / 8 % 2) * 16;
  int const b_at =
      block::a_bytes + (lane / 8 % 2 * 8 + lane % 8) * block::b_row_bytes + (warp % 2 * 8 + lane / 16) * 16;
  auto const load = [&](int slot, int step) {
    if (step < last)
      load_patches<G>(shared + unsigned(slot * block::stage_bytes), dgrid, raw, step * block::step, patches, row,
                      column);
    commit_copies();
  };

  for (int s = 0; s < block::stages - 1; ++s) load(s, first + s);
  project_weights_sums<G, T> sums;
  int slot = 0, next = block::stages - 1;
  for (int step = first; step < last; ++step) {
    wait_copies<block::stages - 2>();
    activate_patches<G, T>(memory + slot * block::stage_bytes, eight);
    __syncthreads();  // the step is there, and the one before is read
    load(next, step + block::stages - 1);
    std::uint32_t const at = shared + unsigned(slot * block::stage_bytes);
    sums.multiply(at + unsigned(a_at), at + unsigned(b_at));
    next = slot;
    slot = slot + 1 == block::stages ? 0 : slot + 1;
  }
  sums.write(parts + std::ptrdiff_t{blockIdx.z} * block::dim * block::depth, row + warp / 2 * 48,
             column + warp % 2 * 64);
}

/// Where a part's number (d, tap, channel) lies in the parameters' [d, channel, tap].
template <class G>
struct project_weights_place {
  static constexpr int taps = G::side * G::side;
  static __device__ int of(int i) {
    int const d = i / G::depth, tap = i % G::depth / G::hidden, c = i % G::hidden;
    return (d * G::hidden + c) * taps + tap;
  }
};

/// Shares of the patches: about a block a multiprocessor.
template <class G>
int project_weights_shares(int multiprocessors, int patches) {
  using block = project_weights_block<G>;
  return std::clamp(multiprocessors / (block::column_blocks * block::row_blocks), 1, (patches - 1) / block::step + 1);
}

/// dproj [D, hidden, side, side] += the gradient of that many patches.
///
/// Scratch  parts: shares * D * depth floats.
template <class G, class T>
void launch_project_weights(cudaStream_t stream, int multiprocessors, T const* dgrid, stem_number<T> const* raw,
                            batch_norm const& norm, int patches, float* parts, float* dproj) {
  using block = project_weights_block<G>;
  int const shares = project_weights_shares<G>(multiprocessors, patches);
  launch("stem: gradient of the projection's weights", project_weights_kernel<G, T>,
         {dim3(block::column_blocks, block::row_blocks, unsigned(shares)), block::threads, block::shared_bytes}, stream,
         dgrid, raw, norm, patches, parts);
  reduce_parts<project_weights_place<G>>(stream, parts, shares, block::dim * block::depth, dproj);
}

}  // namespace dm2::cuda::detail::stem_train
