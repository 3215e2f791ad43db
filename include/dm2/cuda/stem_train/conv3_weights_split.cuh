/// @file
/// Gradients of the stem's 3 x 3 weights: a warpgroup only loads.
///
/// conv3_weights.cuh's product for a Hopper. One warpgroup brings tiles of 8 x 16 pixels into a ring of four in shared
/// memory: dz, the raw output, and the input with its halo. There it turns dz into the gradient of the convolution's
/// output and applies BatchNorm and ReLU to the input. Three warpgroups multiply, each the three taps of one column:
/// sums of 64 input by 64 output channels, 96 registers of a thread.
///
/// A row of 16 input pixels, moved by the taps' column, is the left operand, transposed on the way from shared memory
/// into registers: so any pixel may be its first one. Read once, it serves three products with rows of the gradient,
/// which lie as a right operand does, 2 KB a row. So 2 KB and a third of 2 KB are read for 32 cycles of the tensor
/// cores: 85 bytes of the 128 a cycle. A tile's copies and changes, 150 KB, are another 65 at the products' full rate:
/// shared memory is the limit then, 2,800 cycles a tile, and device memory, 3,600 cycles a tile at 4.1 TB/s, before it.
/// One H200, Tiny, 256 pictures: 510 us (third convolution) and 405 (second), for 814 and 772 of conv3_weights.cuh.
#pragma once

#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/tma.cuh>
#include <dm2/cuda/instructions/wgmma.cuh>
#include <dm2/cuda/stem/conv3_hopper.cuh>
#include <dm2/cuda/stem_train/conv3_split.cuh>
#include <dm2/cuda/stem_train/conv3_weights.cuh>
#include <dm2/cuda/stem_train/eight_channels.cuh>
#include <dm2/cuda/stem_train/tile.cuh>
#include <dm2/cuda/stem_train/weights.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail::stem_train {

/// The sizes of a block: four warpgroups, the first one loads.
template <class G>
struct conv3_weights_split_block : stem::conv3_hopper_block<G> {
  using base = stem::conv3_hopper_block<G>;
  static constexpr int multipliers = 3, threads = 128 * (1 + multipliers), readers = 128 * multipliers;
  static constexpr int stages = 4, ahead = 2;  ///< tiles that the loader's copies are in front of its work
  static constexpr int loader_registers = 104, multiplier_registers = 136;
  static constexpr int gradient_row = base::tile::width * base::pixel_bytes;
  static constexpr int plane_bytes = base::tile::height * gradient_row;
  static constexpr int raw_offset = plane_bytes, halo_offset = 2 * plane_bytes;  ///< in a stage, behind dz
  static constexpr int stage_bytes = (halo_offset + base::buffer_bytes + 1023) / 1024 * 1024, first_stage = 0;
  static constexpr int table_offset = stages * stage_bytes, sink_offset = table_offset + 2 * 4 * G::hidden;
  static constexpr int phase_offset = sink_offset + 3 * 4 * G::hidden;  ///< behind the slopes: two barriers a stage
  static constexpr int shared_bytes = phase_offset + 16 * stages + base::alignment;
  static constexpr int sums = 9 * G::hidden * G::hidden;  ///< floats of a part: [tap, input channel, output channel]
  static_assert(base::group_threads == 128 && gradient_row % 1024 == 0 && shared_bytes + 1024 <= 227 * 1024,
                "dm2::cuda::detail::stem_train::conv3_weights_split_block: a Hopper's shared memory");
};

/// The pieces of 16 bytes of a tile without the pixels around it that one of 128 threads copies and changes: those of
/// its column, row after row.
template <class Block, bool Patches, class T>
struct gradient_part {
  using G = typename Block::geometry;
  using tile_type = typename Block::tile;
  static constexpr int rows = Block::tile::height, columns = Block::tile::width;
  static constexpr bool whole_rows = G::plane_height % rows == 0, whole_columns = G::plane_width % columns == 0;
  static constexpr bool in_a_patch = Patches && G::side % rows == 0;  ///< all rows of a column
  int thread;

  /// Where row j's piece lies, after the first byte of a plane's tile.
  [[nodiscard]] __device__ int offset(int j) const {
    int const column = thread / 8;
    return j * Block::gradient_row + column * Block::pixel_bytes + (thread % 8 ^ column % 8) * 16;
  }
  [[nodiscard]] __device__ bool inside(tile_type const& tile, int j) const {
    return (whole_rows || tile.y + j < G::plane_height) && (whole_columns || tile.x + thread / 8 < G::plane_width);
  }
  /// The piece's first number in a plane.
  [[nodiscard]] __device__ std::ptrdiff_t number(tile_type const& tile, int j) const {
    constexpr bool regular = !Patches || in_a_patch;
    constexpr int pitch = Patches ? G::side : G::plane_width;
    int const at = int(stem::plane_position<G, Patches>(0, tile.y + (regular ? 0 : j), tile.x + thread / 8));
    std::ptrdiff_t const first = (std::ptrdiff_t{tile.b} * G::plane_pixels + at) * G::hidden + thread % 8 * 8;
    return regular ? first + j * pitch * G::hidden : first;
  }

  /// Starts the copies of both planes, zeros outside.
  __device__ void load(std::uint32_t to, T const* dz, stem_number<T> const* raw, tile_type const& tile) const {
#pragma unroll
    for (int j = 0; j < rows; ++j) {
      std::ptrdiff_t const from = number(tile, j);
      bool const valid = inside(tile, j);
      copy_async(to + unsigned(offset(j)), dz + from, valid);
      copy_async(to + unsigned(Block::raw_offset + offset(j)), raw + from, valid);
    }
  }
  /// dz becomes the gradient of the convolution's output, in shared memory at `at` and in `out`; half of the rows at a
  /// time, so that their latencies overlap. Outside the plane zeros stay.
  __device__ void change(unsigned char* at, eight_slopes const& eight, tile_type const& tile, T* out) const {
    constexpr int half = rows / 2;
#pragma unroll
    for (int first = 0; first < rows; first += half) {
      uint4 v[half];
#pragma unroll
      for (int j = 0; j < half; ++j) {
        unsigned char const* const from = at + offset(first + j);
        v[j] = eight.apply<T>(*reinterpret_cast<uint4 const*>(from),
                              *reinterpret_cast<uint4 const*>(from + Block::raw_offset));
      }
#pragma unroll
      for (int j = 0; j < half; ++j) {
        if (!inside(tile, first + j)) continue;
        *reinterpret_cast<uint4*>(at + offset(first + j)) = v[j];
        __stcg(reinterpret_cast<uint4*>(out + number(tile, first + j)), v[j]);  // not 4 x 4 bytes
      }
    }
  }
};

/// A thread of the warpgroup that loads.
template <class Block, bool Patches, class T>
struct weights_loader {
  split_walk<Block> const& walk;
  conv3_weights_source<typename Block::geometry, Patches, T> const& source;
  halo_part<Block, false> halo;
  gradient_part<Block, Patches, T> gradient;

  /// Before the tables are there.
  __device__ void begin() const {
#pragma unroll
    for (int i = 0; i < Block::ahead; ++i) start(i);
  }
  __device__ void run() const {
    int const first = halo.thread % 8 * 8;
    eight_activations const activations{walk.table(), Block::hidden, first};
    eight_slopes const slopes{walk.sink_table(), Block::hidden, first};
#pragma unroll 1
    for (int n = 0; n < walk.count; ++n) {
      start(n + Block::ahead);
      wait_copies<Block::ahead>();
      unsigned char* const at = walk.memory + walk.place(n);
      auto const tile = walk.tile_at(n);
      gradient.change(at, slopes, tile, source.dz);
      halo.change(at + Block::halo_offset, tile, [&](uint4 v) { return activations.apply<T>(v); });
      fence_copies();  // products read the gradient themselves
      walk.ring.fill(n);
    }
  }

 private:
  __device__ void start(int n) const {
    if (n < walk.count) {
      walk.ring.wait_read(n);
      std::uint32_t const to = shared_address(walk.memory) + unsigned(walk.place(n));
      auto const tile = walk.tile_at(n);
      gradient.load(to, source.dz, source.raw, tile);
      halo.load(to + unsigned(Block::halo_offset), source.before, tile);
    }
    commit_copies();
  }
};

/// The sums of a column of taps: of each, those that a thread of a warpgroup has of 64 input by 64 output channels.
struct tap_column_sums {
  float c[3][32] = {};

  /// += all of the block's tiles, `dx` the column. Fragments of a row are read while the row before is multiplied. A
  /// tile's products end before the next one's begin: where they cross the loop's end, the compiler lets none overlap
  /// (ptxas C7513). The other two warpgroups have products under way meanwhile.
  template <class Block, class T>
  __device__ __forceinline__ void multiply_tiles(split_walk<Block> const& walk, int dx, int thread) {
    int const lane = thread % 32, column = lane / 16 * 8 + lane % 8 + dx, piece = thread / 32 * 2 + lane / 8 % 2;
    std::uint32_t const shared = shared_address(walk.memory);
    std::uint32_t const from =
        shared + unsigned(Block::halo_offset + column * Block::pixel_bytes + (piece ^ Block::swap(column)) * 16);
#pragma unroll 1
    for (int n = 0; n < walk.count; ++n) {
      walk.ring.wait_filled(n);
      multiply_tile<Block, T>(from + unsigned(walk.place(n)), shared + unsigned(walk.place(n)));
      walk.ring.release(n);
    }
  }

  /// To a part, this column's numbers.
  __device__ void write(float* part, int dx, int thread) const {
    int const lane = thread % 32;
#pragma unroll
    for (int dy = 0; dy < 3; ++dy)
#pragma unroll
      for (int i = 0; i < 32; i += 2) {
        int const in = thread / 32 * 16 + fragment::row(lane, i / 2 % 2), out = i / 4 * 8 + fragment::column(lane);
        __stcg(reinterpret_cast<float2*>(part + ((dy * 3 + dx) * 64 + in) * 64 + out),
               make_float2(c[dy][i], c[dy][i + 1]));
      }
  }

 private:
  __device__ __forceinline__ void hold_all() {
#pragma unroll
    for (int dy = 0; dy < 3; ++dy) hold(c[dy]);
  }
  /// += a tile, from the lane's piece of its input's first row and from the gradient's first byte.
  template <class Block, class T>
  __device__ __forceinline__ void multiply_tile(std::uint32_t from, std::uint32_t at) {
    std::uint64_t const gradient = operand_down(at, Block::gradient_row);
    std::uint32_t a[2][4];
    load_matrix_transposed(a[0], from);
    hold_all();
#pragma unroll
    for (int r = 0; r < Block::halo_height; ++r) {
      multiply_row<Block, T>(r, a[r % 2], gradient);
      if (r + 1 < Block::halo_height) {
        wait_products<1>();  // the row before this one, whose fragment gives way
        load_matrix_transposed(a[(r + 1) % 2], from + unsigned((r + 1) * Block::row_bytes));
      }
    }
    wait_products<0>();
    hold_all();
  }
  /// Row r of the input, from the one above the tile on, with those rows of the gradient that have it beside a tap.
  template <class Block, class T>
  __device__ __forceinline__ void multiply_row(int r, std::uint32_t const (&a)[4], std::uint64_t gradient) {
    fence_products();
#pragma unroll
    for (int dy = 0; dy < 3; ++dy)
      if (r >= dy && r - dy < Block::tile::height)
        multiply_chunk_down<T>(c[dy], a, further_down(gradient, r - dy), true);
    commit_products();
  }
};

/// As conv3_weights_kernel; parts [gridDim.x, 9, input channel, output channel].
template <class Block, bool Patches, class T>
__global__ void __launch_bounds__(Block::threads, 1)
    conv3_weights_split_kernel(conv3_weights_source<typename Block::geometry, Patches, T> source, tile_order order,
                               int tiles, float* __restrict__ parts) {
  if constexpr (hopper_code) {
    __shared__ int first_byte;  // has_hopper_code() finds it
    unsigned char* const all = dynamic_shared();
    if (threadIdx.x == 0) {
      first_byte = int(-shared_address(all) % Block::alignment);
      tile_ring<Block>{shared_address(all + first_byte) + unsigned(Block::phase_offset)}.init();
    }
    __syncthreads();
    unsigned char* const memory = all + first_byte;
    // From another lane: so the compiler knows that a warp's lanes agree.
    int const group = __shfl_sync(~0u, int(threadIdx.x) / 128, 0), thread = int(threadIdx.x) % 128;
    int const count = (tiles - 1 - int(blockIdx.x)) / int(gridDim.x) + 1;
    split_walk<Block> const walk{memory, {shared_address(memory) + unsigned(Block::phase_offset)}, order, tiles, count};
    weights_loader<Block, Patches, T> const loader{walk, source, {thread}, {thread}};

    if (group == 0) loader.begin();
    if (threadIdx.x < Block::hidden) {
      eight_activations::fill(walk.table(), Block::hidden, source.norm, int(threadIdx.x));
      eight_slopes::fill(walk.sink_table(), Block::hidden, source.gradient, int(threadIdx.x));
    }
    __syncthreads();
    if (group == 0) {
      release_registers<Block::loader_registers>();
      loader.run();
    } else {
      claim_registers<Block::multiplier_registers>();
      tap_column_sums sums;
      sums.template multiply_tiles<Block, T>(walk, group - 1, thread);
      sums.write(parts + std::ptrdiff_t{blockIdx.x} * Block::sums, group - 1, thread);
    }
  }
}

/// Where a part's number (tap, in, out) lies in the parameters' [out, in, tap].
struct conv3_transposed_place {
  static __device__ int of(int i) { return (i % 64 * 64 + i / 64 % 64) * 9 + i / 4096; }
};

/// conv3_weights_split_kernel where the device has it, else launch_conv3_weights.
template <class G, bool Patches, class T>
void launch_conv3_weights_on(cudaStream_t stream, device_properties const& device,
                             conv3_weights_source<G, Patches, T> const& source, tile_order order, int pictures,
                             float* parts, float* dw) {
  using block = conv3_weights_split_block<G>;
  char const* const name = "stem: gradient of the 3 x 3 weights";
  auto* const kernel = conv3_weights_split_kernel<block, Patches, T>;
  if (device.major != 9 || !has_hopper_code(name, kernel))
    return launch_conv3_weights(stream, device.multiprocessors, source, order, pictures, parts, dw);
  int const tiles = pictures * block::tile::across * block::tile::down;
  int const blocks = std::min(tiles, device.multiprocessors);
  launch(name, kernel, {unsigned(blocks), block::threads, block::shared_bytes}, stream, source, order, tiles, parts);
  reduce_parts<conv3_transposed_place>(stream, parts, blocks, block::sums, dw);
}

}  // namespace dm2::cuda::detail::stem_train
