/// @file
/// Few rows on their way into a mixer: norm, input projection and convolution in one kernel.
#pragma once

#include <dm2/core/shapes.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/early_start.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/mixer_core/few.cuh>
#include <dm2/cuda/mixer_core/layout.cuh>
#include <dm2/cuda/project_add_norm/few.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <cstddef>

namespace dm2::cuda::detail::mixer_core {

/// The kernel's constants for D channels of the residual stream. A block projects 16 rows and convolves the last ones:
/// the first `before` are those that the convolution looks back to.
template <class T, int D, mixer_shape M>
struct few_input_traits {
  using element = T;
  using mixer = traits<T, M>;
  using project = project_add_norm::few_project_traits<T, D, mixer::projected, 1>;
  static constexpr int dim = D, before = mixer::taps - 1, rows = 16 - before;
  static constexpr int tile_pitch = 20;  ///< floats of a row of a warp's 16 columns
  static constexpr std::size_t bytes = project::bytes + project::warps * 16 * tile_pitch * sizeof(float);
  /// The kernel does not look ahead, as a direction over reversed tokens does.
  static constexpr bool possible = mixer::possible && mixer::reverse_channels && project::possible;
};

/// A lane's column, and the direction that it convolves it for: the first half of a warp the first one.
template <class Tr>
struct few_input_column {
  using M = typename Tr::mixer;
  int second,
      index;  ///< index: the column's place among the direction's convolved channels, negative where it has none
  int token;  ///< in its sequence, of the first row that is convolved
  float weight[M::taps], bias;

  /// The block's first row is row `first` of the batch.
  __device__ few_input_column(few_arguments<typename Tr::element> const& p, int position, int first)
      : second{int(threadIdx.x) % 32 / 16}, token{(first + Tr::before) % p.length} {
    hide(token);  // the division here, not behind the products
    direction_slices<M> const at{second == 1};
    int const slice = second == 1 ? M::heads : M::inner;
    index = position - slice;
    if (index >= M::conv_dim) index = -1;
    int const channel = at.conv_channel(slice, max(index, 0));
    direction_pointers const& from = p.direction[second];
    bias = 0.5f * from.conv_bias[channel];  // halved: the sum is the h of silu(2 h) = h tanh(h) + h
#pragma unroll
    for (int k = 0; k < M::taps; ++k) weight[k] = 0.5f * from.conv[channel * M::taps + k];
  }

  /// `tile`: this column in the block's 16 rows, the first of which is row `first` of the batch.
  __device__ void convolve(few_arguments<typename Tr::element> const& p, float const* tile, int first) const {
    if (index < 0) return;
    float x[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) x[i] = tile[i * Tr::tile_pitch];
    int const count = p.sequences * p.length;
    int t = token;
    auto* const to = p.convolved + (std::ptrdiff_t(second) * count + first) * M::conv_dim + index;
    float v[16];  // all of them before the first store: the rows' chains of dependent instructions run side by side
#pragma unroll
    for (int i = Tr::before; i < 16; ++i) {
      float h = bias;
#pragma unroll
      for (int k = 0; k < M::taps; ++k)
        if (t >= Tr::before - k) h = fmaf(weight[k], x[i - Tr::before + k], h);
      v[i] = fmaf(h, tanh_fast(h), h);
      if (++t == p.length) t = 0;
    }
#pragma unroll
    for (int i = Tr::before; i < 16; ++i)
      if (first + i < count) to[i * M::conv_dim] = from_float<typename Tr::element>(v[i]);
  }
};

/// p.y = RMSNorm(p.before) in^T + bias, which is mixer.zxbcdt, and mixer.convolved. Grid (column tiles, row tiles).
template <class Tr>
__global__ void __launch_bounds__(Tr::project::threads)
    few_input_kernel(__grid_constant__ project_add_norm::arguments<typename Tr::element> const p,
                     __grid_constant__ few_arguments<typename Tr::element> const mixer) {
  using T = typename Tr::element;
  using P = typename Tr::project;
  let_next_start();
  unsigned char* const normed = dynamic_shared();
  int const lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  int const first = int(blockIdx.y) * Tr::rows - Tr::before, column = (int(blockIdx.x) * P::warps + warp) * 16;
  project_add_norm::few_project_weights<P> const in{p, column};
  few_input_column<Tr> const convolution{mixer, column + lane % 16, first};
  wait_for_previous();
  project_add_norm::few_norm<P>(p, first, in.norm, normed);
  __syncthreads();
  if (column >= P::wide) return;
  uint2 y[1][2];
  project_add_norm::few_project_tile<P>(y, in, normed);
  float* const tile = reinterpret_cast<float*>(normed + P::bytes) + warp * 16 * Tr::tile_pitch;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    int const i = fragment::row(lane, half), row = first + i, at = column + fragment::column<4>(lane);
    if (i >= Tr::before && row < p.count && at < P::wide)
      *reinterpret_cast<uint2*>(p.y + std::ptrdiff_t(row) * P::wide + at) = y[0][half];
    float2 const low = unpack<T>(y[0][half].x), high = unpack<T>(y[0][half].y);  // as others read them
    *reinterpret_cast<float4*>(tile + i * Tr::tile_pitch + fragment::column<4>(lane)) =
        make_float4(low.x, low.y, high.x, high.y);
  }
  __syncwarp();
  convolution.convolve(mixer, tile + lane % 16, first);
}

/// Launches the kernel.
template <int D, mixer_shape M, precision P>
void launch_few_input(context<P>& ctx, project_add_norm::arguments<element<P>> const& p,
                      few_arguments<element<P>> const& mixer) {
  using Tr = few_input_traits<element<P>, D, M>;
  using Project = typename Tr::project;
  dim3 const grid((Project::wide - 1) / Project::columns + 1, unsigned((p.count - 1) / Tr::rows + 1));
  launch("norm_project, convolution", few_input_kernel<Tr>, {grid, Project::threads, Tr::bytes, ctx.early()},
         ctx.stream(), p, mixer);
}

}  // namespace dm2::cuda::detail::mixer_core
