/// @file
/// The attention mixer between its projections: causal convolution over q, k and v, rotary embedding, softmax
/// attention.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/attention_core/general.cuh>
#include <dm2/cuda/attention_core/streamed.cuh>
#include <dm2/cuda/attention_core/tensor.cuh>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <type_traits>

namespace dm2::cuda {
namespace detail::attention_core {

/// Whether the tensor kernel has code for a shape: whole fragments, and groups of four channels on either side of what
/// rotary turns.
template <class T>
constexpr bool tensor_fits(attention_shape s) {
  return is_half<T> && s.head_dim % 16 == 0 && s.head_dim <= 128 && s.rotary % 8 == 0 && s.rotary <= s.head_dim &&
         s.d_conv <= 4;
}

/// Whether the streamed kernels have code for a shape: heads of whole pieces of 16 bytes, which are padded to
/// fragments, and groups of four channels on either side of what rotary turns.
template <class T>
constexpr bool streams(attention_shape s) {
  return is_half<T> && s.head_dim % 8 == 0 && s.head_dim <= 128 && s.rotary % 8 == 0 && s.rotary <= s.head_dim &&
         s.d_conv <= 4;
}

/// How the tensor kernel is launched.
struct plan {
  int capacity;       ///< keys in shared memory; 0 where they do not fit
  int parts;          ///< blocks that share a head's rows
  int rounds;         ///< groups of rows a block
  std::size_t bytes;  ///< of shared memory
};

template <class Tr>
plan make_plan(device_properties const& device, std::size_t count, int length) {
  constexpr int most = 256;  // keys, which keeps a run of tokens, and with it the error of its angles, short
  constexpr std::size_t row = Tr::pitch * 2;
  constexpr int queries = Tr::warps * (16 + Tr::halo);
  plan p{};
  int const fit = ((device.shared_per_block / int(row) - queries) / 2 - Tr::halo) / 16 * 16;
  if (length > std::min(fit, most)) return p;
  p.capacity = (length + 15) / 16 * 16;
  p.bytes = row * std::size_t(2 * (p.capacity + Tr::halo) + queries);
  int const groups = (length - 1) / (16 * Tr::warps) + 1;
  // Few sequences: the rows of a head go to several blocks, each of which convolves the keys again.
  std::size_t const idle = std::size_t(device.multiprocessors) / (count * Tr::heads);
  p.parts = int(std::min(std::size_t(groups), std::max(idle, std::size_t{1})));
  p.rounds = (groups - 1) / p.parts + 1;
  p.parts = (groups - 1) / p.rounds + 1;
  return p;
}

template <class Tr>
void launch_tensor(arguments<Tr> const& call, plan const& plan, unsigned blocks, cudaStream_t stream, bool early) {
  prefer_shared("attention_core", tensor_kernel<Tr>);
  launch("attention_core", tensor_kernel<Tr>, {blocks, Tr::threads, plan.bytes, early}, stream, call);
}

/// False where the length, the device or an address does not allow the tensor kernel, and nothing was launched.
template <attention_shape A, precision P>
bool try_tensor(context<P>& ctx, rows<element<P> const, 3 * A.width(), space::device> qkv,
                attention_parameters<A, float const, space::device> const& p,
                rows<element<P>, A.width(), space::device> y, int length) {
  using traits = attention_core::traits<A, element<P>>;
  std::size_t const count = qkv.count / std::size_t(length);
  plan const plan = make_plan<traits>(ctx.device(), count, length);
  std::size_t const blocks = count * std::size_t(traits::heads) * std::size_t(plan.parts);
  if (plan.capacity == 0 || blocks > std::size_t(std::numeric_limits<int>::max()) ||
      !vectors_aligned(qkv.data, y.data, p.conv.data, p.conv_bias.data))
    return false;
  if (!ctx.reserve(0)) return true;
  static rotary_turns<traits::pairs> const turns = make_rotary_turns<traits>();
  arguments<traits> const call{.qkv = qkv.data,
                               .y = y.data,
                               .run = {p.conv.data, p.conv_bias.data, turns},
                               .length = length,
                               .capacity = plan.capacity,
                               .parts = plan.parts,
                               .rounds = plan.rounds};
  launch_tensor(call, plan, unsigned(blocks), ctx.stream(), ctx.early());
  return true;
}

}  // namespace detail::attention_core

/// y = softmax(q k^T / sqrt(d)) v for each head, not causal; q, k, v = conv(qkv), q and k turned by their position.
///
/// Shapes   qkv [B L, 3 H d], channels [q, k, v], each head after head; y [B L, H d]; `length` = L, any L >= 1.
/// Writes   y (=), which does not overlap qkv. In bf16 and fp16, q, k and v after the convolution and the softmax's
///          weights, each at most 2^8, are rounded to the element; scores and sums are float.
///          A score's size is below 2^30: beyond, floats are further apart than exp2 reaches.
/// Scratch  3 H d elements a token where the sequence is streamed: past 256 tokens, or heads of no multiple of 16.
/// Stream   the context's; no synchronisation.
/// Throws   shape_error if the rows disagree; nothing is written then.
template <attention_shape A, precision P>
void attention_core(context<P>& ctx, std::type_identity_t<rows<element<P> const, 3 * A.width(), space::device>> qkv,
                    attention_parameters<A, float const, space::device> const& p,
                    std::type_identity_t<rows<element<P>, A.width(), space::device>> y, int length) {
  whole_sequences("attention_core.qkv", qkv.count, length);
  require_extent("attention_core.y rows", y.count, qkv.count);
  if (qkv.count == 0) return;
  if constexpr (detail::attention_core::tensor_fits<element<P>>(A)) {
    if (detail::attention_core::try_tensor<A, P>(ctx, qkv, p, y, length)) return;
  }
  if constexpr (detail::attention_core::streams<element<P>>(A)) {
    if (detail::attention_core::try_streamed<A, P>(ctx, qkv, p, y, length)) return;
  }
  detail::attention_core::launch_general<A>(ctx, qkv, p, y, length);
}

}  // namespace dm2::cuda
