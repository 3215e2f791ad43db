/// @file
/// Patches and class tokens of sequences, apart.
///
/// Rows without the class token as one matrix.
#pragma once

#include <dm2/core/view.hpp>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/gemm.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dm2::cuda::detail::heads {

/// Which way rows are moved: from sequences to patches alone, or back.
enum class patch_move : bool { gather, scatter };

/// patches [B (length - 1), Packets N] = tokens [B, length, Packets N] without token `middle` of each, or those = the
/// former. A thread moves N neighbouring numbers.
template <patch_move Move, int Packets, int N, class T>
__global__ void __launch_bounds__(256) move_patches_kernel(T const* __restrict__ from, T* __restrict__ to,
                                                           std::size_t patches, unsigned length, unsigned middle) {
  std::size_t const at = std::size_t{blockIdx.x} * 256 + threadIdx.x;
  std::size_t const row = at / Packets, column = at % Packets;
  if (row >= patches) return;
  unsigned const sequence = unsigned(row) / (length - 1), patch = unsigned(row) % (length - 1);
  std::size_t const token = std::size_t{sequence} * length + patch + (patch >= middle ? 1 : 0);
  std::size_t const there = (token * Packets + column) * N, here = at * N;
  if constexpr (Move == patch_move::gather)
    store_packet<N>(to + here, load_packet<N>(from + there));
  else
    store_packet<N>(to + there, load_packet<N>(from + here));
}

/// Moves `patches` patches of sequences of `length` tokens, fewer than 2^32.
template <patch_move Move, int D, class T>
void move_patches(char const* name, cudaStream_t stream, T const* from, T* to, std::size_t patches, int length) {
  if (patches == 0) return;
  constexpr int wide = 16 / int(sizeof(T)), n = D % wide == 0 ? wide : 1;
  auto const launch_move = [&]<int N>(std::integral_constant<int, N>) {
    launch(name, move_patches_kernel<Move, D / N, N, T>, {blocks_for(patches * (D / N), 256), 256}, stream, from, to,
           patches, unsigned(length), unsigned(length - 1) / 2);
  };
  if (packets_at<n>(from) && packets_at<n>(to))
    launch_move(std::integral_constant<int, n>{});
  else
    launch_move(std::integral_constant<int, 1>{});
}

/// The class tokens [B, D] of features [B L, D], where they lie.
template <class T, int D>
matrix<T> class_tokens(rows<T, D, space::device> features, int batch, int length) {
  std::ptrdiff_t const first = std::ptrdiff_t{(length - 1) / 2} * D;
  return {features.data == nullptr ? nullptr : features.data + first, batch, D, std::int64_t{length} * D};
}

}  // namespace dm2::cuda::detail::heads
