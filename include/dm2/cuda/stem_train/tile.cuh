/// @file
/// Where the sums of the stem's convolutions in training go: raw outputs, or gradients behind ReLU's mask.
#pragma once

#include <dm2/cuda/stem/plane.cuh>
#include <dm2/cuda/stem_train/eight_channels.cuh>

#include <cstdint>

namespace dm2::cuda::detail {

/// A lane's eight channels of a pixel of a warp's sums.
template <class Sums>
__device__ inline void lane_sums(Sums const& s, int row, int half, float (&x)[8]) {
#pragma unroll
  for (int n = 0; n < 4; ++n) x[2 * n] = s.c[row][n][2 * half], x[2 * n + 1] = s.c[row][n][2 * half + 1];
}

/// Forward: the raw output, and the sums of it and of its squares. Patches: how it lies.
template <class G, bool Patches, class T>
struct raw_sink {
  T* raw;
  float* parts;  ///< [parts, 2, hidden]

  struct inputs {};
  __device__ void fill(float*, int) const {}
  template <int Rows>
  __device__ inputs read(int, int, int, int) const {
    return {};
  }
  template <class Sums>
  __device__ void store(Sums const& s, inputs const&, float const*, eight_sums& sums, int b, int y, int x,
                        int channel) const {
    int const g = int(threadIdx.x) % 32 / 4;
#pragma unroll
    for (int r = 0; r < Sums::rows; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int const column = x + g + 8 * half;
        if (y + r >= G::plane_height || column >= G::plane_width) continue;
        float v[8];
        lane_sums(s, r, half, v);
        *reinterpret_cast<uint4*>(raw + plane_position<G, Patches>(b, y + r, column) * G::hidden + channel) =
            round_and_sum<T>(v, sums);
      }
  }
};

/// Backward: the gradient of the BatchNorm before this convolution, whose input `raw` is, and its sums.
template <class G, class T>
struct masked_sink {
  stem_number<T> const* raw;
  stem_train_norm norm;
  T* dz;
  float* parts;  ///< [parts, 2, hidden]

  /// What a lane reads of `raw`.
  template <int Rows>
  struct inputs {
    uint4 raw[Rows][2];
  };
  __device__ void fill(float* table, int c) const { eight_masks::fill(table, G::hidden, norm, c); }
  template <int Rows>
  __device__ inputs<Rows> read(int b, int y, int x, int channel) const {
    inputs<Rows> in;
    int const g = int(threadIdx.x) % 32 / 4;
#pragma unroll
    for (int r = 0; r < Rows; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int const column = x + g + 8 * half;
        bool const inside = y + r < G::plane_height && column < G::plane_width;
        in.raw[r][half] = make_uint4(0, 0, 0, 0);
        if (inside)
          in.raw[r][half] =
              *reinterpret_cast<uint4 const*>(raw + plane_position<G, false>(b, y + r, column) * G::hidden + channel);
      }
    return in;
  }
  template <class Sums>
  __device__ void store(Sums const& s, inputs<Sums::rows> const& in, float const* table, eight_sums& sums, int b, int y,
                        int x, int channel) const {
    int const g = int(threadIdx.x) % 32 / 4;
    eight_masks const eight{table, G::hidden, channel};
#pragma unroll
    for (int r = 0; r < Sums::rows; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        int const column = x + g + 8 * half;
        if (y + r >= G::plane_height || column >= G::plane_width) continue;
        float v[8];
        lane_sums(s, r, half, v);
        *reinterpret_cast<uint4*>(dz + plane_position<G, false>(b, y + r, column) * G::hidden + channel) =
            eight.apply<T>(v, in.raw[r][half], sums);
      }
  }
};

}  // namespace dm2::cuda::detail
