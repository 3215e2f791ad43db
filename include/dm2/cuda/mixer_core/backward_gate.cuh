/// @file
/// The backward of the mixer's gate and norm. With v = y silu(z), r = 1 / sqrt(mean v^2 + 1e-5) in its group:
///     dnorm += dg v r,  dv = r (norm dg - v r^2 mean(norm dg v)),  dy = dv silu(z),  dz = dv y silu'(z).
/// From what the forward left, g = v r norm and r, without y: with n = g / norm and a = norm dg - n mean(dg g),
///     dnorm += dg g / norm,  dy = r a silu(z),  dz = a n silu'(z) / silu(z).
#pragma once

#include <dm2/cuda/mixer_core/backward_inputs.cuh>
#include <dm2/cuda/mixer_core/gate.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/tile/warp.cuh>

#include <cstddef>
#include <type_traits>

namespace dm2::cuda::detail::mixer_core {

/// 1 / (1 + exp(-x)) to float's rounding.
__device__ inline float sigmoid(float x) { return __fdividef(1.f, 1.f + __expf(-x)); }
/// The same for a result that is rounded to T: for 16 bits through tanh, in three instructions.
template <class T>
__device__ inline float sigmoid_as(float x) {
  if constexpr (is_half<T>) return fmaf(0.5f, tanh_fast(0.5f * x), 0.5f);
  return sigmoid(x);
}

/// Operands of both forms. y and norm parts hold the first direction's rows, then the second's.
template <class T>
struct gate_backward_operands {
  T* y;             ///< [2 n, d_inner] in the direction's order of tokens: y, overwritten by dy; or dy (=)
  T const* zxbcdt;  ///< [n, projected]
  T const* dg;      ///< [n, 2 d_inner]
  float const* norm[2];
  T* dzxbcdt;    ///< [n, projected]: the z channels are written (=)
  float* parts;  ///< [gridDim.x, 2, d_inner]: sums for the norm's weights, in the direction's order of channels
  std::size_t n;
  int length;
  T const* g;            ///< [n, 2 d_inner], as the forward left it
  float const* factors;  ///< [n, 2, groups], r
};

/// The row of y that a direction has for row `row` of the projection.
template <class Dir>
__device__ inline std::size_t direction_row(std::size_t row, std::size_t n, int length) {
  std::size_t const offset = Dir::out == 0 ? 0 : n;
  if (!Dir::reverse_tokens) return offset + row;
  std::size_t const first = row / std::size_t(length) * std::size_t(length);
  return offset + first + std::size_t(length - 1) - (row - first);
}

/// A group of one row in a warp: lane l has V channels from V l on, and from each 32 V further on.
template <class Tr>
struct gate_group {
  static constexpr int V = Tr::vector;
  static constexpr int pieces = (Tr::group + 32 * V - 1) / (32 * V);
  /// A warp holds a group; otherwise it is gone through twice.
  static constexpr bool possible = pieces * V <= (V == 1 ? 12 : 24);
  /// Blocks of a multiprocessor that its registers are for.
  static constexpr int resident = V == 1 ? 1 : pieces * V <= 12 ? 3 : 2;

  __device__ static int channel(int piece) { return (piece * 32 + int(threadIdx.x) % 32) * V; }
  __device__ static bool inside(int piece) { return channel(piece) < Tr::group; }
};

/// What a block shares.
template <class Tr>
struct gate_stage {
  alignas(16) float norm[Tr::group];     ///< the group's weights in the direction's order of channels
  alignas(16) float inverse[Tr::group];  ///< 1 / norm
  float reduced[8][Tr::group];
};

/// One direction of one row's group: y, z and dg on their way.
template <class Tr, class Dir, class T>
struct gate_row {
  using group = gate_group<Tr>;
  using numbers = vector_numbers<T, Tr::vector>;
  static constexpr int V = Tr::vector;
  T *y, *dz;
  numbers in[group::pieces], gate[group::pieces], grad[group::pieces];

  __device__ gate_row(gate_backward_operands<T> const& p, std::size_t row, int start)
      : y{p.y + direction_row<Dir>(row, p.n, p.length) * Tr::inner + start},
        dz{p.dzxbcdt + row * Tr::projected + Dir::z + start} {
    T const *const z = p.zxbcdt + row * Tr::projected + Dir::z + start, *const dg = p.dg + row * (2 * Tr::inner) +
                                                                                    Dir::out + start;
#pragma unroll
    for (int j = 0; j < group::pieces; ++j) {
      bool const inside = group::inside(j);
      in[j] = numbers::load_if(inside, y + group::channel(j));
      gate[j] = numbers::load_if(inside, z + group::channel(j));
      grad[j] = numbers::load_if(inside, dg + group::channel(j));
    }
  }
  /// dnorm's sums, dy and dz.
  __device__ void finish(gate_stage<Tr> const& stage, float (&sums)[group::pieces][V]) {
    float const* const norm = stage.norm;
    float squares = 0, products = 0;
#pragma unroll
    for (int j = 0; j < group::pieces; ++j) {
      float a[V], z[V], g[V];
      in[j].get(a), gate[j].get(z), grad[j].get(g);
      auto const weight = load_packet<V>(norm + (group::inside(j) ? group::channel(j) : 0));
#pragma unroll
      for (int v = 0; v < V; ++v) {
        float const gated = a[v] * z[v] * sigmoid_as<T>(z[v]);
        squares = fmaf(gated, gated, squares);
        products = fmaf(g[v] * weight.v[v], gated, products);
      }
    }
    squares = sum_over_warp(squares), products = sum_over_warp(products);
    float const r = 1.f / sqrtf(squares / float(Tr::group) + 1e-5f), m = r * r * products / float(Tr::group);
#pragma unroll
    for (int j = 0; j < group::pieces; ++j) {
      if (!group::inside(j)) continue;
      in[j].forget_floats(), gate[j].forget_floats(), grad[j].forget_floats();
      float a[V], z[V], g[V], dy[V], dgate[V];
      in[j].get(a), gate[j].get(z), grad[j].get(g);
      auto const weight = load_packet<V>(norm + group::channel(j));
      if (Dir::reverse_tokens) numbers::load(dz + group::channel(j)).get(dgate);  // the first direction's
#pragma unroll
      for (int v = 0; v < V; ++v) {
        float const s = sigmoid_as<T>(z[v]), silu_ = z[v] * s, gated = a[v] * silu_,
                    dv = r * (g[v] * weight.v[v] - gated * m);
        sums[j][v] = fmaf(g[v], gated * r, sums[j][v]);
        dy[v] = dv * silu_;
        float const slope = dv * a[v] * fmaf(silu_, 1.f - s, s);
        dgate[v] = Dir::reverse_tokens ? dgate[v] + slope : slope;
      }
      numbers::store(y + group::channel(j), dy);
      numbers::store(dz + group::channel(j), dgate);
    }
  }
};

/// The same of a row that the forward left: g, z and dg on their way.
template <class Tr, class Dir, class T>
struct left_gate_row {
  using group = gate_group<Tr>;
  using numbers = vector_numbers<T, Tr::vector>;
  static constexpr int V = Tr::vector;
  T *dy, *dz;
  numbers left[group::pieces], gate[group::pieces], grad[group::pieces];
  float factor;

  __device__ left_gate_row(gate_backward_operands<T> const& p, std::size_t row, int start)
      : dy{p.y + direction_row<Dir>(row, p.n, p.length) * Tr::inner + start},
        dz{p.dzxbcdt + row * Tr::projected + Dir::z + start},
        factor{p.factors[(row * 2 + (Dir::out != 0)) * Tr::groups + std::size_t(start / Tr::group)]} {
    std::size_t const out = row * (2 * Tr::inner) + std::size_t(Dir::out + start);
    T const* const z = p.zxbcdt + row * Tr::projected + Dir::z + start;
#pragma unroll
    for (int j = 0; j < group::pieces; ++j) {
      bool const inside = group::inside(j);
      left[j] = numbers::load_if(inside, p.g + out + group::channel(j));
      grad[j] = numbers::load_if(inside, p.dg + out + group::channel(j));
      gate[j] = numbers::load_if(inside, z + group::channel(j));
    }
  }
  /// dnorm's sums but for their weight, dy and dz.
  __device__ void finish(gate_stage<Tr> const& stage, float (&sums)[group::pieces][V]) {
    float mean = 0;
#pragma unroll
    for (int j = 0; j < group::pieces; ++j) {
      float g[V], d[V];
      left[j].get(g), grad[j].get(d);
#pragma unroll
      for (int v = 0; v < V; ++v) mean = fmaf(g[v], d[v], mean), sums[j][v] = fmaf(g[v], d[v], sums[j][v]);
    }
    mean = sum_over_warp(mean) * (1.f / Tr::group);
#pragma unroll
    for (int j = 0; j < group::pieces; ++j) {
      if (!group::inside(j)) continue;
      left[j].forget_floats(), grad[j].forget_floats();
      float g[V], z[V], d[V], to[V], dgate[V];
      left[j].get(g), gate[j].get(z), grad[j].get(d);
      auto const weight = load_packet<V>(stage.norm + group::channel(j));
      auto const inverse = load_packet<V>(stage.inverse + group::channel(j));
      if (Dir::reverse_tokens) numbers::load(dz + group::channel(j)).get(dgate);  // the first direction's
#pragma unroll
      for (int v = 0; v < V; ++v) {
        float const h = gate_half(z[v]), t = tanh_fast(h), silu_ = fmaf(h, t, h), s = fmaf(0.5f, t, 0.5f);
        float const n = g[v] * inverse.v[v], a = fmaf(d[v], weight.v[v], -n * mean);
        to[v] = factor * a * silu_;
        // Where silu is 0, so is n.
        float const slope = a * n * fmaf(silu_, 1.f - s, s) * __fdividef(1.f, silu_ - 0x1p-100f);
        dgate[v] = Dir::reverse_tokens ? dgate[v] + slope : slope;
      }
      numbers::store(dy + group::channel(j), to);
      numbers::store(dz + group::channel(j), dgate);
    }
  }
};

/// One direction of row after row, a warp a row of one group; `Row` is gate_row or left_gate_row.
template <class Tr, class Dir, class Row, class T>
__device__ inline void gate_backward_rows(gate_backward_operands<T> const& p, gate_stage<Tr>& stage) {
  constexpr bool left = std::is_same_v<Row, left_gate_row<Tr, Dir, T>>;
  using group = gate_group<Tr>;
  constexpr int V = Tr::vector, direction = Dir::out != 0;
  int const warp = int(threadIdx.x) / 32, start = int(blockIdx.y) * Tr::group;
  for (int c = int(threadIdx.x); c < Tr::group; c += 256) {
    float const w = weighted<T>(1.f, p.norm[direction][arranged<Dir>(start + c, Tr::inner)]);
    stage.norm[c] = w, stage.inverse[c] = 1.f / w;
  }
  __syncthreads();
  float sums[group::pieces][V] = {};
  for (std::size_t row = std::size_t{blockIdx.x} * 8 + std::size_t(warp); row < p.n; row += std::size_t{gridDim.x} * 8)
    Row{p, row, start}.finish(stage, sums);
#pragma unroll
  for (int j = 0; j < group::pieces; ++j)
    if (group::inside(j))
#pragma unroll
      for (int v = 0; v < V; ++v) stage.reduced[warp][group::channel(j) + v] = sums[j][v];
  __syncthreads();
  for (int c = int(threadIdx.x); c < Tr::group; c += 256) {
    float sum = 0;
    for (int w = 0; w < 8; ++w) sum += stage.reduced[w][c];
    if (left) sum *= stage.inverse[c];
    p.parts[(std::size_t{blockIdx.x} * 2 + direction) * Tr::inner + std::size_t(start + c)] = sum;
  }
  __syncthreads();
}

/// Block (part of the rows, group, direction). Directions whose z is the same are done by one block one after the
/// other, since the second adds to the first's gradient. Row: gate_row or left_gate_row.
template <class Tr, template <class, class, class> class Row, class T>
__global__ void __launch_bounds__(256, gate_group<Tr>::resident) gate_backward_kernel(gate_backward_operands<T> p) {
  using a_direction = typename Tr::first;
  using b_direction = typename Tr::second;
  __shared__ gate_stage<Tr> stage;
  if (Tr::reverse_tokens || blockIdx.z == 0) gate_backward_rows<Tr, a_direction, Row<Tr, a_direction, T>>(p, stage);
  if (Tr::reverse_tokens || blockIdx.z == 1) gate_backward_rows<Tr, b_direction, Row<Tr, b_direction, T>>(p, stage);
}

/// For groups of any size, first: r and r^2 mean(norm dg v) of each group of each row of one direction. A warp a group.
template <class Tr, class Dir, class T>
__global__ void __launch_bounds__(256) gate_statistics_kernel(gate_backward_operands<T> p, float2* to) {
  std::size_t const work = std::size_t{blockIdx.x} * 8 + threadIdx.x / 32;
  if (work >= p.n * Tr::groups) return;
  std::size_t const row = work / Tr::groups;
  int const start = int(work % Tr::groups) * Tr::group, lane = int(threadIdx.x % 32);
  T const *const y = p.y + direction_row<Dir>(row, p.n, p.length) * Tr::inner + start,
                 *const z = p.zxbcdt + row * Tr::projected + Dir::z + start,
                 *const dg = p.dg + row * (2 * Tr::inner) + Dir::out + start;
  float squares = 0, products = 0;
  for (int i = lane; i < Tr::group; i += 32) {
    float const v = to_float(y[i]) * silu(to_float(z[i]));
    squares = fmaf(v, v, squares);
    products = fmaf(to_float(dg[i]) * p.norm[Dir::out != 0][arranged<Dir>(start + i, Tr::inner)], v, products);
  }
  squares = sum_over_warp(squares), products = sum_over_warp(products);
  float const r = 1.f / sqrtf(squares / float(Tr::group) + 1e-5f);
  if (lane == 0) to[work] = {r, r * r * products / float(Tr::group)};
}

/// Then the rest: a thread goes down some rows of one channel. Block (part of the rows, 256 channels).
template <class Tr, class Dir, class T>
__global__ void __launch_bounds__(256) gate_channels_kernel(gate_backward_operands<T> p, float2 const* statistics) {
  int const c = int(blockIdx.y) * 256 + int(threadIdx.x);
  if (c >= Tr::inner) return;
  constexpr int direction = Dir::out != 0;
  float const norm = p.norm[direction][arranged<Dir>(c, Tr::inner)];
  float sum = 0;
  for (std::size_t row = blockIdx.x; row < p.n; row += gridDim.x) {
    T* const at = p.y + direction_row<Dir>(row, p.n, p.length) * Tr::inner + c;
    T* const dz = p.dzxbcdt + row * Tr::projected + Dir::z + c;
    float const y = to_float(*at), z = to_float(p.zxbcdt[row * Tr::projected + Dir::z + c]);
    float const dg = to_float(p.dg[row * (2 * Tr::inner) + Dir::out + c]), s = sigmoid(z), v = y * z * s;
    float2 const scale = statistics[row * Tr::groups + c / Tr::group];
    float const dv = scale.x * (norm * dg - v * scale.y);
    sum = fmaf(dg, v * scale.x, sum);
    *at = from_float<T>(dv * z * s);
    *dz = from_float<T>(dv * y * s * (1.f + z * (1.f - s)) + (Dir::reverse_tokens ? to_float(*dz) : 0.f));
  }
  p.parts[(std::size_t{blockIdx.x} * 2 + direction) * Tr::inner + std::size_t(c)] = sum;
}

}  // namespace dm2::cuda::detail::mixer_core
