/// @file
/// Project-add-norm as one kernel for a Hopper.
///
/// A warpgroup has whole rows in its accumulators: the residual addition and the norm happen there, and the normed
/// rows, rounded, are the next product's operand without going through memory. One thread copies what all read, by
/// tensor maps, ahead of its use and of the next tile.
#pragma once

#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/device/properties.cuh>
#include <dm2/cuda/instructions/early_start.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/tma.cuh>
#include <dm2/cuda/instructions/wgmma.cuh>
#include <dm2/cuda/project_add_norm/hopper_rows.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::project_add_norm {

/// One thread: y's chunk j, which the warpgroup has staged, on its way.
template <class Tr>
__device__ inline void send_chunk(tensor_map const& y, int j, hopper_place<Tr> const& at) {
  store_box(y, at.first, j * Tr::chunk, shared_address(at.staging));
  commit_stores();
}

/// y = a in^T + bias, chunk after chunk of y's columns.
template <class Tr>
__device__ __forceinline__ void second_product(std::uint32_t const (&a)[Tr::dim / 16][4],
                                               hopper_arguments<typename Tr::element> const& p, stage_ring<Tr>& ring,
                                               hopper_place<Tr> const& at) {
  using T = typename Tr::element;
  int const t = fragment::quarter(at.lane);
  for (int j = 0; j < Tr::chunks; ++j) {
    float y[36];
    ring.wait();
    std::uint64_t const b = product_operand(ring.bytes());
    fence_products();
#pragma unroll
    for (int k = 0; k < Tr::dim / 16; ++k)
      multiply_chunk<T>(y, a[k], further(b, k / 4 * (Tr::chunk * 128 / 32) + k % 4), k != 0);
    commit_products();
    wait_products<0>();
    hold(y);
    ring.release(at.lane);
    ring.advance();
    if (at.leads()) wait_stores<0>();
    at.meet();  // the chunk before has been read
#pragma unroll
    for (int n = 0; n < Tr::chunk / 8; ++n) {
      int const column = j * Tr::chunk + n * 8 + t * 2;
      float2 bias{0, 0};
      if (p.plain.in_bias != nullptr && column < Tr::wide)
        bias = *reinterpret_cast<float2 const*>(p.plain.in_bias + column);
#pragma unroll
      for (int half = 0; half < 2; ++half)
        *reinterpret_cast<std::uint32_t*>(at.staging + (at.local() + half * 8) * (Tr::chunk * 2) + n * 16 + t * 4) =
            pack<T>(y[n * 4 + half * 2] + bias.x, y[n * 4 + half * 2 + 1] + bias.y);
    }
    fence_copies();
    at.meet();
    if (at.leads()) send_chunk(p.y, j, at);
  }
}

/// y = a; the staged chunks are swizzled.
template <class Tr>
__device__ __forceinline__ void store_normed(std::uint32_t const (&a)[Tr::dim / 16][4], tensor_map const& y,
                                             hopper_place<Tr> const& at) {
#pragma unroll
  for (int j = 0; j < Tr::chunks; ++j) {
    if (at.leads()) wait_stores<0>();
    at.meet();  // the chunk before has been read
#pragma unroll
    for (int i = 0; i < Tr::chunk / 4; ++i) {
      int const n = i / 2, row = at.local() + i % 2 * 8;
      if (j * 4 + n / 2 >= Tr::dim / 16) continue;  // behind y's columns, where nothing is written
      *reinterpret_cast<std::uint32_t*>(at.staging + row * (Tr::chunk * 2) + (n ^ row % 8) * 16 +
                                        fragment::column(at.lane) * 2) = a[j * 4 + n / 2][n % 2 * 2 + i % 2];
    }
    fence_copies();
    at.meet();
    if (at.leads()) send_chunk(y, j, at);
  }
}

/// A warpgroup's rows of all the block's tiles.
template <class Tr>
__device__ __forceinline__ void multiply_hopper(hopper_arguments<typename Tr::element> const& p, stage_ring<Tr> ring,
                                                hopper_place<Tr> at) {
  int const tiles = (p.plain.count + Tr::rows - 1) / Tr::rows;
  for (int tile = int(blockIdx.x); tile < tiles; tile += int(gridDim.x)) {
    at.first = tile * Tr::rows + at.group * 64;
    float acc[Tr::parts][Tr::numbers] = {}, sums[2] = {};
    if constexpr (Tr::inner != 0) first_product<Tr>(acc, p.plain, ring, at);
    add_residual<Tr>(acc, sums, p, ring, at);
    std::uint32_t a[Tr::dim / 16][4];
    norm_rows<Tr>(a, acc, sums, p.plain, at);
    if constexpr (Tr::wide != 0)
      second_product<Tr>(a, p, ring, at);
    else
      store_normed<Tr>(a, p.y, at);
  }
  if (at.leads()) wait_stores<0>();
}

/// Grid: as many blocks as there are multiprocessors, or tiles if they are fewer.
template <class Tr>
__global__ void __launch_bounds__(Tr::threads, 1)
    hopper_kernel(__grid_constant__ hopper_arguments<typename Tr::element> const p) {
  if constexpr (hopper_code) {
    __shared__ std::uint64_t barriers[2 * Tr::stages];
    unsigned char* const memory = align_shared<Tr::alignment>(dynamic_shared());
    stage_ring<Tr> const ring{shared_address(memory), shared_address(barriers)};
    let_next_start();
    ring.init();
    int const warp = __shfl_sync(~0u, int(threadIdx.x) / 32, 0);
    if (warp / 4 == Tr::groups) {
      release_registers<Tr::copier_registers>();
      if (threadIdx.x == 128 * Tr::groups) {
        prefetch_map(p.before), prefetch_map(p.y);
        if constexpr (Tr::inner != 0) prefetch_map(p.g), prefetch_map(p.out), prefetch_map(p.after);
        if constexpr (Tr::wide != 0) prefetch_map(p.in);
      }
      wait_for_previous();
      if (threadIdx.x == 128 * Tr::groups) copy_hopper<Tr>(p, ring);
    } else {
      claim_registers<Tr::registers>();
      wait_for_previous();
      int const group = warp / 4;
      multiply_hopper<Tr>(p, ring,
                          {group, warp % 4, int(threadIdx.x) % 32, memory,
                           memory + Tr::stages * Tr::stage_bytes + group * Tr::staging_bytes, 0});
    }
  }
}

/// Whether this device runs the kernel for these sizes, and this program has it compiled.
template <class T, int D, int K, int N, int U>
bool hopper_runs(device_properties const& device) {
  using Tr = hopper_traits<T, D, K, N, U>;
  if constexpr (Tr::possible) {
    if (device.major != 9 || device.minor != 0 || Tr::bytes > device.shared_per_block) return false;
    static bool const compiled = has_hopper_code("project_add_norm", hopper_kernel<Tr>);
    return compiled;
  } else {
    return false;
  }
}

/// Whether it is the one to take for `count` rows: their tiles go to a third of the multiprocessors. A block's time is
/// that of its tile's bytes and of all weights through one multiprocessor, with one tile or with 132.
template <class T, int D, int K, int N, int U>
bool hopper_fits(device_properties const& device, std::size_t count) {
  std::size_t const tiles = (count + 127) / 128;
  return count != 0 && 3 * tiles >= std::size_t(device.multiprocessors) && hopper_runs<T, D, K, N, U>(device);
}

/// The arguments with their tensor maps. Making six maps costs the host about what a launch does; a graph has them.
template <class Tr>
hopper_arguments<typename Tr::element> map_hopper(arguments<typename Tr::element> const& p) {
  using T = typename Tr::element;
  auto const rows = std::size_t(p.count);
  tile_shape const residual{64, 32, true};
  hopper_arguments<T> arguments{};
  arguments.plain = p;
  if constexpr (Tr::inner != 0) {
    arguments.g = make_tensor_map(p.g, rows, Tr::inner, {Tr::rows, Tr::depth, true});
    arguments.out = make_tensor_map(p.out, Tr::dim, Tr::inner, {Tr::part, Tr::depth, true});
    arguments.after = make_tensor_map<float>(p.after, rows, Tr::dim, residual);
  }
  arguments.before = make_tensor_map(p.before, rows, Tr::dim, residual);
  if constexpr (Tr::wide != 0) arguments.in = make_tensor_map(p.in, Tr::wide, Tr::dim, {Tr::chunk, Tr::depth, true});
  arguments.y = make_tensor_map<T>(p.y, rows, Tr::result, {64, Tr::chunk, Tr::wide == 0});
  return arguments;
}

/// Launches the kernel for p.count rows, of which there are some; `early` as in launch_shape.
template <class Tr>
void launch_hopper(arguments<typename Tr::element> const& p, int multiprocessors, cudaStream_t stream, bool early) {
  int const tiles = (p.count + Tr::rows - 1) / Tr::rows;
  launch("project_add_norm", hopper_kernel<Tr>,
         {unsigned(std::min(tiles, multiprocessors)), Tr::threads, Tr::bytes, early}, stream, map_hopper<Tr>(p));
}

}  // namespace dm2::cuda::detail::project_add_norm
