/// @file
/// The stem's products in tiles of float or TF32.
///
/// Convolutions as products whose left operand is gathered on its way into shared memory, four channels a copy.
#pragma once

#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/stem/layout.cuh>
#include <dm2/cuda/tile/float_product.cuh>

#include <cstddef>

namespace dm2::cuda::detail::stem {

/// What lies under the first convolution's pixels: number tap * channels + channel of row b H W + y W + x.
template <class G, class Reader>
struct picture_rows {
  static constexpr bool copied = false;
  static constexpr int depth = 49 * G::channels;
  struct place {
    int b, y, x;  ///< of the first tap; far outside where there is no such row
  };
  Reader picture;
  int rows;

  __device__ place locate(int row) const {
    int const at = row % G::plane_pixels;
    if (row >= rows) return {0, -G::height - 7, 0};
    return {row / G::plane_pixels, 2 * (at / G::plane_width) - 3, 2 * (at % G::plane_width) - 3};
  }
  __device__ float number(place const& p, int k) const {
    int const tap = k / G::channels, y = p.y + tap / 7, x = p.x + tap % 7;
    bool const inside = k < depth && unsigned(y) < unsigned(G::height) && unsigned(x) < unsigned(G::width);
    return inside ? picture(p.b, y, x, k % G::channels) : 0.f;
  }
};

/// What lies under a 3 x 3 convolution's pixels of a plane.
template <class G>
struct plane_rows {
  static constexpr bool copied = true;
  static constexpr int depth = 9 * G::hidden;
  struct place {
    std::ptrdiff_t at;  ///< the pixel's first channel
    int y, x;           ///< far outside where there is no such row
  };
  float const* plane;
  int rows;

  __device__ place locate(int row) const {
    int const at = row % G::plane_pixels;
    if (row >= rows) return {0, -G::plane_height - 3, 0};
    return {std::ptrdiff_t{row} * G::hidden, at / G::plane_width, at % G::plane_width};
  }
  __device__ float const* piece(place const& p, int k, bool& inside) const {
    int const tap = k / G::hidden, down = tap / 3 - 1, right = tap % 3 - 1;
    inside = k < depth && unsigned(p.y + down) < unsigned(G::plane_height) &&
             unsigned(p.x + right) < unsigned(G::plane_width);
    return inside ? plane + p.at + (down * G::plane_width + right) * G::hidden + k % G::hidden : plane;
  }
};

/// sink(row, column) = sum over k of source times weights [N, depth].
template <class Sums, int N, class Source, class Sink>
__global__ void __launch_bounds__(float_tile::threads, Sums::blocks)
    tiled_kernel(__grid_constant__ Source const source, __grid_constant__ float_rows const weights, Sink sink,
                 int rows) {
  __shared__ float_stage stage[float_tile::stages];
  int const row0 = int(blockIdx.x) * float_tile::rows, column0 = int(blockIdx.y) * float_tile::columns;
  Sums sums;
  float_product(sums, stage, source, weights, row0, column0, weights.depth);
  sums.each([&](int i, int j, float v) {
    int const row = row0 + i, column = column0 + j;
    if (row < rows && column < N) sink(row, column, v);
  });
}

/// Launches the kernel for weights in a rows_layout.
template <precision P, class Layout, class Source, class Sink>
void launch_tiled(cudaStream_t stream, Source const& source, float const* weights, Sink const& sink, int rows) {
  constexpr int N = Layout::rows;
  dim3 const grid(unsigned((rows - 1) / float_tile::rows + 1), unsigned((N - 1) / float_tile::columns + 1));
  launch("stem: product of float", tiled_kernel<sums_for<P>, N, Source, Sink>, {grid, float_tile::threads}, stream,
         source, float_rows{weights, Layout::pitch, N, Layout::pitch}, sink, rows);
}

}  // namespace dm2::cuda::detail::stem
