/// @file
/// The gradient of the projection's weights, for a Hopper.
///
/// project_weights.cuh's product with those of a warpgroup. One thread brings tiles of 64 patches into a ring in shared
/// memory, by tensor maps: the raw outputs of four pixels, and the gradients of the patches. Two warpgroups multiply,
/// two pixels each: 64 channels by 192 numbers of the grid, twice, are 192 registers of a thread.
///
/// A pixel's channels are the left operand, transposed on the way into registers, where BatchNorm and ReLU cost a
/// thread four numbers: it has two channels. The gradients lie as a right operand does. For 16 patches the products
/// take 384 cycles; shared memory, 46 KB in and out, 360 of its 128 bytes; and device memory, 8 KB, 440 at 4.2 TB/s.
/// All blocks together read the gradients 16 times, Tiny's 19 MB from L2.
#pragma once

#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/instructions/tma.cuh>
#include <dm2/cuda/instructions/wgmma.cuh>
#include <dm2/cuda/stem_train/batch_norm.cuh>
#include <dm2/cuda/stem_train/saved.cuh>
#include <dm2/cuda/tile/fragment.cuh>
#include <dm2/cuda/tile/ring.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::stem_train {

/// The sizes of a block: two warpgroups that multiply, and one of which a thread copies.
template <class G>
struct project_weights_hopper_block {
  using geometry = G;
  static constexpr int groups = 2, each = 2, pixels = groups * each, threads = 128 * (groups + 1);
  static constexpr int step = 64, columns = 192, dim = G::dim, depth = G::depth, taps = G::side * G::side;
  static constexpr int tile_bytes = step * 128, gradient_offset = pixels * tile_bytes;
  static constexpr int stages = 4, stage_bytes = gradient_offset + columns / 64 * tile_bytes, alignment = 1024;
  static constexpr int shared_bytes = stages * stage_bytes + alignment;
  static constexpr int copier_registers = 24, registers = 240;
  static constexpr int pixel_blocks = (taps + pixels - 1) / pixels, dim_blocks = (dim + columns - 1) / columns;
  static_assert(G::hidden == 64 && dim % 8 == 0 && shared_bytes + 1024 <= 227 * 1024,
                "dm2::cuda::detail::stem_train::project_weights_hopper_block: 64 channels, even rows");
};

/// What the kernel reads and writes.
template <class G, class T>
struct project_weights_hopper_operands {
  tensor_map raw, dgrid;  ///< tiles of 64 rows and 64 columns
  batch_norm norm;
  int patches;
  float* parts;  ///< [shares, depth, D]
};

/// The tiles of 64 patches of this block's share.
template <class G>
struct patch_steps {
  int first, last;

  __device__ explicit patch_steps(int patches) {
    int const steps = (patches - 1) / project_weights_hopper_block<G>::step + 1;
    first = steps * int(blockIdx.z) / int(gridDim.z), last = steps * (int(blockIdx.z) + 1) / int(gridDim.z);
  }
};

/// One thread: the copies of all steps. What is outside of either matrix is zeros.
template <class G, class T>
__device__ inline void copy_patches(project_weights_hopper_operands<G, T> const& o,
                                    stage_ring<project_weights_hopper_block<G>> ring) {
  using block = project_weights_hopper_block<G>;
  patch_steps<G> const steps{o.patches};
  int const pixel = int(blockIdx.x) * block::pixels, d = int(blockIdx.y) * block::columns;
#pragma unroll 1
  for (int s = steps.first; s < steps.last; ++s) {
    ring.claim(block::stage_bytes);
#pragma unroll
    for (int p = 0; p < block::pixels; ++p) ring.copy(p * block::tile_bytes, o.raw, s * block::step, (pixel + p) * 64);
#pragma unroll
    for (int j = 0; j < block::columns / 64; ++j)
      ring.copy(block::gradient_offset + j * block::tile_bytes, o.dgrid, s * block::step, d + j * 64);
    ring.advance();
  }
}

/// BatchNorm and ReLU of a fragment whose rows are channels.
struct row_activations {
  float2 low, high;  ///< scale and shift of the lane's channel, and of the one 8 further

  __device__ row_activations(batch_norm const& norm, int channel)
      : low{norm.affine(channel)}, high{norm.affine(channel + 8)} {}
  /// Raw numbers become elements of T.
  template <class T>
  __device__ void apply(std::uint32_t (&a)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float2 const x = unpack<stem_number<T>>(a[i]), with = i % 2 == 0 ? low : high;
      a[i] = pack_relu<T>(fmaf(x.x, with.x, with.y), fmaf(x.y, with.x, with.y));
    }
  }
};

/// A thread's sums of two pixels: of each those of 64 channels by 192 numbers of the grid.
template <class G, class T>
struct project_weights_hopper_sums {
  using block = project_weights_hopper_block<G>;
  float c[block::each][96] = {};

  /// += a step. `from` is the lane's piece of its first pixel's raw outputs, `gradients` the operand's first byte.
  __device__ __forceinline__ void multiply(std::uint32_t from, std::uint32_t gradients,
                                           row_activations const& activations) {
    std::uint64_t const b = operand_down(gradients, block::tile_bytes);
    std::uint32_t a[2][block::each][4];
    load(a[0], from, activations);
    hold_all();
#pragma unroll
    for (int k = 0; k < block::step / 16; ++k) {
      fence_products();
#pragma unroll
      for (int p = 0; p < block::each; ++p) multiply_wide_down<T>(c[p], a[k % 2][p], further_down(b, k));
      commit_products();
      if (k + 1 < block::step / 16) {
        wait_products<1>();  // the step before this one, whose fragments give way
        load(a[(k + 1) % 2], from + unsigned((k + 1) * 16 * 128), activations);
      }
    }
    wait_products<0>();
    hold_all();
  }
  /// To a part [depth, D], from pixel `pixel` and number d of the grid on.
  __device__ void write(float* part, int pixel, int d, int thread) const {
    int const lane = thread % 32;
#pragma unroll
    for (int p = 0; p < block::each; ++p) {
      if (pixel + p >= block::taps) continue;
#pragma unroll
      for (int i = 0; i < 96; i += 2) {
        int const channel = thread / 32 * 16 + fragment::row(lane, i / 2 % 2);
        int const column = d + i / 4 * 8 + fragment::column(lane);
        if (column < block::dim)
          *reinterpret_cast<float2*>(part + std::ptrdiff_t{(pixel + p) * 64 + channel} * block::dim + column) =
              make_float2(c[p][i], c[p][i + 1]);
      }
    }
  }

 private:
  __device__ __forceinline__ void load(std::uint32_t (&a)[block::each][4], std::uint32_t from,
                                       row_activations const& activations) {
#pragma unroll
    for (int p = 0; p < block::each; ++p) load_matrix_transposed(a[p], from + unsigned(p * block::tile_bytes));
#pragma unroll
    for (int p = 0; p < block::each; ++p) activations.apply<T>(a[p]);
  }
  __device__ __forceinline__ void hold_all() {
#pragma unroll
    for (int p = 0; p < block::each; ++p) hold(c[p]);
  }
};

/// A warpgroup that multiplies.
template <class G, class T>
__device__ __forceinline__ void multiply_patches(project_weights_hopper_operands<G, T> const& o,
                                                 stage_ring<project_weights_hopper_block<G>> ring, int group,
                                                 int thread) {
  using block = project_weights_hopper_block<G>;
  int const warp = thread / 32, lane = thread % 32;
  row_activations const activations{o.norm, warp * 16 + fragment::row(lane)};
  // Lane l points at row l % 8 of matrix l / 8: (patch, channel), (patch, channel + 8), (patch + 8, channel), ...
  int const from = group * block::each * block::tile_bytes + (lane / 16 * 8 + lane % 8) * 128 +
                   ((warp * 2 + lane / 8 % 2) ^ lane % 8) * 16;
  patch_steps<G> const steps{o.patches};
  project_weights_hopper_sums<G, T> sums;
#pragma unroll 1
  for (int s = steps.first; s < steps.last; ++s) {
    ring.wait();
    sums.multiply(ring.bytes() + unsigned(from), ring.bytes() + unsigned(block::gradient_offset), activations);
    ring.release(lane);
    ring.advance();
  }
  sums.write(o.parts + std::ptrdiff_t{blockIdx.z} * block::depth * block::dim,
             int(blockIdx.x) * block::pixels + group * block::each, int(blockIdx.y) * block::columns, thread);
}

/// parts [gridDim.z, depth, D]. Block (4 pixels, 192 numbers of the grid, share of the patches).
template <class G, class T>
__global__ void __launch_bounds__(project_weights_hopper_block<G>::threads, 1)
    project_weights_hopper_kernel(__grid_constant__ project_weights_hopper_operands<G, T> const o) {
  if constexpr (hopper_code) {
    using block = project_weights_hopper_block<G>;
    __shared__ std::uint64_t barriers[2 * block::stages];  // has_hopper_code() finds it
    unsigned char* const memory = align_shared<block::alignment>(dynamic_shared());
    stage_ring<block> const ring{shared_address(memory), shared_address(barriers)};
    ring.init();
    // From another lane: so the compiler knows that a warp's lanes agree.
    int const group = __shfl_sync(~0u, int(threadIdx.x) / 128, 0);
    if (group == block::groups) {
      release_registers<block::copier_registers>();
      if (threadIdx.x == 128 * block::groups) copy_patches<G, T>(o, ring);
    } else {
      claim_registers<block::registers>();
      multiply_patches<G, T>(o, ring, group, int(threadIdx.x) % 128);
    }
  }
}

/// dproj [D, hidden, tap] += the sum of parts [count, tap, hidden, D] in their order. Block (channel, 8 numbers of D,
/// 32 taps): it reads rows of 8 numbers and writes rows of 32 taps.
template <class G>
__global__ void __launch_bounds__(256)
    add_project_parts_kernel(float const* __restrict__ parts, int count, float* __restrict__ dproj) {
  constexpr int taps = G::side * G::side;
  __shared__ float sums[8][33];
  int const thread = int(threadIdx.x), channel = int(blockIdx.x), d = int(blockIdx.y) * 8, tap = int(blockIdx.z) * 32;
  if (int const from = tap + thread / 8; from < taps) {
    float const* const first = parts + (std::ptrdiff_t{from} * G::hidden + channel) * G::dim + d + thread % 8;
    float sum = 0;
#pragma unroll 8
    for (int i = 0; i < count; ++i) sum += first[std::ptrdiff_t{i} * G::depth * G::dim];
    sums[thread % 8][thread / 8] = sum;
  }
  __syncthreads();
  int const to = tap + thread % 32;
  if (to < taps)
    dproj[(std::ptrdiff_t{d + thread / 32} * G::hidden + channel) * taps + to] += sums[thread / 32][thread % 32];
}

/// Shares of the patches: about a block a multiprocessor.
template <class G>
int project_weights_hopper_shares(int multiprocessors, int patches) {
  using block = project_weights_hopper_block<G>;
  return std::clamp(multiprocessors / (block::pixel_blocks * block::dim_blocks), 1, (patches - 1) / block::step + 1);
}

/// As launch_project_weights, with parts of project_weights_hopper_shares(); false where the device or the build has it
/// not.
template <class G, class T>
bool launch_project_weights_hopper(cudaStream_t stream, device_properties const& device, T const* dgrid,
                                   stem_number<T> const* raw, batch_norm const& norm, int patches, float* parts,
                                   float* dproj) {
  using block = project_weights_hopper_block<G>;
  char const* const name = "stem: gradient of the projection's weights";
  auto* const kernel = project_weights_hopper_kernel<G, T>;
  if (device.major != 9 || block::shared_bytes + 1024 > device.shared_per_block || !has_hopper_code(name, kernel))
    return false;
  int const shares = project_weights_hopper_shares<G>(device.multiprocessors, patches);
  tile_shape const tile{block::step, 64, true};
  auto const rows = std::size_t(patches);
  launch(name, kernel,
         {dim3(block::pixel_blocks, block::dim_blocks, unsigned(shares)), block::threads, block::shared_bytes}, stream,
         project_weights_hopper_operands<G, T>{.raw = make_tensor_map(raw, rows, block::depth, tile),
                                               .dgrid = make_tensor_map(dgrid, rows, block::dim, tile),
                                               .norm = norm,
                                               .patches = patches,
                                               .parts = parts});
  launch("stem: sum of the projection's weights' gradients", add_project_parts_kernel<G>,
         {dim3(G::hidden, G::dim / 8, (block::taps - 1) / 32 + 1), 256}, stream, static_cast<float const*>(parts),
         shares, dproj);
  return true;
}

}  // namespace dm2::cuda::detail::stem_train
