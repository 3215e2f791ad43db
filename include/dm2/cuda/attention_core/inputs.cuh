/// @file
/// The attention's convolution and rotary embedding, in place in shared memory.
#pragma once

#include <dm2/core/shapes.hpp>
#include <dm2/cuda/check.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/mma.cuh>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numbers>

namespace dm2::cuda::detail::attention_core {

/// Sizes of the attention kernels, for a shape that tensor_fits() or streams() accepts.
template <attention_shape A, class T>
struct traits {
  using element = T;
  static constexpr int heads = A.heads;
  static constexpr int head_dim = A.head_dim;
  static constexpr int rotary = A.rotary;
  static constexpr int taps = A.d_conv;
  static constexpr int width = heads * head_dim;
  static constexpr int padded = (head_dim + 15) / 16 * 16;  ///< a head's channels in whole fragments
  static constexpr int pitch = padded + 8;  ///< of a token in shared memory: 16 bytes more, no bank conflicts
  static constexpr int halo = taps > 1 ? taps - 1 : 0;  ///< tokens before a run that its convolution reads
  /// Blocks a multiprocessor holds: 14 warps of 128 registers, but wider heads need more registers and shared memory.
  static constexpr int blocks = head_dim <= 96 ? 2 : 1;
  static constexpr int warps = 7;  ///< 197 tokens are 13 tiles of 16: two each, one idle once
  static constexpr int threads = 32 * warps;
  static constexpr int units = head_dim / 8;                  ///< token_runs that cover a head's channels
  static constexpr int turned = rotary / 8;                   ///< of them, those that rotary turns, the first ones
  static constexpr int pairs = rotary == 0 ? 1 : rotary / 2;  ///< angles, 1 so that the array exists
  static constexpr int key_groups = 2;  ///< groups of 16 keys whose scores a warp holds at a time beside its output
};

/// The angles of rotary embedding: pair i turns by 10000^(-2 i / rotary) a token.
template <int Pairs>
struct rotary_turns {
  double turns[Pairs];  ///< a token's angle in full circles
  float cosine[Pairs];  ///< of a token's angle
  float sine[Pairs];    ///< of a token's angle
};

template <class Tr>
rotary_turns<Tr::pairs> make_rotary_turns() {
  rotary_turns<Tr::pairs> r{};
  for (int i = 0; i < Tr::rotary / 2; ++i) {
    double const angle = std::pow(10000.0, -1.0 * i / Tr::pairs);
    r.turns[i] = angle / (2 * std::numbers::pi);
    r.cosine[i] = float(std::cos(angle));
    r.sine[i] = float(std::sin(angle));
  }
  return r;
}

/// Where a kernel finds what convolution and rotary need.
template <class Tr>
struct run_parameters {
  float const* conv;  ///< [3 width, taps], 16-byte aligned
  float const* bias;  ///< [3 width], 16-byte aligned
  rotary_turns<Tr::pairs> rotary;
};

/// Whether every address is a multiple of 16 bytes, as vectors need it.
template <class... T>
bool vectors_aligned(T const*... p) {
  return ((reinterpret_cast<std::uintptr_t>(p) % 16 == 0) && ...);
}

/// Where n numbers of a parameter can be read as vectors: `from`, or `copy`, to which they are copied then.
inline float const* aligned_parameter(cudaStream_t stream, float const* from, float* copy, std::size_t n) {
  if (vectors_aligned(from)) return from;
  check(cudaMemcpyAsync(copy, from, n * sizeof(float), cudaMemcpyDeviceToDevice, stream), "attention_core: parameters");
  return copy;
}

/// Eight channels of consecutive tokens, convolved and turned in place by one thread: two groups of four, which for
/// turned channels are rotary / 2 apart, the two halves of four pairs.
///
/// Runs follow each other along the tokens. Each reads what lies before it (read_past) before its neighbour has
/// overwritten that: a barrier stands between read_past and apply. Threads without a run prepare one all the same and
/// apply it to no tokens: values that only some threads define would stay in registers from round to round.
template <class Tr>
struct token_run {
  using T = typename Tr::element;
  static constexpr int batch = Tr::halo > 1 ? Tr::halo : 4;  ///< tokens read ahead; a multiple of the ring `past`

  int first, second;  ///< the groups' first channels
  bool turned;
  float tap[Tr::taps > 0 ? Tr::taps : 1][8], bias[8];
  float past[Tr::halo > 0 ? Tr::halo : 1][8];  ///< raw tokens before the present one, a ring
  float cosine[4], sine[4];                    ///< of the present token's angles
  float cosine_step[4], sine_step[4];

  /// Unit `unit` of a head whose first channel of qkv is `channel`; the run starts at token `token`.
  __device__ void prepare(run_parameters<Tr> const& p, int channel, int unit, bool turns, int token) {
    // Else the compiler keeps the taps in registers from one group of query rows to the next, and has none left.
    hide(channel);
    hide(unit);
    turned = turns && unit < Tr::turned;
    first = turned ? 4 * unit : 8 * unit;
    second = first + (turned ? Tr::rotary / 2 : 4);
    if constexpr (Tr::taps > 0) {
      read_taps(p, channel + first, 0);
      read_taps(p, channel + second, 4);
    }
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      cosine[c] = cosine_step[c] = 1.f;
      sine[c] = sine_step[c] = 0.f;
    }
    if constexpr (Tr::turned > 0) {
      if (!turned) return;
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        // The angle is reduced in double; the error of __sincosf below pi is 5e-7, that of each step 2e-7.
        double const circles = token * p.rotary.turns[first + c];
        __sincosf(float(circles - rint(circles)) * 6.283185307f, &sine[c], &cosine[c]);
        cosine_step[c] = p.rotary.cosine[first + c];
        sine_step[c] = p.rotary.sine[first + c];
      }
    }
  }

  /// Reads the tokens before `rows`, the run's first one; of them, those before the last `before` are zeros.
  template <int Pitch = Tr::pitch>
  __device__ void read_past(T const* rows, int before = Tr::halo) {
    if constexpr (Tr::halo > 0) {
#pragma unroll
      for (int k = 0; k < Tr::halo; ++k) {
        T const* const row = rows + (k - Tr::halo) * Pitch;
        bool const there = Tr::halo - k <= before;
        spread(there ? read(row + first) : uint2{}, there ? read(row + second) : uint2{}, past[k]);
      }
    }
  }

  /// Replaces n tokens from `rows` on.
  __device__ void apply(T* rows, int n) {
    if (Tr::taps == 0 && !turned) return;
    apply<Tr::pitch, Tr::pitch>(rows, rows, n);
  }
  /// The same from n tokens at `from` to as many at `to`, each From and To numbers apart, Batch tokens at a time, which
  /// is a multiple of the ring `past`.
  template <int From, int To, int Batch = batch>
  __device__ void apply(T const* from, T* to, int n) {
#pragma unroll 1
    for (int t = 0; t < n; t += Batch) {
      T* const here = to + t * To;
      uint2 raw[Batch][2];
#pragma unroll
      for (int j = 0; j < Batch; ++j) {
        T const* const row = from + min(t + j, n - 1) * From;
        raw[j][0] = read(row + first);
        raw[j][1] = read(row + second);
      }
#pragma unroll
      for (int j = 0; j < Batch; ++j)
        if (t + j < n) {
          float x[8];
          spread(raw[j][0], raw[j][1], x);
          convolve(j, x);
          if (turned) turn(x);
          write(here + j * To + first, x);
          write(here + j * To + second, x + 4);
        }
    }
  }

 private:
  __device__ static uint2 read(T const* p) { return *reinterpret_cast<uint2 const*>(p); }
  __device__ static void write(T* p, float const* x) {
    *reinterpret_cast<uint2*>(p) = make_uint2(pack<T>(x[0], x[1]), pack<T>(x[2], x[3]));
  }
  __device__ static void spread(uint2 a, uint2 b, float (&x)[8]) {
    std::uint32_t const packed[4]{a.x, a.y, b.x, b.y};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float2 const v = unpack<T>(packed[i]);
      x[2 * i] = v.x;
      x[2 * i + 1] = v.y;
    }
  }

  /// Taps and biases of four channels from `channel` on, to place `at`.
  __device__ void read_taps(run_parameters<Tr> const& p, int channel, int at) {
    float4 const b = __ldg(reinterpret_cast<float4 const*>(p.bias + channel));
    bias[at] = b.x, bias[at + 1] = b.y, bias[at + 2] = b.z, bias[at + 3] = b.w;
    // Four channels of any number of taps are that number of vectors, since channel is a multiple of 4.
    float4 const* const w = reinterpret_cast<float4 const*>(p.conv + channel * Tr::taps);
    float flat[4 * Tr::taps];
#pragma unroll
    for (int i = 0; i < Tr::taps; ++i) {
      float4 const v = __ldg(w + i);
      flat[4 * i] = v.x, flat[4 * i + 1] = v.y, flat[4 * i + 2] = v.z, flat[4 * i + 3] = v.w;
    }
#pragma unroll
    for (int c = 0; c < 4; ++c)
#pragma unroll
      for (int k = 0; k < Tr::taps; ++k) tap[k][at + c] = flat[c * Tr::taps + k];
  }

  /// x = conv(x), where j counts tokens from a multiple of the ring's size on.
  __device__ void convolve(int j, float (&x)[8]) {
    if constexpr (Tr::taps > 0) {
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        float y = fmaf(tap[Tr::taps - 1][c], x[c], bias[c]);
        if constexpr (Tr::halo > 0) {
#pragma unroll
          for (int k = 0; k < Tr::halo; ++k) y = fmaf(tap[k][c], past[(j + k) % Tr::halo][c], y);
          past[j % Tr::halo][c] = x[c];
        }
        x[c] = y;
      }
    }
  }

  /// Turns four pairs by the present angles, and the angles by one token.
  __device__ void turn(float (&x)[8]) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      float const a = x[c], b = x[c + 4], u = cosine[c], v = sine[c];
      x[c] = a * u - b * v;
      x[c + 4] = b * u + a * v;
      cosine[c] = u * cosine_step[c] - v * sine_step[c];
      sine[c] = v * cosine_step[c] + u * sine_step[c];
    }
  }
};

}  // namespace dm2::cuda::detail::attention_core
