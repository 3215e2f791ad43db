/// @file
/// The stem's products, general form.
///
/// Without tensor cores: any size, any element type, and no TF32. For sizes that no other kernel takes.
///
/// A thread sums 4 rows by 4 columns in float; neighbouring threads take neighbouring columns, so that they read
/// consecutive weights and the same inputs.
#pragma once

#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/stem/layout.cuh>
#include <dm2/cuda/stem/plane.cuh>

#include <cstddef>

namespace dm2::cuda::detail::stem {

/// Inputs of the first convolution: pixel (2 y - 3 + tap row, 2 x - 3 + tap column) of a picture, rounded to T as
/// other inputs are.
template <class G, class T, class Reader>
struct picture_source {
  static constexpr int taps = 49, inner = G::channels;
  struct place {
    bool inside;
    int b, y, x;
  };
  Reader picture;

  __device__ place locate(int row, int tap) const {
    int const at = row % G::plane_pixels;
    int const y = 2 * (at / G::plane_width) - 3 + tap / 7, x = 2 * (at % G::plane_width) - 3 + tap % 7;
    return {unsigned(y) < unsigned(G::height) && unsigned(x) < unsigned(G::width), row / G::plane_pixels, y, x};
  }
  __device__ float read(place const& p, int channel) const {
    return to_float(from_float<T>(picture(p.b, p.y, p.x, channel)));
  }
};

/// Inputs of a 3 x 3 convolution on a plane.
template <class G, class T>
struct plane_source {
  static constexpr int taps = 9, inner = G::hidden;
  struct place {
    bool inside;
    std::ptrdiff_t at;
  };
  T const* plane;

  __device__ place locate(int row, int tap) const {
    int const at = row % G::plane_pixels;
    int const y = at / G::plane_width - 1 + tap / 3, x = at % G::plane_width - 1 + tap % 3;
    return {unsigned(y) < unsigned(G::plane_height) && unsigned(x) < unsigned(G::plane_width),
            plane_position<G, false>(row / G::plane_pixels, y, x) * G::hidden};
  }
  __device__ float read(place const& p, int channel) const { return to_float(plane[p.at + channel]); }
};

/// Inputs of the projection: patches as rows.
template <class G, class T>
struct patch_source {
  static constexpr int taps = G::side * G::side, inner = G::hidden;
  struct place {
    bool inside;
    std::ptrdiff_t at;
  };
  T const* patches;

  __device__ place locate(int row, int tap) const { return {true, std::ptrdiff_t{row} * G::depth + tap * G::hidden}; }
  __device__ float read(place const& p, int channel) const { return to_float(patches[p.at + channel]); }
};

/// relu(v + bias) to a plane, or to patches.
template <class G, bool Patches, class T>
struct plane_sink {
  float const* bias;
  T* out;

  __device__ void operator()(int row, int column, float v) const {
    int const at = row % G::plane_pixels;
    std::ptrdiff_t const to =
        plane_position<G, Patches>(row / G::plane_pixels, at / G::plane_width, at % G::plane_width);
    v += bias[column];
    out[to * G::hidden + column] = from_float<T>(v < 0 ? 0.f : v);  // NaN stays
  }
};

/// sink(row, column) = sum over taps and channels of source times weights, Layout saying where those are.
template <class Layout, int N, class T, class Source, class Sink>
__global__ void __launch_bounds__(128)
    general_kernel(__grid_constant__ Source const source, T const* __restrict__ weights, Sink sink, int rows) {
  constexpr int groups = (N + 3) / 4;
  std::ptrdiff_t const i = std::ptrdiff_t{blockIdx.x} * 128 + threadIdx.x;
  int const column = int(i % groups) * 4;
  std::ptrdiff_t const row = i / groups * 4;
  if (row >= rows) return;
  float sum[4][4] = {};
  for (int tap = 0; tap < Source::taps; ++tap) {
    typename Source::place from[4];
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      from[p] = source.locate(int(row + p < rows ? row + p : row), tap);
      from[p].inside = from[p].inside && row + p < rows;
    }
#pragma unroll(Source::inner >= 4 ? 4 : 1)
    for (int channel = 0; channel < Source::inner; ++channel) {
      float w[4];
#pragma unroll
      for (int q = 0; q < 4; ++q)
        w[q] = column + q < N ? to_float(weights[Layout::index(tap, channel, column + q)]) : 0.f;
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        float const x = from[p].inside ? source.read(from[p], channel) : 0.f;
#pragma unroll
        for (int q = 0; q < 4; ++q) sum[p][q] = fmaf(x, w[q], sum[p][q]);
      }
    }
  }
  for (int p = 0; p < 4; ++p)
    for (int q = 0; q < 4; ++q)
      if (row + p < rows && column + q < N) sink(int(row) + p, column + q, sum[p][q]);
}

/// Launches the kernel.
template <class Layout, int N, class T, class Source, class Sink>
void launch_general(cudaStream_t stream, Source const& source, T const* weights, Sink const& sink, int rows) {
  std::size_t const threads = (std::size_t(rows) + 3) / 4 * ((N + 3) / 4);
  launch("stem: product without tensor cores", general_kernel<Layout, N, T, Source, Sink>,
         {unsigned((threads + 127) / 128), 128}, stream, source, weights, sink, rows);
}

}  // namespace dm2::cuda::detail::stem
