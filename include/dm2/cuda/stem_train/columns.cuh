/// @file
/// The inputs of the stem's convolutions as matrices: for each output pixel a row of what lies under the kernel.
#pragma once

#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/stem/plane.cuh>
#include <dm2/cuda/stem_train/batch_norm.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <algorithm>
#include <cstddef>

namespace dm2::cuda::detail {

/// Row and column of pixel `at` of a plane in memory, pixel after pixel or patch after patch.
template <class G, bool Patches>
__device__ inline int2 plane_coordinates(int at) {
  if constexpr (Patches) {
    int const token = at / (G::side * G::side), in = at % (G::side * G::side);
    return make_int2(token / G::grid_width * G::side + in / G::side, token % G::grid_width * G::side + in % G::side);
  } else {
    return make_int2(at / G::plane_width, at % G::plane_width);
  }
}

/// What a row of columns holds: pixels (stride y - before + tap row, ...) of a source.
///
/// The pictures, under the first convolution.
template <class G, class Reader>
struct picture_columns {
  static constexpr int kernel = 7, inner = G::channels, stride = 2, before = 3;
  static constexpr int height = G::height, width = G::width;
  Reader picture;

  __device__ float operator()(int b, int y, int x, int c) const { return picture(b, y, x, c); }
};

/// relu(BatchNorm(raw)), under a 3 x 3 convolution.
template <class G, class T>
struct norm_columns {
  static constexpr int kernel = 3, inner = G::hidden, stride = 1, before = 1;
  static constexpr int height = G::plane_height, width = G::plane_width;
  T const* raw;
  stem_train_norm norm;

  __device__ float operator()(int b, int y, int x, int c) const {
    return stem_activate(to_float(raw[plane_position<G, false>(b, y, x) * G::hidden + c]), norm.affine(c));
  }
};

/// A gradient as it lies, under the mirrored 3 x 3 convolution.
template <class G, bool Patches, class T>
struct gradient_columns {
  static constexpr int kernel = 3, inner = G::hidden, stride = 1, before = 1;
  static constexpr int height = G::plane_height, width = G::plane_width;
  T const* gradient;

  __device__ float operator()(int b, int y, int x, int c) const {
    return to_float(gradient[plane_position<G, Patches>(b, y, x) * G::hidden + c]);
  }
};

/// out [pictures * plane pixels, Row]: a row of taps and channels an output pixel, zeros outside the picture and past
/// the last tap; the rows lie pixel after pixel or patch after patch. A block a pixel after another.
template <class G, bool Patches, int Row, class Source, class T>
__global__ void __launch_bounds__(128) stem_columns_kernel(Source source, T* __restrict__ out, int rows) {
  for (int row = int(blockIdx.x); row < rows; row += int(gridDim.x)) {
    int2 const at = plane_coordinates<G, Patches>(row % G::plane_pixels);
    for (int k = int(threadIdx.x); k < Row; k += 128) {
      int const tap = k / Source::inner, c = k % Source::inner;
      int const y = Source::stride * at.x - Source::before + tap / Source::kernel;
      int const x = Source::stride * at.y - Source::before + tap % Source::kernel;
      bool const inside = tap < Source::kernel * Source::kernel && unsigned(y) < unsigned(Source::height) &&
                          unsigned(x) < unsigned(Source::width);
      out[std::ptrdiff_t{row} * Row + k] = from_float<T>(inside ? source(row / G::plane_pixels, y, x, c) : 0.f);
    }
  }
}

template <class G, bool Patches, int Row, class Source, class T>
void gather_columns(cudaStream_t stream, Source const& source, T* out, int pictures) {
  int const rows = pictures * G::plane_pixels;
  launch("stem: columns", stem_columns_kernel<G, Patches, Row, Source, T>, {unsigned(std::min(rows, 1 << 16)), 128},
         stream, source, out, rows);
}

/// out = relu(BatchNorm(raw)) as it lies. A thread a number.
template <class R, class T>
__global__ void __launch_bounds__(256) stem_activate_kernel(R const* __restrict__ raw, stem_train_norm norm, int width,
                                                            std::ptrdiff_t size, T* __restrict__ out) {
  std::ptrdiff_t const i = std::ptrdiff_t{blockIdx.x} * 256 + threadIdx.x;
  if (i < size) out[i] = from_float<T>(stem_activate(to_float(raw[i]), norm.affine(int(i % width))));
}

template <class R, class T>
void activate(cudaStream_t stream, R const* raw, stem_train_norm const& norm, int width, std::ptrdiff_t pixels,
              T* out) {
  launch("stem: BatchNorm and ReLU", stem_activate_kernel<R, T>, {blocks_for(std::size_t(pixels * width), 256), 256},
         stream, raw, norm, width, pixels * width, out);
}

/// dpicture [pictures, C, H, W] from the gradient of the first convolution's columns [pixels, Row]: the sum over the
/// taps that read a pixel, in their order. A thread a pixel.
template <class G, int Row, class T>
__global__ void __launch_bounds__(256)
    stem_picture_gradient_kernel(T const* __restrict__ columns, float* __restrict__ dpicture, std::ptrdiff_t size) {
  std::ptrdiff_t const i = std::ptrdiff_t{blockIdx.x} * 256 + threadIdx.x;
  if (i >= size) return;
  int const x = int(i % G::width), y = int(i / G::width % G::height);
  int const c = int(i / (G::width * G::height) % G::channels);
  std::ptrdiff_t const b = i / (std::ptrdiff_t{G::width} * G::height * G::channels);
  float sum = 0;
  for (int ky = (y + 1) % 2; ky < 7; ky += 2)
    for (int kx = (x + 1) % 2; kx < 7; kx += 2) {
      int const oy = (y + 3 - ky) / 2, ox = (x + 3 - kx) / 2;  // both even before the division
      if (y + 3 < ky || x + 3 < kx || oy >= G::plane_height || ox >= G::plane_width) continue;
      sum +=
          to_float(columns[(b * G::plane_pixels + oy * G::plane_width + ox) * Row + (ky * 7 + kx) * G::channels + c]);
    }
  dpicture[i] = sum;
}

template <class G, int Row, class T>
void picture_gradient(cudaStream_t stream, T const* columns, float* dpicture, int pictures) {
  std::ptrdiff_t const size = std::ptrdiff_t{pictures} * G::channels * G::height * G::width;
  launch("stem: gradient of the pictures", stem_picture_gradient_kernel<G, Row, T>,
         {blocks_for(std::size_t(size), 256), 256}, stream, columns, dpicture, size);
}

}  // namespace dm2::cuda::detail
