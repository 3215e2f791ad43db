/// @file
/// The stem's weights in training as plain matrices.
///
/// In the products' elements; and their gradients back in place.
///
/// A convolution's matrix is [output channel, tap, input channel], each row filled up with zeros to a multiple of 8
/// numbers, so that 16-bit rows start at multiples of 16 bytes.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/stem/layout.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/tile/partial_sums.cuh>

#include <algorithm>
#include <array>
#include <cstddef>

namespace dm2::cuda::detail::stem_train {

/// Numbers of a row of `taps` taps of `inner` channels.
constexpr int padded_row(int taps, int inner) { return (taps * inner + 7) / 8 * 8; }

/// How a weight [Outer, Inner, Taps] of the parameters lies in a matrix.
enum class order : unsigned char {
  forward,  ///< [outer, tap, inner], what the forward multiplies with
  mirrored  ///< [inner, last tap first, outer]: the convolution that gives the gradient of the input
};

/// Where weight (outer, inner, tap) lies in a matrix of that order.
template <order O, int Outer, int Inner, int Taps>
__host__ __device__ constexpr int weight_position(int outer, int inner, int tap) {
  if constexpr (O == order::forward)
    return outer * ((Taps * Inner + 7) / 8 * 8) + tap * Inner + inner;
  else
    return inner * ((Taps * Outer + 7) / 8 * 8) + (Taps - 1 - tap) * Outer + outer;
}

/// to = w [Outer, Inner, Taps] in order O, rounded; the zeros at a row's end are there already. A thread a weight.
template <order O, int Outer, int Inner, int Taps, class T>
__global__ void __launch_bounds__(256) arrange_kernel(float const* __restrict__ w, T* __restrict__ to) {
  int const i = int(blockIdx.x) * 256 + int(threadIdx.x);
  if (i >= Outer * Inner * Taps) return;
  to[weight_position<O, Outer, Inner, Taps>(i / (Taps * Inner), i / Taps % Inner, i % Taps)] = from_float<T>(w[i]);
}

/// dw [Outer, Inner, Taps] += the gradient of the forward's matrix. A thread a weight.
template <int Outer, int Inner, int Taps>
__global__ void __launch_bounds__(256) add_gradient_kernel(float const* __restrict__ matrix, float* __restrict__ dw) {
  int const i = int(blockIdx.x) * 256 + int(threadIdx.x);
  if (i >= Outer * Inner * Taps) return;
  dw[i] += matrix[weight_position<order::forward, Outer, Inner, Taps>(i / (Taps * Inner), i / Taps % Inner, i % Taps)];
}

/// to[Layout(tap, input channel, output channel)] = w [Outer, Inner, Taps], rounded. Mirrored: the convolution that
/// gives the gradient of the input, whose output channels are Inner. A thread a weight.
template <class Layout, bool Mirrored, int Outer, int Inner, int Taps, class T>
__global__ void __launch_bounds__(256) lay_out_kernel(float const* __restrict__ w, T* __restrict__ to) {
  int const i = int(blockIdx.x) * 256 + int(threadIdx.x);
  if (i >= Outer * Inner * Taps) return;
  int const outer = i / (Taps * Inner), inner = i / Taps % Inner, tap = i % Taps;
  to[Mirrored ? Layout::index(Taps - 1 - tap, outer, inner) : Layout::index(tap, inner, outer)] = from_float<T>(w[i]);
}

/// Adds number i of a part to dw[Place(i)]; numbers with a negative place stand for no weight.
template <class Place>
struct weight_adder {
  float* dw;

  __device__ void operator()(int i, float sum) const {
    if (int const to = Place::of(i); to >= 0) dw[to] += sum;
  }
};

/// Sizes of a stem's matrices.
template <stem_shape S>
struct matrices {
  static constexpr int side = S.patch / 2;
  static constexpr int conv1_row = padded_row(49, S.channels), conv3_row = padded_row(9, S.hidden);
  static constexpr int depth = side * side * S.hidden, project_row = padded_row(side * side, S.hidden);
  static constexpr std::size_t conv1 = std::size_t(S.hidden) * conv1_row, conv3 = std::size_t(S.hidden) * conv3_row;
  static constexpr std::size_t project = std::size_t(S.dim) * project_row;
  static constexpr int widest_row = std::max(conv1_row, conv3_row);

  /// Columns and numbers of convolution `stage`.
  static constexpr int row(std::size_t stage) { return stage == 0 ? conv1_row : conv3_row; }
  static constexpr std::size_t size(std::size_t stage) { return stage == 0 ? conv1 : conv3; }
};

/// Launches arrange_kernel over zeros.
template <order O, int Outer, int Inner, int Taps, class T>
void arrange_weights(cudaStream_t stream, float const* w, T* to, std::size_t size) {
  if (size != std::size_t(Outer) * Inner * Taps)
    check(cudaMemsetAsync(to, 0, size * sizeof(T), stream), "stem: zeros of the weights");
  launch("stem: weights", arrange_kernel<O, Outer, Inner, Taps, T>,
         {blocks_for(std::size_t(Outer) * Inner * Taps, 256), 256}, stream, w, to);
}

/// Launches lay_out_kernel, over zeros where the layout has more numbers.
template <class Layout, bool Mirrored, int Outer, int Inner, int Taps, class T>
void lay_out_weights(cudaStream_t stream, float const* w, T* to) {
  if (Layout::size != std::size_t(Outer) * Inner * Taps)
    check(cudaMemsetAsync(to, 0, Layout::size * sizeof(T), stream), "stem: zeros of the weights");
  launch("stem: weights", lay_out_kernel<Layout, Mirrored, Outer, Inner, Taps, T>,
         {blocks_for(std::size_t(Outer) * Inner * Taps, 256), 256}, stream, w, to);
}

/// dw[Place(i)] += the sums of parts [count, size] of number i, in their order.
template <class Place>
void reduce_parts(cudaStream_t stream, float const* parts, int count, int size, float* dw) {
  add_parts_to<1>("stem: sum of the weights' gradients", stream, parts, count, size, weight_adder<Place>{dw});
}

/// Launches add_gradient_kernel.
template <int Outer, int Inner, int Taps>
void add_gradient(cudaStream_t stream, float const* matrix, float* dw) {
  launch("stem: gradient of the weights", add_gradient_kernel<Outer, Inner, Taps>,
         {blocks_for(std::size_t(Outer) * Inner * Taps, 256), 256}, stream, matrix, dw);
}

}  // namespace dm2::cuda::detail::stem_train
