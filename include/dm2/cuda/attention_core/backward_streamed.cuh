/// @file
/// The gradient of the streamed attention, for any length.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/attention_core/backward_inputs.cuh>
#include <dm2/cuda/attention_core/backward_streamed_heads.cuh>
#include <dm2/cuda/attention_core/backward_streamed_inputs.cuh>
#include <dm2/cuda/attention_core/streamed.cuh>
#include <dm2/cuda/attention_core/streamed_inputs.cuh>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <cstddef>
#include <limits>

namespace dm2::cuda::detail::attention_core {

/// What lies between the kernels.
template <attention_shape A, class T>
struct streamed_backward_scratch : streamed_scratch<A, T> {
  using sizes = inputs_backward_traits<streamed_traits<A, T>>;
  T* d;                            ///< as inputs: their gradients
  softmax_statistics* statistics;  ///< [B, H, L]
  float* sums;                     ///< [parts, taps + 1, 3 H d]

  streamed_backward_scratch(arena& s, std::size_t tokens, int length)
      : streamed_scratch<A, T>{s, tokens},
        d{s.template take<T>(tokens * 3 * A.width())},
        statistics{s.template take<softmax_statistics>(tokens * A.heads)},
        sums{s.template take<float>(std::size_t(sizes::parts(tokens / std::size_t(length), length)) * sizes::sums)} {}
};

/// From s.inputs to s.d.
template <attention_shape A, class T>
void streamed_heads_backward(device_properties const& device, cudaStream_t stream, T const* dy,
                             streamed_backward_scratch<A, T> const& s, std::size_t heads, int length) {
  using traits = streamed_traits<A, T>;
  streamed_backward_arguments<traits> call{
      .inputs = s.inputs, .dy = dy, .d = s.d, .statistics = s.statistics, .length = length, .blocks = 0};
  auto const run = [&](char const* name, auto* kernel, int most_warps, std::size_t bytes) {
    token_blocks const plan{device, heads, length, 16, most_warps};
    call.blocks = plan.blocks;
    prefer_shared(name, kernel);
    launch(name, kernel, {dim3(unsigned(heads * std::size_t(plan.blocks))), 32 * plan.warps, bytes}, stream, call);
  };
  run("attention_core_backward: queries", streamed_queries_backward_kernel<traits>, traits::queries_warps,
      traits::bytes);
  run("attention_core_backward: keys", streamed_keys_backward_kernel<traits>, traits::keys_warps, traits::keys_bytes);
}

/// False where the device or an activation's address does not allow the streamed kernels, and nothing was launched.
///
/// Scratch  2 * 3 H d elements and 2 H floats a token.
template <attention_shape A, precision P>
bool try_backward_streamed(context<P>& ctx, rows<element<P> const, 3 * A.width(), space::device> qkv,
                           attention_parameters<A, float const, space::device> const& p,
                           rows<element<P> const, A.width(), space::device> dy,
                           rows<element<P>, 3 * A.width(), space::device> dqkv,
                           attention_parameters<A, float, space::device> const& grad, int length) {
  using traits = streamed_traits<A, element<P>>;
  using sizes = inputs_backward_traits<traits>;
  std::size_t const count = qkv.count / std::size_t(length), heads = count * traits::heads;
  std::size_t const most_blocks = heads * std::size_t((length - 1) / 16 + 1);
  if (ctx.device().shared_per_block < int(traits::keys_bytes) ||
      most_blocks > std::size_t(std::numeric_limits<int>::max()) || !vectors_aligned(qkv.data, dy.data, dqkv.data))
    return false;
  using scratch = streamed_backward_scratch<A, element<P>>;
  if (!ctx.reserve(planned_bytes<scratch>(qkv.count, length)) || count == 0) return true;
  arena_scope const scope{ctx.shared()};
  scratch const s{ctx.shared(), qkv.count, length};
  auto const parameters = streamed_inputs<A, P>(ctx, qkv, p, s, length);
  streamed_heads_backward<A>(ctx.device(), ctx.stream(), dy.data, s, heads, length);
  int const parts = sizes::parts(count, length);
  launch("attention_core_backward: convolution", streamed_inputs_backward_kernel<traits>,
         {dim3(blocks_for(std::size_t{sizes::channels}, 128), unsigned(parts)), sizes::threads}, ctx.stream(),
         streamed_inputs_backward_arguments<traits>{.qkv = qkv.data,
                                                    .d = s.d,
                                                    .dqkv = dqkv.data,
                                                    .sums = s.sums,
                                                    .parameters = parameters,
                                                    .count = int(count),
                                                    .length = length});
  if constexpr (A.d_conv != 0)
    add_convolution_sums<sizes>(ctx.stream(), s.sums, parts, grad.conv.data, grad.conv_bias.data);
  return true;
}

}  // namespace dm2::cuda::detail::attention_core
