/// @file
/// RoIAlign's weights on the axes of a label map. A bin's bilinear samples lie on a grid, so that a cell's weight is the
/// product of its row's and its column's.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/label_maps.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <cstddef>

namespace dm2::cuda::detail {

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

}  // namespace dm2::cuda::detail
