/// @file
/// The attention for any length: keys and values stream past queries.
///
/// A block takes some query rows of one head of one sequence, each of its warps 32, or 16 where there are few, in
/// registers. What a tile of keys adds is taken in with a running maximum and sum, so that nothing grows with the
/// length.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/attention_core/softmax.cuh>
#include <dm2/cuda/attention_core/streamed_inputs.cuh>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/dynamic_shared.cuh>
#include <dm2/cuda/instructions/early_start.cuh>
#include <dm2/cuda/instructions/mma.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace dm2::cuda::detail::attention_core {

/// How the tokens of a head are shared out: `blocks` blocks of `warps` warps, each of which takes `rows` of them.
struct token_blocks {
  int blocks, warps;

  /// As few blocks as `most` warps allow; more where `heads` heads of that many would leave multiprocessors idle.
  token_blocks(device_properties const& device, std::size_t heads, int length, int rows, int most) {
    int const all = (length - 1) / rows + 1, fewest = (all - 1) / most + 1;
    std::size_t const wanted = (2 * std::size_t(device.multiprocessors) - 1) / heads + 1;
    blocks = std::max(fewest, int(std::min(wanted, std::size_t(all))));
    warps = (all - 1) / blocks + 1;
    blocks = (all - 1) / warps + 1;
  }
};

/// One launch.
template <class Tr>
struct streamed_arguments {
  typename Tr::element const* inputs;  ///< [B, H, 3, L, d]
  typename Tr::element* y;             ///< [B L, width], 16-byte aligned
  int length;                          ///< L
  int blocks;                          ///< that share a head's rows
};

/// A warp takes Tiles tiles of 16 rows. Block: query rows, head, sequence, the rows fastest.
template <class Tr, int Tiles>
__global__ void __launch_bounds__(32 * Tr::warps, 2)
    streamed_kernel(__grid_constant__ streamed_arguments<Tr> const call) {
  constexpr int rows = 16 * Tiles;
  let_next_start();
  wait_for_previous();
  using T = typename Tr::element;
  T* const shared = reinterpret_cast<T*>(dynamic_shared());
  int const warps = int(blockDim.x) / 32, warp = int(threadIdx.x) / 32;
  unsigned const task = blockIdx.x / unsigned(call.blocks);
  int const block_first = int(blockIdx.x % unsigned(call.blocks)) * warps * rows, first = block_first + warp * rows;
  std::size_t const head = std::size_t{task} * 3 * unsigned(call.length), one = std::size_t(call.length) * Tr::head_dim;
  T const* const queries = call.inputs + head * Tr::head_dim;
  token_stream<Tr, Tr::head_dim, Tr::head_dim> const stream{queries + one, queries + 2 * one, shared, call.length};
  copy_head_tokens<Tr, Tr::head_dim>(queries, stream.stage(1), block_first, warps * rows, call.length);
  stream.start(0);
  wait_copies<0>();
  __syncthreads();
  std::uint32_t q[Tiles][Tr::padded / 16][4];
#pragma unroll
  for (int i = 0; i < Tiles; ++i)
    load_rows<Tr>(left_address<Tr>(stream.stage(1) + (warp * rows + 16 * i) * Tr::pitch), q[i]);
  softmax_state<Tr, Tiles> state;
#pragma unroll 1
  for (int i = 0; i < stream.tiles; ++i) {
    T const* const keys = stream.next(i, stream.tiles);
    if (first < call.length)
      attend_all(q, state, column_address<Tr>(keys), row_address<Tr>(keys + Tr::tile * Tr::pitch), stream.valid(i));
  }
  std::size_t const row = std::size_t{task / unsigned(Tr::heads)} * unsigned(call.length);
  if (first < call.length)
    write_outputs(call.y + row * Tr::width + task % unsigned(Tr::heads) * Tr::head_dim, state, first, call.length);
}

/// What lies between the kernels, and parameters that start at multiples of 16 bytes.
template <attention_shape A, class T>
struct streamed_scratch {
  T* inputs;    ///< [B, H, 3, L, d]
  float* conv;  ///< [3 H d, taps], a copy for where the parameter does not start at 16 bytes
  float* bias;  ///< [3 H d], the same

  streamed_scratch(arena& s, std::size_t tokens)
      : inputs{s.template take<T>(tokens * 3 * A.width())},
        conv{s.template take<float>(std::size_t(3) * A.width() * A.d_conv)},
        bias{s.template take<float>(A.d_conv == 0 ? 0 : std::size_t(3) * A.width())} {}
};

/// Convolves and turns qkv to s.inputs; what it does that with.
template <attention_shape A, precision P>
run_parameters<streamed_traits<A, element<P>>> streamed_inputs(
    context<P>& ctx, rows<element<P> const, 3 * A.width(), space::device> qkv,
    attention_parameters<A, float const, space::device> const& p, streamed_scratch<A, element<P>> const& s,
    int length) {
  using traits = streamed_traits<A, element<P>>;
  static rotary_turns<traits::pairs> const turns = make_rotary_turns<traits>();
  float const* const conv = aligned_parameter(ctx.stream(), p.conv.data, s.conv, p.conv.size);
  float const* const bias = aligned_parameter(ctx.stream(), p.conv_bias.data, s.bias, p.conv_bias.size);
  run_parameters<traits> const parameters{conv, bias, turns};
  launch_streamed_inputs<traits>(ctx.device(), ctx.stream(), ctx.early(),
                                 {qkv.data, s.inputs, parameters, qkv.count / std::size_t(length), length, 0});
  return parameters;
}

/// From s.inputs to y.
template <int Tiles, attention_shape A, precision P>
void streamed_heads(context<P>& ctx, streamed_scratch<A, element<P>> const& s, element<P>* y, std::size_t heads,
                    int length) {
  using traits = streamed_traits<A, element<P>>;
  auto* const kernel = streamed_kernel<traits, Tiles>;
  token_blocks const plan{ctx.device(), heads, length, 16 * Tiles, traits::warps};
  prefer_shared("attention_core", kernel);
  launch("attention_core", kernel,
         {dim3(unsigned(heads * std::size_t(plan.blocks))), 32 * plan.warps, traits::bytes, ctx.early()}, ctx.stream(),
         streamed_arguments<traits>{s.inputs, y, length, plan.blocks});
}

/// False where the device or an activation's address does not allow the streamed kernels, and nothing was launched.
///
/// Scratch  3 H d elements a token.
template <attention_shape A, precision P>
bool try_streamed(context<P>& ctx, rows<element<P> const, 3 * A.width(), space::device> qkv,
                  attention_parameters<A, float const, space::device> const& p,
                  rows<element<P>, A.width(), space::device> y, int length) {
  using traits = streamed_traits<A, element<P>>;
  std::size_t const heads = qkv.count / std::size_t(length) * traits::heads;
  std::size_t const tiles = heads * std::size_t((length - 1) / 16 + 1);  // of 16 queries
  if (ctx.device().shared_per_block < int(traits::bytes) || tiles > std::size_t(std::numeric_limits<int>::max()) ||
      !vectors_aligned(qkv.data, y.data))
    return false;
  if (!ctx.reserve(planned_bytes<streamed_scratch<A, element<P>>>(qkv.count))) return true;
  arena_scope const scope{ctx.shared()};
  streamed_scratch<A, element<P>> const s{ctx.shared(), qkv.count};
  streamed_inputs<A, P>(ctx, qkv, p, s, length);
  // Few warps are done sooner with one tile each than with a fragment that serves two.
  if (tiles < std::size_t(ctx.device().multiprocessors) * (2 * traits::warps))
    streamed_heads<1, A, P>(ctx, s, y.data, heads, length);
  else
    streamed_heads<2, A, P>(ctx, s, y.data, heads, length);
  return true;
}

}  // namespace dm2::cuda::detail::attention_core
