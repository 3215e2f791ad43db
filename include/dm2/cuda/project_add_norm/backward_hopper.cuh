/// @file
/// Project-add-norm's backward as one kernel for a Hopper.
///
/// A warpgroup has the gradient of whole normed rows in its accumulators; the norm's backward happens there, and the
/// residual's gradient, rounded, is the next product's operand without going through memory. One thread copies what all
/// read, by tensor maps, ahead of its use and of the next tile; each warpgroup writes its own rows by them.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/tma.cuh>
#include <dm2/cuda/instructions/wgmma.cuh>
#include <dm2/cuda/project_add_norm/backward_hopper_rows.cuh>
#include <dm2/cuda/project_add_norm/hopper.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/tile/partial_sums.cuh>
#include <dm2/cuda/tile/ring.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::project_add_norm {

/// acc += the stage's columns of dy times the stage's rows of the input projection, 16 of them Count times.
template <class Tr, int Count>
__device__ __forceinline__ void multiply_dy_step(float (&acc)[Tr::parts][96], stage_ring<Tr> const& ring, int group) {
  ring.wait();
  std::uint64_t const a = product_operand(ring.bytes() + std::uint32_t(group * 64 * 128));
  std::uint64_t const b = operand_down(ring.bytes() + std::uint32_t(Tr::rows * 128), Tr::weight_bytes);
  fence_products();
#pragma unroll
  for (int k = 0; k < Count; ++k)
#pragma unroll
    for (int part = 0; part < Tr::parts; ++part)
      multiply_wide_down<typename Tr::element>(acc[part], further(a, k),
                                               further_down(b, k + part * (3 * Tr::weight_bytes / 2048)));
  commit_products();
}

/// acc += dy in.
template <class Tr>
__device__ __forceinline__ void multiply_dy(float (&acc)[Tr::parts][96], stage_ring<Tr>& ring,
                                            backward_hopper_place<Tr> const& at) {
#pragma unroll
  for (int part = 0; part < Tr::parts; ++part) hold(acc[part]);
  stage_ring<Tr> before = ring;
  for (int step = 0; step < Tr::steps - 1; ++step) {
    multiply_dy_step<Tr, Tr::depth / 16>(acc, ring, at.group);
    if (step != 0) {
      wait_products<1>();
      before.release(at.lane);
    }
    before = ring;
    ring.advance();
  }
  multiply_dy_step<Tr, Tr::last_depth>(acc, ring, at.group);
  wait_products<1>();
  before.release(at.lane);
  wait_products<0>();
#pragma unroll
  for (int part = 0; part < Tr::parts; ++part) hold(acc[part]);
  ring.release(at.lane);
  ring.advance();
}

/// dg = a out, chunk after chunk of dg's columns.
template <class Tr>
__device__ __forceinline__ void multiply_out(std::uint32_t const (&a)[Tr::dim / 16][4],
                                             backward_hopper_arguments<typename Tr::element> const& p,
                                             stage_ring<Tr>& ring, backward_hopper_place<Tr> const& at) {
  using T = typename Tr::element;
  int place = 0;  // in the stage
  for (int j = 0; j < Tr::chunks; ++j) {
    float v[32];
    if (place == 0) ring.wait();
    std::uint64_t const b = operand_down(ring.bytes() + std::uint32_t(place * Tr::chunk_bytes), 0);
    fence_products();
#pragma unroll
    for (int k = 0; k < Tr::dim / 16; ++k) multiply_chunk_down<T>(v, a[k], further_down(b, k), k != 0);
    commit_products();
    wait_products<0>();
    hold(v);
    if (++place == Tr::chunks_at_once || j == Tr::chunks - 1) {
      place = 0;
      ring.release(at.lane);
      ring.advance();
    }
    at.send(p.dg, j * Tr::chunk, p.plain.count,
            [&](int i, int half) { return pack<T>(v[i * 4 + half * 2], v[i * 4 + half * 2 + 1]); });
  }
}

/// A warpgroup's rows of all the block's tiles.
template <class Tr>
__device__ __forceinline__ void multiply_backward_hopper(backward_hopper_arguments<typename Tr::element> const& p,
                                                         stage_ring<Tr> ring, backward_hopper_place<Tr> at) {
  int const tiles = (p.plain.count + Tr::rows - 1) / Tr::rows;
#pragma unroll
  for (int b = 0; b < Tr::boxes; ++b) at.sums[b * 32 + at.lane] = 0;
  for (int tile = int(blockIdx.x); tile < tiles; tile += int(gridDim.x)) {
    at.first = tile * Tr::rows + at.group * 64 + at.warp * 16;
    float rstd[2], means[2];
#pragma unroll
    for (int half = 0; half < 2; ++half)
      rstd[half] = at.row() + half * 8 < p.plain.count ? p.plain.rstd[at.row() + half * 8] : 0.f;
    float acc[Tr::parts][96] = {};
    multiply_dy<Tr>(acc, ring, at);
    kept_rows<Tr> kept;
    sum_normed<Tr>(means, kept, acc, rstd, p, ring, at);
    std::uint32_t a[Tr::dim / 16][4];
    add_norm_gradient<Tr>(a, acc, kept, means, rstd, p, ring, at);
    multiply_out<Tr>(a, p, ring, at);
  }
  if (at.lane == 0) wait_stores<0>();
}

/// The block's sums of the norm's gradient, from all warps' in their order.
template <class Tr>
__device__ inline void write_norm_sums(float* to, float const* sums) {
  for (int c = int(threadIdx.x); c < Tr::dim; c += 128 * Tr::groups) {
    int const place = c / 32 * 32 + (c % 32 / 8 * 2 + c % 2) * 4 + c % 8 / 2;  // see add_box_sums
    float sum = 0;
#pragma unroll
    for (int w = 0; w < 4 * Tr::groups; ++w) sum += sums[w * Tr::dim + place];
    to[c] = sum;
  }
}

/// Grid: as many blocks as there are multiprocessors, or tiles if they are fewer. Each writes a row of parts.
template <class Tr>
__global__ void __launch_bounds__(Tr::threads, 1)
    backward_hopper_kernel(__grid_constant__ backward_hopper_arguments<typename Tr::element> const p) {
  if constexpr (hopper_code) {
    __shared__ std::uint64_t barriers[2 * Tr::stages];
    unsigned char* const memory = align_shared<Tr::alignment>(dynamic_shared());
    stage_ring<Tr> const ring{shared_address(memory), shared_address(barriers)};
    ring.init();
    int const warp = __shfl_sync(~0u, int(threadIdx.x) / 32, 0);
    if (warp / 4 == Tr::groups) {
      release_registers<Tr::copier_registers>();
      if (threadIdx.x == 128 * Tr::groups) {
        prefetch_map(p.dy), prefetch_map(p.in), prefetch_map(p.residual), prefetch_map(p.gradient);
        prefetch_map(p.out), prefetch_map(p.new_gradient), prefetch_map(p.normed), prefetch_map(p.rounded);
        prefetch_map(p.dg);
        copy_backward_hopper<Tr>(p, ring);
      }
    } else {
      claim_registers<Tr::registers>();
      unsigned char* const staging = memory + Tr::stages * Tr::stage_bytes;
      auto* const sums = reinterpret_cast<float*>(staging + 4 * Tr::groups * Tr::staging_bytes);
      multiply_backward_hopper<Tr>(p, ring,
                                   {warp / 4, warp % 4, int(threadIdx.x) % 32, memory,
                                    staging + warp * Tr::staging_bytes, sums + warp * Tr::dim, 0});
      barrier<128 * Tr::groups>(0);
      write_norm_sums<Tr>(p.plain.parts + std::size_t{blockIdx.x} * Tr::dim, sums);
    }
  }
}

/// Whether this device runs the kernel, and this program has it compiled.
template <class Tr>
bool backward_hopper_runs(device_properties const& device) {
  if constexpr (Tr::possible) {
    if (device.major != 9 || device.minor != 0 || Tr::bytes > device.shared_per_block) return false;
    static bool const compiled = has_hopper_code("project_add_norm_backward", backward_hopper_kernel<Tr>);
    return compiled;
  } else {
    return false;
  }
}

/// Whether every address suits tensor maps.
template <class T>
bool backward_mappable(backward_arguments<T> const& p) {
  auto const whole = [](auto const*... at) { return (packets_at<16 / int(sizeof(*at))>(at) && ...); };
  return whole(p.dy, p.in, p.residual, p.dresidual, p.normed, p.rounded, p.out, p.dg) && packets_at<2>(p.norm);
}

/// The arguments with their tensor maps.
template <class Tr>
backward_hopper_arguments<typename Tr::element> map_backward_hopper(backward_arguments<typename Tr::element> const& p) {
  using T = typename Tr::element;
  auto const rows = std::size_t(p.count);
  tile_shape const box{Tr::rows, 32, true}, warp{16, 64, true};
  backward_hopper_arguments<T> arguments{};
  arguments.plain = p;
  arguments.dy = make_tensor_map(p.dy, rows, Tr::wide, {Tr::rows, Tr::depth, true});
  arguments.in = make_tensor_map(p.in, Tr::wide, Tr::dim, {64, 64, true});
  arguments.residual = make_tensor_map(p.residual, rows, Tr::dim, box);
  arguments.gradient = make_tensor_map<float>(p.dresidual, rows, Tr::dim, box);
  arguments.out = make_tensor_map(p.out, Tr::dim, Tr::inner, {192, Tr::chunk, true});
  arguments.new_gradient = make_tensor_map<float>(p.dresidual, rows, Tr::dim, {16, 32, true});
  arguments.normed = make_tensor_map<T>(p.normed, rows, Tr::dim, warp);
  arguments.rounded = make_tensor_map<T>(p.rounded, rows, Tr::dim, warp);
  arguments.dg = make_tensor_map<T>(p.dg, rows, Tr::inner, warp);
  return arguments;
}

/// Launches the kernel, and adds its sums to dnorm. Takes a row of D floats of scratch for each block: as many as there
/// are tiles at most.
template <class Tr>
void launch_backward_hopper(cudaStream_t stream, arena& scratch, device_properties const& device,
                            backward_arguments<typename Tr::element> p, float* dnorm) {
  arena_scope const scope{scratch};
  int const blocks = std::min((p.count + Tr::rows - 1) / Tr::rows, device.multiprocessors);
  p.parts = scratch.take<float>(std::size_t(blocks) * Tr::dim);
  launch("project_add_norm_backward", backward_hopper_kernel<Tr>, {unsigned(blocks), Tr::threads, Tr::bytes}, stream,
         map_backward_hopper<Tr>(p));
  add_parts("project_add_norm_backward: norm", stream, p.parts, blocks, Tr::dim, dnorm);
}

}  // namespace dm2::cuda::detail::project_add_norm
