/// @file
/// The stem's projection of patches in training on tensor cores.
#pragma once

#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/stem/project.cuh>
#include <dm2/cuda/stem_train/eight_channels.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail {

/// The forward's inputs are raw outputs, patch after patch: BatchNorm and ReLU are applied in shared memory. A step of
/// 64 inputs is a pixel of 64 channels.
struct activated_inputs {
  stem_train_norm norm;

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

}  // namespace dm2::cuda::detail
