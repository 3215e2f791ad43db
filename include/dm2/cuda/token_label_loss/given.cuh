/// @file
/// Targets that are on the device already, sparse or dense, as sources of target.cuh.
#pragma once

#include <dm2/core/operands.hpp>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/token_label_loss/target.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail {

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

}  // namespace dm2::cuda::detail
