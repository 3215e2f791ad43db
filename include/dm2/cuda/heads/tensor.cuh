/// @file
/// The classifiers as one kernel on tensor cores.
///
/// Products of a slice of the classes with every token, of which only the maximum is kept.
///
/// A block takes a slice of the classes and some pictures, one after another. Its warps hold their classes' weights in
/// registers, as the left operand; tokens stream through a ring in shared memory. A warp's classes may be shared by
/// `parts` warps that take every parts-th pair of 16 tokens: where there is not one picture a multiprocessor. In place
/// of the class token, and of tokens after the last, the last patch is read once more, which no maximum notices.
#pragma once

#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/instructions/early_start.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/tile/copy_rows.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <cmath>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::heads {

/// Sizes of the kernel for K classes and D channels, D a multiple of 16 and at most 512.
template <class T, int K, int D, int Stages>
struct traits {
  using element = T;
  static constexpr int classes = K;
  static constexpr int dim = D;
  static constexpr int stages = Stages;
  static constexpr int warps = 8, threads = 32 * warps;
  static constexpr int pitch = D + 8;  ///< of a token in shared memory: 16 bytes more, no bank conflicts
  /// Fragments of 16 classes that a warp holds: 96 registers of weights at 192 and at 384 channels.
  static constexpr int fragments = D <= 192 ? 2 : 1;
  static constexpr int warp_classes = 16 * fragments;
  static constexpr int block_classes = warps * warp_classes;  ///< where no two warps share classes
  static constexpr int rows = D <= 256 ? 64 : 32;             ///< tokens in a stage
  static constexpr int group = 16;                            ///< pictures whose class tokens are multiplied at a time
  static constexpr std::size_t ring_bytes = std::size_t(Stages) * rows * pitch * 2;
  static constexpr std::size_t bytes = ring_bytes + sizeof(float) * (group * block_classes + block_classes);
};

/// One launch.
template <class Tr>
struct arguments {
  using T = typename Tr::element;
  T const* features;             ///< [B L, D], 16-byte aligned
  T const *weight, *aux;         ///< [K, D], 16-byte aligned
  float const *bias, *aux_bias;  ///< [K], or null
  float* logits;                 ///< [B, K]
  int batch, length;
  int pictures;  ///< a block takes
  int parts;     ///< warps that share classes: 1, 2, 4 or 8
};

/// What a block and a warp work on.
template <class Tr>
struct place {
  using T = typename Tr::element;
  T* ring;      ///< [stages, rows, pitch]
  float* cls;   ///< [group, block_classes], the class tokens' logits
  float* best;  ///< [warps, warp_classes], each warp's maxima
  int classes;  ///< of the block
  int first_class, first_picture, pictures;
  int warp_class;  ///< this warp's first class, counted from the block's
  int part;        ///< which pairs of 16 tokens this warp takes

  __device__ explicit place(arguments<Tr> const& call) {
    ring = reinterpret_cast<T*>(dynamic_shared());
    cls = reinterpret_cast<float*>(ring + Tr::stages * Tr::rows * Tr::pitch);
    best = cls + Tr::group * Tr::block_classes;
    int const warp = int(threadIdx.x) / 32;
    classes = Tr::block_classes / call.parts;
    first_class = int(blockIdx.y) * classes;
    first_picture = int(blockIdx.x) * call.pictures;
    pictures = min(call.pictures, call.batch - first_picture);
    warp_class = warp / call.parts * Tr::warp_classes;
    part = warp % call.parts;
  }
};

/// Starts copies of n rows of D numbers to `to`; number c of row r is at from(r, c).
template <class Tr, class From>
__device__ inline void copy_head_rows(typename Tr::element* to, int n, From const& from) {
  copy_rows<Tr::dim, 1>(
      shared_address(to), Tr::pitch * 2, [&](int row, int column, bool&) { return from(row, column); }, 0, n,
      int(threadIdx.x), Tr::threads);
}

/// This warp's weights of the patches' classifier as fragments of the left operand, by way of the ring. Rows after the
/// last class are the last class's.
template <class Tr>
__device__ inline void load_weights(arguments<Tr> const& call, place<Tr> const& at,
                                    std::uint32_t (&w)[Tr::fragments][Tr::dim / 16][4]) {
  constexpr int capacity = Tr::stages * Tr::rows;  // classes at a time, a multiple of a warp's
  int const lane = int(threadIdx.x) % 32;
  for (int first = 0; first < at.classes; first += capacity) {
    copy_head_rows<Tr>(at.ring, min(capacity, at.classes - first), [&](int row, int column) {
      return call.aux + std::ptrdiff_t(min(at.first_class + first + row, Tr::classes - 1)) * Tr::dim + column;
    });
    commit_copies();
    wait_copies<0>();
    __syncthreads();
    if (at.warp_class >= first && at.warp_class < first + capacity) {
      std::uint32_t const address =
          shared_address(at.ring + (at.warp_class - first) * Tr::pitch) + fragment::left_operand(lane, Tr::pitch * 2);
#pragma unroll
      for (int m = 0; m < Tr::fragments; ++m)
#pragma unroll
        for (int k = 0; k < Tr::dim / 16; ++k) load_matrix(w[m][k], address + 16 * m * Tr::pitch * 2 + 32 * k);
    }
    __syncthreads();
  }
}

/// cls = the class tokens' logits, without biases, of `n` pictures from `first` on, n <= group. By the first of the
/// warps that share classes; a barrier must follow.
///
/// Operands come straight from global memory, 8 bytes a lane: lane t of four takes channels 4 t to 4 t + 3 of every 16
/// on both sides, an order of summation as good as the instruction's own.
template <class Tr>
__device__ inline void class_logits(arguments<Tr> const& call, place<Tr> const& at, int first, int n) {
  using T = typename Tr::element;
  if (at.part != 0) return;
  int const lane = int(threadIdx.x) % 32, g = fragment::row(lane), t = fragment::quarter(lane);
  auto const read = [](T const* p) { return *reinterpret_cast<uint2 const*>(p); };
  T const* weight[2 * Tr::fragments];
  T const* token[2];
#pragma unroll
  for (int i = 0; i < 2 * Tr::fragments; ++i)
    weight[i] =
        call.weight + std::ptrdiff_t(min(at.first_class + at.warp_class + 8 * i + g, Tr::classes - 1)) * Tr::dim;
#pragma unroll
  for (int i = 0; i < 2; ++i)
    token[i] =
        call.features + (std::ptrdiff_t(first + min(8 * i + g, n - 1)) * call.length + (call.length - 1) / 2) * Tr::dim;
  float sum[Tr::fragments][2][4] = {};
#pragma unroll 4
  for (int k = 0; k < Tr::dim; k += 16) {
    uint2 x[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) x[i] = read(token[i] + k + 4 * t);
#pragma unroll
    for (int m = 0; m < Tr::fragments; ++m) {
      uint2 const upper = read(weight[2 * m] + k + 4 * t), lower = read(weight[2 * m + 1] + k + 4 * t);
      std::uint32_t const a[4]{upper.x, lower.x, upper.y, lower.y};
#pragma unroll
      for (int i = 0; i < 2; ++i) mma<T>(sum[m][i], a, x[i].x, x[i].y);
    }
  }
#pragma unroll
  for (int m = 0; m < Tr::fragments; ++m)
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        at.cls[(8 * i + 2 * t + e % 2) * Tr::block_classes + at.warp_class + 16 * m + 8 * (e / 2) + g] = sum[m][i][e];
}

/// best = max(best, w x) over 16 Groups tokens; `tokens` is the lane's address of the first.
template <class Tr, int Groups>
__device__ inline void take_best(std::uint32_t const (&w)[Tr::fragments][Tr::dim / 16][4], std::uint32_t tokens,
                                 float (&best)[Tr::fragments][2]) {
  float sum[Tr::fragments][2 * Groups][4] = {};
#pragma unroll
  for (int k = 0; k < Tr::dim / 16; ++k)
#pragma unroll
    for (int n = 0; n < Groups; ++n) {
      std::uint32_t b[4];
      load_matrix(b, tokens + 16 * n * Tr::pitch * 2 + 32 * k);
#pragma unroll
      for (int m = 0; m < Tr::fragments; ++m) {
        mma<typename Tr::element>(sum[m][2 * n], w[m][k], b[0], b[1]);
        mma<typename Tr::element>(sum[m][2 * n + 1], w[m][k], b[2], b[3]);
      }
    }
#pragma unroll
  for (int m = 0; m < Tr::fragments; ++m)
#pragma unroll
    for (int n = 0; n < 2 * Groups; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) best[m][e / 2] = fmaxf(best[m][e / 2], sum[m][n][e]);
}

/// This warp's pairs of 16 tokens among `tokens` ones in a stage, whose first pair is number `pair` of the picture.
template <class Tr>
__device__ inline void take_stage(arguments<Tr> const& call, place<Tr> const& at, int stage, int pair, int tokens,
                                  std::uint32_t const (&w)[Tr::fragments][Tr::dim / 16][4],
                                  float (&best)[Tr::fragments][2]) {
  int const lane = int(threadIdx.x) % 32;
  std::uint32_t address =
      shared_address(at.ring + stage * Tr::rows * Tr::pitch) + fragment::right_operand(lane, Tr::pitch * 2);
#pragma unroll 1
  for (int t = 0; t < tokens; t += 32, ++pair, address += 32 * Tr::pitch * 2) {
    if (pair % call.parts != at.part) continue;
    if (tokens - t > 16)
      take_best<Tr, 2>(w, address, best);
    else
      take_best<Tr, 1>(w, address, best);
  }
}

/// Writes a picture's logits from every warp's maxima, which are taken anew. All threads; has a barrier.
template <class Tr>
__device__ inline void write_logits(arguments<Tr> const& call, place<Tr> const& at, int picture, float bias,
                                    float (&best)[Tr::fragments][2]) {
  int const thread = int(threadIdx.x), lane = thread % 32;
#pragma unroll
  for (int m = 0; m < Tr::fragments; ++m)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float const v = max_over_row(best[m][r]);
      if (fragment::leads_row(lane)) at.best[thread / 32 * Tr::warp_classes + 16 * m + fragment::row(lane, r)] = v;
      best[m][r] = -INFINITY;
    }
  __syncthreads();
  if (thread >= at.classes || at.first_class + thread >= Tr::classes) return;
  float v = -INFINITY;
  for (int i = 0; i < call.parts; ++i)
    v = fmaxf(v, at.best[(thread / Tr::warp_classes * call.parts + i) * Tr::warp_classes + thread % Tr::warp_classes]);
  call.logits[std::ptrdiff_t(at.first_picture + picture) * Tr::classes + at.first_class + thread] =
      at.cls[picture % Tr::group * Tr::block_classes + thread] + bias + 0.5f * v;
}

template <class Tr>
__global__ void __launch_bounds__(Tr::threads, 1) kernel(__grid_constant__ arguments<Tr> const call) {
  place<Tr> const at{call};
  std::uint32_t w[Tr::fragments][Tr::dim / 16][4];
  load_weights(call, at, w);
  wait_for_previous();
  int const tiles = (call.length - 1) / Tr::rows + 1, total = at.pictures * tiles;
  auto const start = [&](int i) {
    if (i < total) {
      int const picture = i / tiles, first = i % tiles * Tr::rows;
      typename Tr::element const* const from =
          call.features + std::ptrdiff_t(at.first_picture + picture) * call.length * Tr::dim;
      copy_head_rows<Tr>(at.ring + i % Tr::stages * Tr::rows * Tr::pitch,
                         min(Tr::rows, (call.length - first + 15) / 16 * 16), [&](int row, int column) {
                           int const token = first + row;
                           bool const patch = token < call.length && token != (call.length - 1) / 2;
                           return from + std::ptrdiff_t(patch ? token : call.length - 1) * Tr::dim + column;
                         });
    }
    commit_copies();
  };
#pragma unroll 1
  for (int i = 0; i + 1 < Tr::stages; ++i) start(i);
  int const column = at.first_class + int(threadIdx.x);
  bool const named = int(threadIdx.x) < at.classes && column < Tr::classes;
  float const bias = (named && call.bias != nullptr ? call.bias[column] : 0.f) +
                     0.5f * (named && call.aux_bias != nullptr ? call.aux_bias[column] : 0.f);
  float best[Tr::fragments][2];
#pragma unroll
  for (int m = 0; m < Tr::fragments; ++m) best[m][0] = best[m][1] = -INFINITY;
#pragma unroll 1
  for (int i = 0; i < total; ++i) {
    int const picture = i / tiles, tile = i % tiles;
    wait_copies<Tr::stages - 2>();
    __syncthreads();  // tile i is there; tile i - 1, and the logits of the picture before, are done with
    start(i + Tr::stages - 1);
    if (tile == 0 && picture % Tr::group == 0)
      class_logits(call, at, at.first_picture + picture, min(Tr::group, at.pictures - picture));
    take_stage(call, at, i % Tr::stages, tile * (Tr::rows / 32), min(Tr::rows, call.length - tile * Tr::rows), w, best);
    if (tile == tiles - 1) write_logits(call, at, picture, bias, best);
  }
}

}  // namespace dm2::cuda::detail::heads
