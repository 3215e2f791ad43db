/// @file
/// The gradient of the attention mixer between its projections as one kernel, for sequences that fit in a block's shared
/// memory.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/attention_core.cuh>
#include <dm2/cuda/attention_core/backward_inputs.cuh>
#include <dm2/cuda/attention_core/backward_tensor.cuh>
#include <dm2/cuda/check.cuh>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/tile/packet.cuh>

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

/// What lies beside the kernel.
template <attention_shape A>
struct fused_backward_scratch {
  float* sums;  ///< [B, taps + 1, 3 H d]
  float* conv;  ///< [3 H d, taps], a copy for where the parameter does not start at 16 bytes
  float* bias;  ///< [3 H d], the same

  fused_backward_scratch(arena& s, std::size_t count)
      : sums{s.template take<float>(A.d_conv == 0 ? 0 : count * 3 * A.width() * (A.d_conv + 1))},
        conv{s.template take<float>(std::size_t(3) * A.width() * A.d_conv)},
        bias{s.template take<float>(A.d_conv == 0 ? 0 : std::size_t(3) * A.width())} {}
};

/// Where n numbers of a parameter can be read as vectors: `from`, or `copy`, to which they are copied then.
inline float const* aligned_parameter(cudaStream_t stream, float const* from, float* copy, std::size_t n) {
  if (vectors_aligned(from)) return from;
  check(cudaMemcpyAsync(copy, from, n * sizeof(float), cudaMemcpyDeviceToDevice, stream), "attention_core_backward");
  return copy;
}

/// False where the length, the device or an activation's address does not allow the kernel, and nothing was launched.
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
        !vectors_aligned(qkv.data, dy.data, dqkv.data))
      return false;
    std::size_t const count = qkv.count / std::size_t(length);
    if (!ctx.reserve(planned_bytes<fused_backward_scratch<A>>(count)) || count == 0) return true;
    arena_scope const scope{ctx.shared()};
    fused_backward_scratch<A> const s{ctx.shared(), count};
    static rotary_turns<traits::pairs> const turns = make_rotary_turns<traits>();
    float const* const conv = aligned_parameter(ctx.stream(), p.conv.data, s.conv, p.conv.size);
    float const* const bias = aligned_parameter(ctx.stream(), p.conv_bias.data, s.bias, p.conv_bias.size);
    attention_backward_call<traits> const call{qkv.data, dy.data, dqkv.data, s.sums, {conv, bias, turns}, length};
    prefer_shared("attention_core_backward", attention_backward_kernel<traits>);
    launch("attention_core_backward", attention_backward_kernel<traits>,
           {dim3(unsigned(count) * unsigned(traits::heads)), traits::threads, traits::bytes}, ctx.stream(), call);
    if constexpr (A.d_conv != 0)
      launch("attention_core_backward: sums", attention_sums_kernel<sizes>,
             {dim3(blocks_for(std::size_t{sizes::sums}, 32)), sizes::threads}, ctx.stream(), s.sums, int(count),
             grad.conv.data, grad.conv_bias.data);
    return true;
  }
}

}  // namespace dm2::cuda::detail
