/// @file
/// The attention's backward kernel: one head of one sequence a block, five products on tensor cores, nothing computed
/// twice and nothing but the result written.
///
/// With S = softmax(q k^T / sqrt(d)), G = dy v^T and D = S (G - rowsum(S G)):  dv = S^T dy,  dq = D k / sqrt(d),
/// dk = D^T q / sqrt(d). A warp finds 16 whole rows of S and of D in its registers; S, then D, pass through shared
/// memory to the warps that take 16 keys each. In order:
///     q, k, v, dy to shared memory; S, D; | far part of S over v; | dv; | dv over dy, D over S; | dq, dk; | dk over q,
///     dq over k; | all three back through the convolution            (| is a barrier)
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/attention_core.cuh>
#include <dm2/cuda/attention_core/backward_inputs.cuh>
#include <dm2/cuda/attention_core/backward_layout.cuh>
#include <dm2/cuda/attention_core/backward_rows.cuh>
#include <dm2/cuda/attention_core/backward_write.cuh>
#include <dm2/cuda/check.cuh>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/dynamic_shared.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/tile/fragment.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <cmath>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::attention_core {

/// Sixteen tokens' gradients, rounded.
template <class Tr>
struct channel_rows {
  std::uint32_t part[Tr::head_dim / 8][2];

  /// Writes them to this warp's tokens of an array.
  __device__ void write(typename Tr::element* array) const {
    int const thread = fresh_thread(), lane = thread % 32, token = thread / 32 * 16 + fragment::row(lane);
    auto* const to = reinterpret_cast<std::uint32_t*>(array + token * Tr::pitch + fragment::column(lane));
#pragma unroll
    for (int n = 0; n < Tr::head_dim / 8; ++n)
#pragma unroll
      for (int r = 0; r < 2; ++r) to[(r * 8 * Tr::pitch + 8 * n) / 2] = part[n][r];
  }
};

/// One tile of 16 rows and head_dim channels, a warp's sums.
template <class Tr>
struct channel_sums {
  float sum[Tr::head_dim / 8][4] = {};

  /// sum += a times the 16 rows of shared memory from the lane's address on.
  __device__ void add(std::uint32_t const (&a)[4], std::uint32_t rows) {
#pragma unroll
    for (int c = 0; c < Tr::head_dim / 16; ++c) {
      std::uint32_t b[4];
      load_matrix_transposed(b, rows + 32 * c);
      mma<typename Tr::element>(sum[2 * c], a, b[0], b[1]);
      mma<typename Tr::element>(sum[2 * c + 1], a, b[2], b[3]);
    }
  }
  /// Turns this warp's tokens back.
  __device__ void turn_back(rotary_turns<Tr::pairs> const& rotary) {
    constexpr int half = Tr::rotary / 16;  // fragments of the first halves
    int const thread = fresh_thread(), lane = thread % 32, token = thread / 32 * 16 + fragment::row(lane);
#pragma unroll
    for (int n = 0; n < half; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        // In float, since there are few tokens: the error of 208 * turns <= 34 circles is below 2e-5.
        float const circles = float(token + i / 2 * 8) * float(rotary.turns[8 * n + fragment::column(lane) + i % 2]);
        float sine, cosine;
        __sincosf((circles - rintf(circles)) * 6.283185307f, &sine, &cosine);
        float const a = sum[n][i], b = sum[n + half][i];
        sum[n][i] = a * cosine + b * sine;
        sum[n + half][i] = b * cosine - a * sine;
      }
  }
  /// scale sum, rounded.
  __device__ channel_rows<Tr> rounded(float scale) const {
    channel_rows<Tr> to;
#pragma unroll
    for (int n = 0; n < Tr::head_dim / 8; ++n)
#pragma unroll
      for (int r = 0; r < 2; ++r)
        to.part[n][r] = pack_now<typename Tr::element>(sum[n][2 * r] * scale, sum[n][2 * r + 1] * scale);
    return to;
  }
};

/// The lane's address of 16 rows from `row` on, as channel_sums::add takes it.
template <class Tr>
__device__ inline std::uint32_t rows_address(typename Tr::element const* array) {
  int const lane = fresh_thread() % 32;
  return shared_address(array) + std::uint32_t(fragment::left_operand(lane, Tr::pitch * 2));
}

/// The lane's address in this warp's 16 keys of S or D, and the bytes from 16 queries to the next.
template <class Tr>
__device__ inline void keys_address(typename Tr::element const* shared, std::uint32_t& address, unsigned& step) {
  int const thread = fresh_thread(), lane = thread % 32, group = thread / 32;
  bool const near = group < Tr::near;
  int const pitch = near ? Tr::near_pitch : Tr::far_pitch;
  auto const* const first = shared + (near ? Tr::weights + 16 * group : Tr::values + 16 * (group - Tr::near));
  address = shared_address(first) + std::uint32_t(fragment::right_operand(lane, pitch * 2));
  step = unsigned(32 * pitch);
}

/// W^T rows for this warp's keys, over all queries; W is S or D in shared memory.
template <class Tr>
__device__ inline channel_sums<Tr> keys_backward(typename Tr::element const* shared, typename Tr::element const* rows,
                                                 int length) {
  channel_sums<Tr> sums;
  std::uint32_t left, right = rows_address<Tr>(rows);
  unsigned step;
  keys_address<Tr>(shared, left, step);
  std::uint32_t next[4];
  load_matrix_transposed(next, left);
#pragma unroll 1
  for (int query = 0; query < length; query += 16) {
    std::uint32_t const a[4]{next[0], next[1], next[2], next[3]};
    if (query + 16 < length) left += step;
    load_matrix_transposed(next, left);
    sums.add(a, right);
    right += 32 * Tr::pitch;
  }
  return sums;
}

/// D k for this warp's queries.
template <class Tr>
__device__ inline channel_sums<Tr> queries_backward(typename Tr::element const* shared, int length) {
  channel_sums<Tr> sums;
  int const thread = fresh_thread(), lane = thread % 32, row = thread / 32 * 16 + lane % 16, column = lane / 16 * 8;
  std::uint32_t left = shared_address(shared + Tr::weights + row * Tr::near_pitch + column);
  std::uint32_t right = rows_address<Tr>(shared + Tr::keys);
#pragma unroll 2
  for (int group = 0; 16 * group < length; ++group) {
    if (group == Tr::near) left = shared_address(shared + Tr::values + row * Tr::far_pitch + column);
    std::uint32_t a[4];
    load_matrix(a, left);
    sums.add(a, right);
    left += 32;
    right += 32 * Tr::pitch;
  }
  return sums;
}

/// Writes the far keys' weights of this warp's queries to where v was.
template <class Tr>
__device__ inline void write_far(typename Tr::element* shared, std::uint32_t const (*from)[4]) {
  std::uint32_t* const place = far_place<Tr>(shared);
#pragma unroll
  for (int g = 0; g < Tr::far; ++g)
#pragma unroll
    for (int i = 0; i < 4; ++i) place[word_of(g, i, Tr::far_pitch)] = from[g][i];
}

/// S and D of this warp's queries: S to shared memory, D to `d`. Has a barrier, and ends before S is there.
template <class Tr>
__device__ inline void score_queries(typename Tr::element* shared, weight_rows<Tr>& d, bool busy, int length) {
  std::uint32_t far[Tr::far > 0 ? Tr::far : 1][4];
  if (busy) {
    find_weights<Tr>(shared, length, far);
    find_slopes<Tr>(shared, far, d);
  }
  __syncthreads();  // v has been read
  if (busy) write_far<Tr>(shared, far);
}

/// D of this warp's queries over S.
template <class Tr>
__device__ inline void write_slopes(typename Tr::element* shared, weight_rows<Tr> const& d) {
  std::uint32_t* const near = near_place<Tr>(shared);
#pragma unroll
  for (int g = 0; g < Tr::near; ++g)
#pragma unroll
    for (int i = 0; i < 4; ++i) near[word_of(g, i, Tr::near_pitch)] = d.part[g][i];
  write_far<Tr>(shared, d.part + Tr::near);
}

/// Block: head, then sequence.
template <class Tr>
__global__ void __launch_bounds__(Tr::threads, 1) backward_kernel(__grid_constant__ backward_arguments<Tr> const call) {
  auto* const shared = reinterpret_cast<typename Tr::element*>(dynamic_shared());
  bool const busy = int(threadIdx.x) / 32 * 16 < call.length;
  load_inputs(call, shared);
  weight_rows<Tr> d;
  score_queries<Tr>(shared, d, busy, call.length);
  __syncthreads();  // S is there
  {
    channel_rows<Tr> dv;
    if (busy) dv = keys_backward<Tr>(shared, shared + Tr::slopes, call.length).rounded(1.f);
    __syncthreads();  // S and dy have been read
    if (busy) dv.write(shared + Tr::slopes);
  }
  if (busy) write_slopes<Tr>(shared, d);
  __syncthreads();  // D is there
  {
    channel_rows<Tr> dq, dk;
    if (busy) {
      float const scale = rsqrtf(float(Tr::head_dim));
      channel_sums<Tr> sums = queries_backward<Tr>(shared, call.length);
      sums.turn_back(call.run.rotary);
      dq = sums.rounded(scale);
      sums = keys_backward<Tr>(shared, shared + Tr::queries, call.length);
      sums.turn_back(call.run.rotary);
      dk = sums.rounded(scale);
    }
    __syncthreads();  // q, k and D have been read
    if (busy) {
      dq.write(shared + Tr::keys);
      dk.write(shared + Tr::queries);
    }
  }
  __syncthreads();
  write_inputs(call, shared);
}

// The gradient of the attention mixer between its projections as one kernel, for sequences that fit in a block's shared
// memory.

/// Whether the kernel for sequences of up to 16 Groups tokens has code for a shape: what the forward's tensor kernel
/// takes, and whole fragments on either side of what rotary turns.
template <attention_shape A, class T, int Groups>
constexpr bool backward_fits() {
  if constexpr (!tensor_fits<T>(A) || A.rotary % 16 != 0)
    return false;
  else
    return backward_traits<A, T, Groups>::fits;
}

/// What lies beside the kernel.
template <attention_shape A>
struct tensor_backward_scratch {
  float* sums;  ///< [B, taps + 1, 3 H d]
  float* conv;  ///< [3 H d, taps], a copy for where the parameter does not start at 16 bytes
  float* bias;  ///< [3 H d], the same

  tensor_backward_scratch(arena& s, std::size_t count)
      : sums{s.template take<float>(A.d_conv == 0 ? 0 : count * 3 * A.width() * (A.d_conv + 1))},
        conv{s.template take<float>(std::size_t(3) * A.width() * A.d_conv)},
        bias{s.template take<float>(A.d_conv == 0 ? 0 : std::size_t(3) * A.width())} {}
};

/// False where the length, the device or an activation's address does not allow the kernel, and nothing was launched.
template <int Groups, attention_shape A, precision P>
bool try_backward_tensor(context<P>& ctx, rows<element<P> const, 3 * A.width(), space::device> qkv,
                         attention_parameters<A, float const, space::device> const& p,
                         rows<element<P> const, A.width(), space::device> dy,
                         rows<element<P>, 3 * A.width(), space::device> dqkv,
                         attention_parameters<A, float, space::device> const& grad, int length) {
  if constexpr (!backward_fits<A, element<P>, Groups>()) {
    return false;
  } else {
    using traits = backward_traits<A, element<P>, Groups>;
    using sizes = inputs_backward_traits<traits>;
    if (length > traits::tokens || ctx.device().shared_per_block < int(traits::bytes) ||
        !vectors_aligned(qkv.data, dy.data, dqkv.data))
      return false;
    std::size_t const count = qkv.count / std::size_t(length);
    if (!ctx.reserve(planned_bytes<tensor_backward_scratch<A>>(count)) || count == 0) return true;
    arena_scope const scope{ctx.shared()};
    tensor_backward_scratch<A> const s{ctx.shared(), count};
    static rotary_turns<traits::pairs> const turns = make_rotary_turns<traits>();
    float const* const conv = aligned_parameter(ctx.stream(), p.conv.data, s.conv, p.conv.size);
    float const* const bias = aligned_parameter(ctx.stream(), p.conv_bias.data, s.bias, p.conv_bias.size);
    backward_arguments<traits> const call{.qkv = qkv.data,
                                          .dy = dy.data,
                                          .dqkv = dqkv.data,
                                          .sums = s.sums,
                                          .run = {conv, bias, turns},
                                          .length = length};
    prefer_shared("attention_core_backward", backward_kernel<traits>);
    launch("attention_core_backward", backward_kernel<traits>,
           {dim3(unsigned(count) * unsigned(traits::heads)), traits::threads, traits::bytes}, ctx.stream(), call);
    if constexpr (A.d_conv != 0)
      add_convolution_sums<sizes>(ctx.stream(), s.sums, int(count), grad.conv.data, grad.conv_bias.data);
    return true;
  }
}

}  // namespace dm2::cuda::detail::attention_core
