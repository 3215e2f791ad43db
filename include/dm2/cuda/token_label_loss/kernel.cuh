/// @file
/// The kernels of the token-labeling loss.
///
/// A warp or a block has a row of logits, which become their gradients.
#pragma once

#include <dm2/core/operands.hpp>
#include <dm2/cuda/device/finite_guard.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/dynamic_shared.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/tile/warp.cuh>
#include <dm2/cuda/token_label_loss/target.cuh>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dm2::cuda::detail::token_label_loss {

// The cross entropy of one row of logits against its target, and the gradient in the logits' place: by a warp, or by a
// block.

/// N numbers of a target, of which `at` is a multiple.
template <int N>
__device__ inline void read_target(float const* at, float (&x)[N]) {
  constexpr int step = N % 4 == 0 ? 4 : N;
#pragma unroll
  for (int i = 0; i < N; i += step) {
    packet<float, step> const p = load_packet<step>(at + i);
#pragma unroll
    for (int k = 0; k < step; ++k) x[i + k] = p.v[k];
  }
}

/// A row of logits that a warp goes over several times: from its registers, or from memory where it has no packets.
template <class Tr>
struct warp_logits {
  using T = typename Tr::element;
  using numbers = vector_numbers<T, Tr::packet>;
  T const* row;
  numbers kept[Tr::keep ? Tr::packets : 1];

  __device__ static int column(int j) { return (j * 32 + int(threadIdx.x) % 32) * Tr::packet; }
  __device__ static bool whole(int j) { return (j + 1) * 32 * Tr::packet <= Tr::classes; }
  __device__ explicit warp_logits(T const* from) : row{from} {
    if constexpr (Tr::keep) {
#pragma unroll
      for (int j = 0; j < Tr::packets; ++j)
        if (whole(j) || column(j) < Tr::classes) kept[j] = numbers::load(row + column(j));
    }
  }
  /// visit(values, first column) for each packet of this lane.
  template <class Visit>
  __device__ void for_each_packet(Visit const& visit) const {
#pragma unroll(Tr::keep ? Tr::packets : 4)
    for (int j = 0; j < Tr::packets; ++j)
      if (whole(j) || column(j) < Tr::classes) {
        float x[Tr::packet];
        if constexpr (Tr::keep) {
          kept[j].get(x);
        } else {
          numbers::load(row + column(j)).get(x);
        }
        visit(x, column(j));
      }
  }
};

/// The cross entropy of a row, -sum_c t_c log softmax(l)_c, and its gradient times `weight` into `grad`:
/// mass softmax(l) - t. `grad` may be the logits.
template <class Tr>
__device__ inline float warp_row(warp_logits<Tr> const& logits, formed_row const& t, float weight,
                                 typename Tr::element* grad) {
  constexpr int n = Tr::packet;
  float top = -INFINITY, sum = 0, dot = 0;
  logits.for_each_packet([&](float const(&l)[n], int) {
#pragma unroll
    for (int i = 0; i < n; ++i) top = fmaxf(top, l[i]);
  });
  top = max_over_warp(top);
  float const bias = -top * log2_e;
  logits.for_each_packet([&](float const(&l)[n], int) {
#pragma unroll
    for (int i = 0; i < n; ++i) sum += exp2_fast(fmaf(l[i], log2_e, bias));
  });
  sum = sum_over_warp(sum);
  float const share = weight * t.mass / sum;
  // The same number by a way that the compiler cannot see through: it would keep every exponential for the next pass,
  // in registers that there are not.
  float const again = __shfl_sync(0xffffffffu, bias, 0);
  logits.for_each_packet([&](float const(&l)[n], int c) {
    float target[n], d[n];
    read_target<n>(t.extra + c, target);
#pragma unroll
    for (int i = 0; i < n; ++i) {
      target[i] += t.base;
      dot = fmaf(target[i], l[i] - top, dot);
      d[i] = fmaf(share, exp2_fast(fmaf(l[i], log2_e, again)), -weight * target[i]);
    }
    vector_numbers<typename Tr::element, n>::store(grad + c, d);
  });
  return t.mass * logf(sum) - sum_over_warp(dot);
}

/// The same by a block from a dense target, in three passes over the row. `grad` may be `logits`.
template <int K, class T>
__device__ inline float block_row(T const* logits, target_memory const& m, float weight, T* grad) {
  int const thread = int(threadIdx.x);
  float top = -INFINITY, sum = 0, dot = 0, mass = 0;
  for (int c = thread; c < K; c += loss_threads) top = fmaxf(top, to_float(logits[c]));
  top = max_over_loss_block(top, m.sums);
  float const bias = -top * log2_e;
  for (int c = thread; c < K; c += loss_threads) {
    float const l = to_float(logits[c]), t = m.target[c];
    sum += exp2_fast(fmaf(l, log2_e, bias));
    dot = fmaf(t, l - top, dot);
    mass += t;
  }
  sum = sum_over_loss_block(sum, m.sums);
  dot = sum_over_loss_block(dot, m.sums);
  mass = sum_over_loss_block(mass, m.sums);
  float const share = weight * mass / sum;
  for (int c = thread; c < K; c += loss_threads)
    grad[c] = from_float<T>(fmaf(share, exp2_fast(fmaf(to_float(logits[c]), log2_e, bias)), -weight * m.target[c]));
  return mass * logf(sum) - dot;
}

}  // namespace dm2::cuda::detail::token_label_loss

namespace dm2::cuda {

/// The losses of a micro-batch, without the scale, in device memory.
struct token_label_sums {
  double loss;     ///< both parts' sum
  double cls;      ///< the class tokens' mean
  double patches;  ///< the patches' mean
};

namespace detail::token_label_loss {

/// Whether a warp keeps a row of K logits in registers, and its target in a warp's share of the shared memory.
constexpr bool row_fits_warp(int classes) { return classes <= 2048; }

template <class T, int K, int N>
struct traits {
  using element = T;
  static constexpr int classes = K, packet = N, packets = (K / N + 31) / 32;
  static constexpr bool keep = packets * N <= 32 && packets <= 8;  ///< a row stays in a warp's registers
  static constexpr int resident = is_half<T> ? 3 : 2;              ///< blocks of a multiprocessor
  static constexpr bool warps = row_fits_warp(K);
  /// Bytes of shared memory: for each warp a row and the list of its classes, which a class token's block takes for its
  /// target and for scores of each warp; or for the block a target and scores.
  static constexpr std::size_t bytes = warps
                                           ? std::size_t{loss_warps} * K * (sizeof(float) + sizeof(std::uint16_t)) + 16
                                           : std::size_t{2} * K * sizeof(float);
  static constexpr int parts = warps ? loss_warps : 1;  ///< rows of scores of a block
  static_assert(std::size_t(1 + parts) * K * sizeof(float) <= bytes);
  static_assert(K % N == 0, "dm2::cuda::detail::token_label_loss::traits<T, K, N>: K must be a multiple of N");
};

/// What of a block's losses is the class tokens' and what the patches'.
struct loss_part {
  double cls, patches;
};

template <class T, class Source>
struct arguments {
  float const* cls;
  T const* aux;
  float* dcls;
  T* daux;
  Source source;
  mix_box const* box;  ///< on the device, or null for none
  bool mixed;          ///< the patches' logits are in the order of the mixed tokens
  float scale;         ///< of the gradients
  int batch, tokens, cols;
  int rows_per_warp;
  loss_part* parts;  ///< [blocks]
  float* wide;       ///< a block's target and scores where shared memory has no room for them; else null

  [[nodiscard]] __device__ mix_box present_box() const { return box == nullptr ? mix_box{} : *box; }
};

/// mix_box::area, which is the host's.
__device__ inline int area_of(mix_box const& b) {
  int const rows = b.row1 - b.row0, cols = b.col1 - b.col0;
  return rows > 0 && cols > 0 ? rows * cols : 0;
}
__device__ inline bool inside(mix_box const& b, int token, int cols) {
  int const row = token / cols, col = token % cols;
  return row >= b.row0 && row < b.row1 && col >= b.col0 && col < b.col1;
}

/// The sample whose patch's logits stand in row (sample, token).
template <class T, class Source>
__device__ inline int sample_of(arguments<T, Source> const& call, int sample, int token) {
  if (!call.mixed) return sample;
  return inside(call.present_box(), token, call.cols) ? call.batch - 1 - sample : sample;
}

/// A row whose target is a of `first`'s row and 1 - a of `second`'s.
template <int K, class T, class Source>
__device__ inline float mixed_row(Source const& source, target_memory const& m, int first, int second, float a, int row,
                                  T const* logits, float weight, T* grad) {
  for (int c = int(threadIdx.x); c < K; c += loss_threads) m.target[c] = 0;
#pragma unroll 1
  for (int turn = 0; turn < 2; ++turn) {
    float const share = turn == 0 ? a : 1 - a;
    if (share != 0) source.template add<K>(turn == 0 ? first : second, row, share, m);
  }
  return block_row<K>(logits, m, weight, grad);
}

/// The class token of sample b, by a block.
template <int K, class T, class Source>
__device__ inline float class_row(arguments<T, Source> const& call, int b, target_memory const& m) {
  float const lam = 1 - float(area_of(call.present_box())) / float(call.tokens);
  std::size_t const at = std::size_t(b) * K;
  return mixed_row<K>(call.source, m, b, call.batch - 1 - b, lam, 0, call.cls + at, call.scale / float(call.batch),
                      call.dcls + at);
}

/// Blocks 0 .. batch - 1 take a class token each, the others 8 patches at a time, rows_per_warp times.
template <class Tr, class Source>
__global__ void __launch_bounds__(loss_threads, Tr::resident)
    token_loss_kernel(arguments<typename Tr::element, Source> call) {
  constexpr int K = Tr::classes;
  __shared__ float sums[loss_warps];
  float* const memory = reinterpret_cast<float*>(dynamic_shared());
  int const warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  if (int(blockIdx.x) < call.batch) {
    float const loss = class_row<K>(call, int(blockIdx.x), target_memory{memory, memory + K, sums, Tr::parts});
    if (threadIdx.x == 0) call.parts[blockIdx.x] = {double(loss), 0};
    return;
  }
  float* const extra = memory + std::ptrdiff_t{warp} * K;
  auto* const list = reinterpret_cast<std::uint16_t*>(memory + std::ptrdiff_t{loss_warps} * K) + warp * K;
  for (int c = lane; c < K; c += 32) extra[c] = untouched;
  __syncwarp();
  float const weight = call.scale / (float(call.batch) * float(call.tokens));
  int const rows = call.batch * call.tokens, first = (int(blockIdx.x) - call.batch) * call.rows_per_warp;
  float loss = 0;
  for (int k = 0; k < call.rows_per_warp; ++k) {
    int const row = (first + k) * loss_warps + warp;
    if (row >= rows) break;
    warp_logits<Tr> const logits{call.aux + std::ptrdiff_t{row} * K};
    int const token = row % call.tokens, sample = sample_of(call, row / call.tokens, token);
    formed_row const t = call.source.template form<K>(sample, 1 + token, extra, list);
    loss += warp_row<Tr>(logits, t, weight, call.daux + std::ptrdiff_t{row} * K);
    __syncwarp();
    for (int e = lane; e < t.listed; e += 32) extra[list[e]] = untouched;
    __syncwarp();
  }
  if (lane == 0) sums[warp] = loss;
  __syncthreads();
  if (threadIdx.x != 0) return;
  double all = 0;
  for (int w = 0; w < loss_warps; ++w) all += double(sums[w]);
  call.parts[blockIdx.x] = {0, all};
}

/// Any number of classes: a block takes rows first, first + blocks, ... of the class tokens' and then the patches'.
template <class Tr, class Source>
__global__ void __launch_bounds__(loss_threads) wide_token_loss_kernel(arguments<typename Tr::element, Source> call) {
  constexpr int K = Tr::classes;
  __shared__ float sums[loss_warps];
  float* const memory =
      call.wide != nullptr ? call.wide + std::size_t{blockIdx.x} * 2 * K : reinterpret_cast<float*>(dynamic_shared());
  target_memory const m{memory, memory + K, sums, 1};
  float const weight = call.scale / (float(call.batch) * float(call.tokens));
  std::ptrdiff_t const rows = std::ptrdiff_t{call.batch} * call.tokens;
  loss_part loss{0, 0};
  for (std::ptrdiff_t r = blockIdx.x; r < call.batch + rows; r += gridDim.x) {
    if (r < call.batch) {
      loss.cls += double(class_row<K>(call, int(r), m));
      continue;
    }
    std::ptrdiff_t const row = r - call.batch;
    int const token = int(row % call.tokens), sample = sample_of(call, int(row / call.tokens), token);
    loss.patches += double(
        mixed_row<K>(call.source, m, sample, sample, 1, 1 + token, call.aux + row * K, weight, call.daux + row * K));
  }
  if (threadIdx.x == 0) call.parts[blockIdx.x] = loss;
}

/// One block adds the parts: thread t parts t, t + 256, ..., then the threads in a tree.
template <class Part>
__global__ void __launch_bounds__(loss_threads)
    sum_losses_kernel(Part const* __restrict__ parts, int count, double samples, double patches, token_label_sums* sums,
                      finite_check check) {
  __shared__ Part tree[loss_threads];
  int const thread = int(threadIdx.x);
  Part sum{0, 0};
  for (int i = thread; i < count; i += loss_threads) {
    sum.cls += parts[i].cls;
    sum.patches += parts[i].patches;
  }
  tree[thread] = sum;
  for (int half = loss_threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) {
      tree[thread].cls += tree[thread + half].cls;
      tree[thread].patches += tree[thread + half].patches;
    }
  }
  if (thread != 0) return;
  double const cls = tree[0].cls / samples, rest = tree[0].patches / patches;
  *sums = {cls + rest, cls, rest};
  report_unless_finite(check, cls + rest, bad_number::loss);
}

}  // namespace detail::token_label_loss
}  // namespace dm2::cuda
