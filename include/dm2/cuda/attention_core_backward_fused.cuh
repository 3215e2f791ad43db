/// @file
/// The gradient of the attention mixer between its projections as one kernel, for sequences that fit in a block's shared
/// memory.
#pragma once

#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/attention_core.cuh>
#include <dm2/cuda/attention_core_backward_kernel.cuh>
#include <dm2/cuda/attention_inputs_backward.cuh>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/launch.cuh>
#include <dm2/cuda/packet.cuh>

#include <cstddef>

namespace dm2::cuda::detail {

/// Whether the kernel for sequences of up to 16 Groups tokens has code for a shape: what the forward's tensor kernel
/// takes, and whole fragments on either side of what rotary turns.
template <attention_shape A, class T, int Groups>
constexpr bool attention_backward_fits() {
  if constexpr (!attention_fits<T>(A) || A.rotary % 16 != 0)
    return false;
  else
    return attention_backward_traits<A, T, Groups>::fits;
}

/// False where the length, the device or an address does not allow the kernel, and nothing was launched. Scratch is
/// 3 H d (d_conv + 1) floats a sequence.
template <int Groups, attention_shape A, precision P>
bool attention_core_backward_fused(context<P>& ctx, rows<element<P> const, 3 * A.width(), space::device> qkv,
                                   attention_parameters<A, float const, space::device> const& p,
                                   rows<element<P> const, A.width(), space::device> dy,
                                   rows<element<P>, 3 * A.width(), space::device> dqkv,
                                   attention_parameters<A, float, space::device> const& grad, int length) {
  if constexpr (!attention_backward_fits<A, element<P>, Groups>()) {
    return false;
  } else {
    using traits = attention_backward_traits<A, element<P>, Groups>;
    using sizes = inputs_backward_traits<traits>;
    if (length > traits::tokens || ctx.device().shared_per_block < int(traits::bytes) ||
        !vectors_aligned(qkv.data, dy.data, dqkv.data, p.conv.data, p.conv_bias.data))
      return false;
    std::size_t const count = qkv.count / std::size_t(length), numbers = count * sizes::sums;
    if (!ctx.reserve(numbers * sizeof(float) + arena::alignment) || count == 0) return true;
    arena_scope const scope{ctx.shared()};
    static rotary_turns<traits::pairs> const turns = make_rotary_turns<traits>();
    attention_backward_call<traits> const call{qkv.data,
                                               dy.data,
                                               dqkv.data,
                                               ctx.shared().template take<float>(numbers),
                                               {p.conv.data, p.conv_bias.data, turns},
                                               length};
    prefer_shared("attention_core_backward", attention_backward_kernel<traits>);
    launch("attention_core_backward", attention_backward_kernel<traits>,
           {dim3(unsigned(count) * unsigned(traits::heads)), traits::threads, traits::bytes}, ctx.stream(), call);
    if constexpr (A.d_conv != 0)
      launch("attention_core_backward: sums", attention_sums_kernel<sizes>,
             {dim3(blocks_for(std::size_t{sizes::sums}, 32)), sizes::threads}, ctx.stream(), call.sums, int(count),
             grad.conv.data, grad.conv_bias.data);
    return true;
  }
}

}  // namespace dm2::cuda::detail
