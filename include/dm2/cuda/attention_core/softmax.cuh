/// @file
/// Attention's online softmax, in a warp's registers.
///
/// A warp holds Tiles tiles of 16 query rows; keys and values are in shared memory. The scores' accumulators are,
/// rounded, the left operand of the product with the values, so that nothing goes back to shared memory.
#pragma once

#include <dm2/cuda/attention_core/inputs.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <cmath>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::attention_core {

/// A lane's address of 16 rows from `rows` on, as load_matrix takes a left operand's.
template <class Tr>
__device__ inline std::uint32_t left_address(typename Tr::element const* rows) {
  int const lane = int(threadIdx.x) % 32;
  return shared_address(rows) + std::uint32_t(fragment::left_operand(lane, Tr::pitch * 2));
}
/// The same of a right operand whose columns the rows are.
template <class Tr>
__device__ inline std::uint32_t column_address(typename Tr::element const* rows) {
  int const lane = int(threadIdx.x) % 32;
  return shared_address(rows) + std::uint32_t(fragment::right_operand(lane, Tr::pitch * 2));
}
/// The same of a right operand whose rows they are, for load_matrix_transposed.
template <class Tr>
__device__ inline std::uint32_t row_address(typename Tr::element const* rows) {
  return left_address<Tr>(rows);
}

/// Fragments of 16 rows, from a left_address on.
template <class Tr>
__device__ inline void load_rows(std::uint32_t address, std::uint32_t (&rows)[Tr::padded / 16][4]) {
#pragma unroll
  for (int k = 0; k < Tr::padded / 16; ++k) load_matrix(rows[k], address + 32 * k);
}

/// out += left right^T for 16 Groups rows of right, from a column_address on.
template <class Tr, int Groups, int Tiles>
__device__ inline void multiply_rows(std::uint32_t const (&left)[Tiles][Tr::padded / 16][4], std::uint32_t right,
                                     float (&out)[Tiles][2 * Groups][4]) {
#pragma unroll
  for (int k = 0; k < Tr::padded / 16; ++k)
#pragma unroll
    for (int g = 0; g < Groups; ++g) {
      std::uint32_t b[4];
      load_matrix(b, right + std::uint32_t(g * 16 * Tr::pitch * 2) + 32 * k);
#pragma unroll
      for (int i = 0; i < Tiles; ++i) {
        mma<typename Tr::element>(out[i][2 * g], left[i][k], b[0], b[1]);
        mma<typename Tr::element>(out[i][2 * g + 1], left[i][k], b[2], b[3]);
      }
    }
}

/// out += left right for 16 rows of right, from a row_address on.
template <class Tr, int Tiles>
__device__ inline void add_rows(std::uint32_t const (&left)[Tiles][4], std::uint32_t right,
                                float (&out)[Tiles][Tr::padded / 8][4]) {
#pragma unroll
  for (int c = 0; c < Tr::padded / 16; ++c) {
    std::uint32_t b[4];
    load_matrix_transposed(b, right + 32 * c);
#pragma unroll
    for (int i = 0; i < Tiles; ++i) {
      mma<typename Tr::element>(out[i][2 * c], left[i], b[0], b[1]);
      mma<typename Tr::element>(out[i][2 * c + 1], left[i], b[2], b[3]);
    }
  }
}

/// Scores of keys from the `left`-th on become -infinity; s as multiply_rows leaves it for a lane.
template <int Tiles, int Columns>
__device__ inline void mask_keys(float (&s)[Tiles][Columns][4], int left) {
#pragma unroll
  for (int i = 0; i < Tiles; ++i)
#pragma unroll
    for (int n = 0; n < Columns; ++n)
#pragma unroll
      for (int c = 0; c < 4; ++c)
        if (8 * n + fragment::column(int(threadIdx.x)) + c % 2 >= left) s[i][n][c] = -INFINITY;
}

/// Query rows of a warp: of tile i, lane l holds rows l / 4 and l / 4 + 8.
template <class Tr, int Tiles>
struct softmax_state {
  float out[Tiles][Tr::padded / 8][4] = {};  ///< sum of exp2(score - top) v
  float top[Tiles][2];                       ///< what scores are taken relative to, times log2(e)
  float sum[Tiles][2] = {};                  ///< this lane's part of the sum of exp2(score - top)

  __device__ softmax_state() {
#pragma unroll
    for (int i = 0; i < Tiles; ++i) top[i][0] = top[i][1] = -INFINITY;
  }

  /// Makes `top` fit scores up to `highest`. A lower top than the highest score is as exact, as long as no weight
  /// overflows: output and sum are only rescaled where a score exceeds it by a factor of 2^8.
  __device__ void raise(float const (&highest)[Tiles][2]) {
    bool over = false;
#pragma unroll
    for (int i = 0; i < Tiles; ++i) over = over || highest[i][0] > top[i][0] + 8.f || highest[i][1] > top[i][1] + 8.f;
    if (!__any_sync(0xffffffffu, over)) return;
#pragma unroll
    for (int i = 0; i < Tiles; ++i)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float const higher = fmaxf(top[i][r], highest[i][r]), factor = exp2_fast(top[i][r] - higher);
        top[i][r] = higher;
        sum[i][r] *= factor;
#pragma unroll
        for (int c = 0; c < Tr::padded / 8; ++c) {
          out[i][c][2 * r] *= factor;
          out[i][c][2 * r + 1] *= factor;
        }
      }
  }
};

/// Takes in 16 Groups keys; keys and values are the lane's addresses of the first of them. `left` keys are valid; only
/// a single group may have fewer than it covers.
template <class Tr, int Groups, int Tiles>
__device__ inline void attend(std::uint32_t const (&q)[Tiles][Tr::padded / 16][4], softmax_state<Tr, Tiles>& state,
                              std::uint32_t keys, std::uint32_t values, int left) {
  float const scale = log2_e * rsqrtf(float(Tr::head_dim));
  float s[Tiles][2 * Groups][4] = {}, highest[Tiles][2];
  multiply_rows<Tr, Groups>(q, keys, s);
  if (Groups == 1) mask_keys(s, left);
#pragma unroll
  for (int i = 0; i < Tiles; ++i)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float high = -INFINITY;
#pragma unroll
      for (int n = 0; n < 2 * Groups; ++n) high = fmaxf(fmaxf(high, s[i][n][2 * r]), s[i][n][2 * r + 1]);
      highest[i][r] = max_over_row(high) * scale;
    }
  state.raise(highest);
#pragma unroll
  for (int g = 0; g < Groups; ++g) {
    std::uint32_t weights[Tiles][4];
#pragma unroll
    for (int i = 0; i < Tiles; ++i)
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        int const n = 2 * g + c / 2, r = c % 2;
        float const low = exp2_fast(fmaf(s[i][n][2 * r], scale, -state.top[i][r]));
        float const high = exp2_fast(fmaf(s[i][n][2 * r + 1], scale, -state.top[i][r]));
        state.sum[i][r] += low + high;
        weights[i][c] = pack<typename Tr::element>(low, high);
      }
    add_rows<Tr>(weights, values + std::uint32_t(g * 16 * Tr::pitch * 2), state.out);
  }
}

/// Takes in n keys; keys is a column_address, values a row_address of the first of them.
template <class Tr, int Tiles>
__device__ inline void attend_all(std::uint32_t const (&q)[Tiles][Tr::padded / 16][4], softmax_state<Tr, Tiles>& state,
                                  std::uint32_t keys, std::uint32_t values, int n) {
  constexpr std::uint32_t group = 16 * Tr::pitch * 2;
  int left = n;
#pragma unroll 1
  for (; left >= 16 * Tr::key_groups; left -= 16 * Tr::key_groups) {
    attend<Tr, Tr::key_groups>(q, state, keys, values, left);
    keys += Tr::key_groups * group;
    values += Tr::key_groups * group;
  }
#pragma unroll 1
  for (; left > 0; left -= 16) {
    attend<Tr, 1>(q, state, keys, values, left);
    keys += group;
    values += group;
  }
}

/// The lane whose bit of t is 0 gives its b for the a of the lane Bit away, where it is 1.
template <int Bit>
__device__ inline void exchange_tiles(std::uint32_t& a, std::uint32_t& b, int t) {
  bool const upper = (t & Bit) != 0;
  std::uint32_t const got = __shfl_xor_sync(0xffffffffu, upper ? a : b, Bit);
  a = upper ? got : a;
  b = upper ? b : got;
}

/// Writes a tile's 16 rows, those below `length`, times its rows' scales, rounded. The first one is row `first` of
/// `to`, whose rows are Stride numbers apart and start at multiples of 16 bytes.
template <class Tr, int Stride>
__device__ inline void write_rows(typename Tr::element* to, float const (&rows)[Tr::padded / 8][4],
                                  float const (&scale)[2], int first, int length) {
  using T = typename Tr::element;
  int const lane = int(threadIdx.x) % 32, t = fragment::quarter(lane);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    int const row = first + fragment::row(lane, r);
    T* const at = to + std::ptrdiff_t(row) * Stride;
    constexpr int tiles = Tr::head_dim / 8;
#pragma unroll
    for (int n = 0; n < tiles / 4 * 4; n += 4) {
      // Lane t of four holds channels 2 t, 2 t + 1 of tiles n to n + 3; after two exchanges tile n + t whole.
      std::uint32_t v[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) v[i] = pack<T>(rows[n + i][2 * r] * scale[r], rows[n + i][2 * r + 1] * scale[r]);
      exchange_tiles<1>(v[0], v[1], t);
      exchange_tiles<1>(v[2], v[3], t);
      exchange_tiles<2>(v[0], v[2], t);
      exchange_tiles<2>(v[1], v[3], t);
      if (row < length) *reinterpret_cast<uint4*>(at + 8 * (n + t)) = make_uint4(v[0], v[1], v[2], v[3]);
    }
#pragma unroll
    for (int n = tiles / 4 * 4; n < tiles; ++n)
      if (row < length)
        *reinterpret_cast<std::uint32_t*>(at + 8 * n + 2 * t) =
            pack<T>(rows[n][2 * r] * scale[r], rows[n][2 * r + 1] * scale[r]);
  }
}

/// Writes the outputs of the Tiles tiles from row `first` of y on, those below `length`.
template <class Tr, int Tiles>
__device__ inline void write_outputs(typename Tr::element* y, softmax_state<Tr, Tiles> const& state, int first,
                                     int length) {
#pragma unroll
  for (int i = 0; i < Tiles; ++i) {
    float scale[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) scale[r] = 1.f / sum_over_row(state.sum[i][r]);
    write_rows<Tr, Tr::width>(y, state.out[i], scale, first + 16 * i, length);
  }
}

}  // namespace dm2::cuda::detail::attention_core
