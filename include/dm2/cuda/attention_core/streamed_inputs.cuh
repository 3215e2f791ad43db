/// @file
/// What the streamed attention reads: q, k and v, convolved and turned.
///
/// They are made once and lie head after head, [B, H, 3, L, d], so that a tile of tokens is one piece of memory and no
/// tile has to know of the tokens before it. A thread takes eight channels of a run of tokens, whose last raw numbers
/// stay in its registers.
#pragma once

#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/attention_core/inputs.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/device/properties.cuh>
#include <dm2/cuda/instructions/early_start.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/tile/copy_rows.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <algorithm>
#include <cstddef>

namespace dm2::cuda::detail::attention_core {

/// Sizes of the streamed attention, forward and backward. Keys and values, or queries and dy, pass through shared
/// memory in two stages of `tile` tokens.
template <attention_shape A, class T>
struct streamed_traits : traits<A, T> {
  using base = traits<A, T>;
  static constexpr int tile = 64;
  static constexpr int stage = 2 * tile * base::pitch;  ///< elements of both arrays
  static constexpr std::size_t bytes = std::size_t{2} * stage * sizeof(T);
  /// The forward: a warp takes up to two tiles of 16 queries, so that a fragment of keys or values from shared memory
  /// serves twice. Two blocks a multiprocessor.
  static constexpr int most_tiles = 2, warps = 4;
  /// Fewer scores at a time where a head's outputs take half of the registers.
  static constexpr int key_groups = base::padded <= 96 ? 2 : 1;
  /// The backward: a warp takes 16 queries, then 16 keys. Up to 96 channels two blocks of six warps find 168 registers
  /// a thread, which the queries' gradient needs; eight warps with 255 else.
  static constexpr int queries_warps = base::padded <= 96 ? 6 : 8, queries_blocks = base::padded <= 96 ? 2 : 1;
  static constexpr int keys_warps = 8;
  static constexpr std::size_t keys_bytes = bytes + std::size_t{2} * tile * 8;  ///< with the queries' statistics
  static constexpr int inputs_units = 3 * base::heads * base::units, inputs_threads = 128;
  static_assert(2 * tile >= 16 * std::max({most_tiles * warps, queries_warps, keys_warps}),
                "dm2::cuda::detail::attention_core::streamed_traits: a block's own tokens pass through one stage");
};

/// One launch.
template <class Tr>
struct streamed_inputs_arguments {
  typename Tr::element const* qkv;  ///< [B L, 3 width], 16-byte aligned
  typename Tr::element* inputs;     ///< [B, H, 3, L, d]
  run_parameters<Tr> parameters;
  std::size_t count;  ///< B
  int length;         ///< L
  int run;            ///< tokens of a thread
};

/// A thread: unit, run, sequence, the unit fastest.
template <class Tr>
__global__ void __launch_bounds__(Tr::inputs_threads, 4)
    streamed_inputs_kernel(__grid_constant__ streamed_inputs_arguments<Tr> const call) {
  let_next_start();
  wait_for_previous();
  std::size_t const index = std::size_t{blockIdx.x} * Tr::inputs_threads + threadIdx.x;
  int const runs = (call.length - 1) / call.run + 1;
  std::size_t const task = index / Tr::inputs_units, sequence = task / unsigned(runs);
  if (sequence >= call.count) return;
  int const unit = int(index % Tr::inputs_units), first = int(task % unsigned(runs)) * call.run;
  int const part = unit / Tr::units, which = part / Tr::heads, head = part % Tr::heads;  // of q, k and v
  std::size_t const from = (sequence * unsigned(call.length) + unsigned(first)) * (3 * Tr::width);
  std::size_t const to = ((sequence * Tr::heads + unsigned(head)) * 3 + unsigned(which)) * unsigned(call.length);
  token_run<Tr> run;
  run.prepare(call.parameters, part * Tr::head_dim, unit % Tr::units, which < 2, first);
  auto const* const rows = call.qkv + from + part * Tr::head_dim;
  run.template read_past<3 * Tr::width>(rows, first);
  run.template apply<3 * Tr::width, Tr::head_dim, 2 * token_run<Tr>::batch>(
      rows, call.inputs + (to + unsigned(first)) * Tr::head_dim, min(call.run, call.length - first));
}

/// Fills `inputs` from qkv.
template <class Tr>
void launch_streamed_inputs(device_properties const& device, cudaStream_t stream, bool early,
                            streamed_inputs_arguments<Tr> call) {
  // Short runs read more tokens twice, but fill the device where there is little work.
  std::size_t const threads = call.count * std::size_t(call.length) * Tr::inputs_units;
  for (call.run = 8; call.run < 32 && threads / unsigned(call.run) >= std::size_t(device.multiprocessors) * 1024;)
    call.run *= 2;
  std::size_t const runs = call.count * std::size_t((call.length - 1) / call.run + 1);
  launch("attention_core: inputs", streamed_inputs_kernel<Tr>,
         {blocks_for(runs * Tr::inputs_units, Tr::inputs_threads), Tr::inputs_threads, 0, early}, stream, call);
}

/// Starts copies of n tokens from `first` on, whose channels are Stride numbers apart in `from`, to rows of shared
/// memory; tokens from `length` on, and channels that only fill a fragment, become zeros. All threads share them.
template <class Tr, int Stride>
__device__ inline void copy_head_tokens(typename Tr::element const* from, typename Tr::element* to, int first, int n,
                                        int length) {
  row_source<typename Tr::element> const tokens{from, Stride, length, Tr::units * 8};
  copy_rows<Tr::padded>(shared_address(to), Tr::pitch * 2, tokens, first, n, int(threadIdx.x), int(blockDim.x));
}

/// Two arrays of one head's tokens that pass through shared memory tile after tile, the next one while one is read.
template <class Tr, int LeftStride, int RightStride>
struct token_stream {
  using T = typename Tr::element;
  T const *left, *right;  ///< token 0's first channel
  T* shared;              ///< two stages
  int length, tiles;

  __device__ token_stream(T const* left_tokens, T const* right_tokens, T* memory, int tokens)
      : left{left_tokens}, right{right_tokens}, shared{memory}, length{tokens}, tiles{(tokens - 1) / Tr::tile + 1} {}

  /// Starts the copy of tile i, counted on from round to round over all tokens, to its stage.
  __device__ void start(int i) const {
    int const first = i % tiles * Tr::tile;
    copy_head_tokens<Tr, LeftStride>(left, stage(i), first, Tr::tile, length);
    copy_head_tokens<Tr, RightStride>(right, stage(i) + Tr::tile * Tr::pitch, first, Tr::tile, length);
    commit_copies();
  }
  /// Waits for tile i, starts the next one of `count`, and gives tile i: the left rows, then the right ones. All
  /// threads; they have read tile i - 1.
  __device__ T const* next(int i, int count) const {
    wait_copies<0>();
    __syncthreads();
    if (i + 1 < count) start(i + 1);
    return stage(i);
  }
  /// Valid tokens of tile i.
  __device__ int valid(int i) const { return min(Tr::tile, length - i % tiles * Tr::tile); }
  __device__ T* stage(int i) const { return shared + i % 2 * Tr::stage; }
};

}  // namespace dm2::cuda::detail::attention_core
