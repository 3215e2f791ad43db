/// @file
/// One row's target, formed where the loss needs it.
///
/// A constant, and what the teacher's classes have above it.
///
/// A source of targets has, for a sample's row r (0 the class token's, 1 + t patch t's):
///     form    a warp writes the row into memory of its own: `extra`, which is untouched but at the classes of `list`
///     add     a block adds a share of the row to a dense one
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/label_maps.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <cmath>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::token_label_loss {

// RoIAlign's weights on the axes of a label map. A bin's bilinear samples lie on a grid, so that a cell's weight is the
// product of its row's and its column's.

/// The cells of an axis that a bin reads.
struct axis_cells {
  int first, count;
};

/// For every sample, axis (down, across) and bin (the whole crop, then the patches): its cells, and their weights.
struct axis_table {
  int side, bins;     ///< weights a bin; bins an axis, the whole crop's included
  axis_cells* cells;  ///< [batch, 2, bins]
  float* weights;     ///< [batch, 2, bins, side]

  axis_table(arena& a, std::size_t batch, int longest_side, int rows, int cols)
      : side{longest_side},
        bins{1 + (rows > cols ? rows : cols)},
        cells{a.take<axis_cells>(side == 0 ? 0 : batch * 2 * std::size_t(bins))},
        weights{a.take<float>(batch * 2 * std::size_t(bins) * std::size_t(side))} {}
};

/// The weights of one bin in order of its cells. Samples ascend, so two running sums are all that is not written yet.
struct axis_writer {
  float* to;
  double share, lower = 0, upper = 0;  ///< of cells `at` and at + 1
  int first = 0, at = -1;

  __device__ void add(int lo, double part) {
    if (at < 0) first = at = lo;
    while (at < lo) step();
    lower += 1 - part;
    upper += part;
  }
  __device__ void step() {
    to[at - first] = float(lower * share);
    lower = upper;
    upper = 0;
    ++at;
  }
  __device__ axis_cells finish() {
    if (at < 0) return {0, 0};
    step();
    if (lower > 0) step();
    return {first, at - first};
  }
};

/// A thread a bin. Samples more than a cell outside the map count as 0.
template <class Sample>
__global__ void __launch_bounds__(64)
    axis_weights_kernel(Sample const* __restrict__ samples, axis_table table, int batch) {
  int const work = int(blockIdx.x) * 64 + int(threadIdx.x);
  if (work >= batch * 2 * table.bins) return;
  int const bin = work % table.bins, axis = work / table.bins % 2;
  Sample const& s = samples[work / table.bins / 2];
  int const size = axis == 0 ? s.height : s.width;
  if (s.height == 0) return;  // no map
  roi_line const line = bin == 0 ? s.whole[axis] : s.patch[axis];
  double const begin = line.first + (bin == 0 ? 0 : bin - 1) * line.bin;
  axis_writer writer{table.weights + std::size_t(work) * std::size_t(table.side), 1.0 / line.samples};
  for (int k = 0; k < line.samples; ++k) {
    double v = begin + (k + 0.5) * line.bin / line.samples;
    if (v < -1 || v > size) continue;
    v = v > 0 ? v : 0;
    int const lo = int(v);
    if (lo >= size - 1)
      writer.add(size - 1, 0);
    else
      writer.add(lo, v - lo);
  }
  table.cells[work] = writer.finish();
}

/// Fills the table, unless no sample has a map.
inline void make_axis_table(cudaStream_t stream, label_sample const* samples, axis_table const& table, int batch) {
  if (table.side == 0) return;
  unsigned const blocks = blocks_for(std::size_t(batch) * 2 * std::size_t(table.bins), 64);
  launch("token_label_loss", axis_weights_kernel<label_sample>, {blocks, 64}, stream, samples, table, batch);
}

/// Threads of a block of the loss.
inline constexpr int loss_threads = 256, loss_warps = loss_threads / 32;

/// What no score has been added to: a zero that additions leave, and that none of them gives.
inline constexpr float untouched = -0.0f;
__device__ inline bool is_untouched(float x) { return __float_as_uint(x) == 0x80000000u; }

/// The warps' sums or maxima in order, in every thread; `parts` [loss_warps] is shared.
template <class Warp, class Join>
__device__ inline float over_block(float x, float* parts, Warp const& warp, Join const& join) {
  x = warp(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
  float all = parts[0];
  for (int w = 1; w < loss_warps; ++w) all = join(all, parts[w]);
  return all;
}
__device__ inline float sum_over_loss_block(float x, float* parts) {
  return over_block(x, parts, sum_over_warp, [](float a, float b) { return a + b; });
}
__device__ inline float max_over_loss_block(float x, float* parts) {
  return over_block(x, parts, max_over_warp, [](float a, float b) { return fmaxf(a, b); });
}

/// A row as form leaves it: base everywhere, plus extra[c] where it is not untouched.
struct formed_row {
  float base, mass;    ///< mass: the sum of the whole row
  float const* extra;  ///< [K]
  int listed;          ///< classes in the list, which the next row must find untouched
};

/// Where a block adds: target [K]; `parts` rows of scores [K] to work with, and a place for sums.
struct target_memory {
  float *target, *scores, *sums;
  int parts;
};

/// Rows from label maps: off + on softmax(RoIAlign's scores), where a class without a score counts as 0.
template <class M>
struct map_rows {
  label_maps<M> maps;
  axis_table axes;
  float on, off;  ///< of label_smoothing

  struct bin {
    axis_cells y, x;
    float const *weight_y, *weight_x;
  };
  /// Row 0 is the whole crop; row 1 + i cols + j bin (i, j).
  __device__ bin bin_of(int sample, int row) const {
    int const i = row == 0 ? 0 : 1 + (row - 1) / maps.cols, j = row == 0 ? 0 : 1 + (row - 1) % maps.cols;
    int const y = 2 * sample * axes.bins + i, x = (2 * sample + 1) * axes.bins + j;
    return {axes.cells[y], axes.cells[x], axes.weights + std::size_t(y) * std::size_t(axes.side),
            axes.weights + std::size_t(x) * std::size_t(axes.side)};
  }

  static constexpr int top = 5, at_once = 6;  ///< scores of a cell, cells that a warp reads at once

  /// One of a cell's scores, times the cell's weight, and its class. Nothing where the lane has none.
  struct score {
    bool present;
    int index;
    float value;
  };
  template <int K>
  __device__ score read(label_sample const& s, bin const& b, int cell, int k) const {
    int const y = cell / b.x.count, x = cell - y * b.x.count;
    float const weight = b.weight_y[y] * b.weight_x[x];
    std::size_t const plane = std::size_t(s.height) * std::size_t(s.width);
    std::size_t const at =
        s.map + std::size_t(k) * plane + std::size_t(b.y.first + y) * std::size_t(s.width) + std::size_t(b.x.first + x);
    float const value = to_float(maps.values[at]), named = to_float(maps.values[at + top * plane]);
    bool const known = named >= 0 && named < float(K);
    return {weight != 0, known ? int(named) : 0, known ? weight * value : NAN};
  }
  /// Where a cell has a class twice, its first lane takes the sum and the others nothing. The sum begins at 0 and so is
  /// never -0, which would leave a score untouched.
  __device__ static void join_equal(score& e, int k) {
    int const cell = int(threadIdx.x) % 32 - k;
    float sum = 0;
#pragma unroll
    for (int d = 0; d < top; ++d) {
      int const other = __shfl_sync(0xffffffffu, e.index, cell + d);
      float const more = __shfl_sync(0xffffffffu, e.value, cell + d);
      if (other != e.index) continue;
      sum += more;
      if (d < k) e.present = false;
    }
    e.value = sum;
  }

  /// Adds the scores of cells 6 c .. 6 c + 5 of the bin, for c = first, first + step, ...; a lane takes one of a cell's
  /// five. Cell after cell, so that the order is fixed. Returns the number of classes that were untouched; they go to
  /// `list` unless it is null.
  template <int K, class Index>
  __device__ int scatter(label_sample const& s, bin const& b, int first, int step, float* scores, Index* list) const {
    int const lane = int(threadIdx.x) % 32, slot = lane / top, k = lane % top, cells = b.y.count * b.x.count;
    int listed = 0;
    for (int c = first * at_once; c < cells; c += step * at_once) {
      score e{false, 0, 0.f};
      if (slot < at_once && c + slot < cells) e = read<K>(s, b, c + slot, k);
      join_equal(e, k);
      bool fresh = false;
#pragma unroll
      for (int turn = 0; turn < at_once; ++turn) {
        if (e.present && slot == turn) {
          float const before = scores[e.index];
          fresh = is_untouched(before);
          scores[e.index] = before + e.value;
        }
        __syncwarp();
      }
      unsigned const who = __ballot_sync(0xffffffffu, fresh);
      if (fresh && list != nullptr) list[listed + __popc(who & ((1u << lane) - 1u))] = Index(e.index);
      listed += __popc(who);
    }
    return listed;
  }

  template <int K, class Index>
  __device__ formed_row form(int sample, int row, float* extra, Index* list) const {
    int const lane = int(threadIdx.x) % 32;
    label_sample const& s = maps.samples[sample];
    float const mass = on + float(K - 1) * off;
    if (s.height == 0) {
      bool const known = s.label >= 0 && s.label < K;
      if (lane == 0) {
        list[0] = Index(known ? s.label : 0);
        extra[list[0]] = known ? on - off : NAN;
      }
      __syncwarp();
      return {off, mass, extra, 1};
    }
    int const listed = scatter<K>(s, bin_of(sample, row), 0, 1, extra, list);
    __syncwarp();
    float top = listed < K ? 0.f : -INFINITY, sum = 0;
    for (int e = lane; e < listed; e += 32) top = fmaxf(top, extra[list[e]]);
    top = max_over_warp(top);
    for (int e = lane; e < listed; e += 32) sum += extra[list[e]] = expf(extra[list[e]] - top);
    float const absent = expf(-top), share = on / (sum_over_warp(sum) + float(K - listed) * absent);
    for (int e = lane; e < listed; e += 32) extra[list[e]] = share * (extra[list[e]] - absent);
    __syncwarp();
    return {share * absent + off, on + float(K) * off, extra, listed};
  }

  template <int K>
  __device__ void add(int sample, int row, float a, target_memory const& m) const {
    int const thread = int(threadIdx.x);
    label_sample const& s = maps.samples[sample];
    if (s.height == 0) {
      bool const known = s.label >= 0 && s.label < K;
      for (int c = thread; c < K; c += loss_threads) m.target[c] += a * (!known ? NAN : c == s.label ? on : off);
      return;
    }
    for (int c = thread; c < K * m.parts; c += loss_threads) m.scores[c] = untouched;
    __syncthreads();
    if (thread / 32 < m.parts)
      scatter<K>(s, bin_of(sample, row), thread / 32, m.parts, m.scores + std::ptrdiff_t{thread / 32} * K,
                 static_cast<std::uint16_t*>(nullptr));
    __syncthreads();
    float top = -INFINITY, sum = 0;
    for (int c = thread; c < K; c += loss_threads) {
      float score = m.scores[c];
      for (int p = 1; p < m.parts; ++p) score += m.scores[std::ptrdiff_t{p} * K + c];
      m.scores[c] = score;
      top = fmaxf(top, score);
    }
    top = max_over_loss_block(top, m.sums);
    for (int c = thread; c < K; c += loss_threads) sum += m.scores[c] = expf(m.scores[c] - top);
    float const share = on / sum_over_loss_block(sum, m.sums);
    for (int c = thread; c < K; c += loss_threads) m.target[c] += a * (share * m.scores[c] + off);
  }
};

// Targets that are on the device already, sparse or dense, as sources of target.cuh.

/// Rows of sparse_targets on the device; a row's classes are distinct.
struct sparse_source {
  sparse_rows<float> rows;
  int each;  ///< rows of a sample

  template <int K, class Index>
  __device__ formed_row form(int sample, int row, float* extra, Index* list) const {
    std::size_t const r = std::size_t(sample) * std::size_t(each) + std::size_t(row);
    std::uint32_t const begin = rows.begin[r], n = rows.begin[r + 1] - begin;
    float sum = 0;
    for (std::uint32_t e = threadIdx.x % 32; e < n; e += 32) {
      std::uint32_t const c = rows.index[begin + e];
      float const more = rows.extra[begin + e];
      sum += more;
      extra[c] = more;
      list[e] = Index(c);
    }
    __syncwarp();
    return {rows.base[r], rows.base[r] * float(K) + sum_over_warp(sum), extra, int(n)};
  }

  template <int K>
  __device__ void add(int sample, int row, float a, target_memory const& m) const {
    std::size_t const r = std::size_t(sample) * std::size_t(each) + std::size_t(row);
    for (int c = int(threadIdx.x); c < K; c += loss_threads) m.target[c] += a * rows.base[r];
    __syncthreads();
    for (std::uint32_t e = rows.begin[r] + threadIdx.x; e < rows.begin[r + 1]; e += loss_threads)
      m.target[rows.index[e]] += a * rows.extra[e];
    __syncthreads();
  }
};

/// Dense rows.
struct dense_source {
  float const* target;  ///< of the first class token
  int each;             ///< rows from a sample's to the next one's

  template <int K, class Index>
  __device__ formed_row form(int sample, int row, float*, Index*) const {
    float const* const from = target + (std::size_t(sample) * std::size_t(each) + std::size_t(row)) * K;
    float sum = 0;
    for (int c = int(threadIdx.x) % 32; c < K; c += 32) sum += from[c];
    return {0, sum_over_warp(sum), from, 0};
  }

  template <int K>
  __device__ void add(int sample, int row, float a, target_memory const& m) const {
    float const* const from = target + (std::size_t(sample) * std::size_t(each) + std::size_t(row)) * K;
    for (int c = int(threadIdx.x); c < K; c += loss_threads) m.target[c] += a * from[c];
  }
};

}  // namespace dm2::cuda::detail::token_label_loss
