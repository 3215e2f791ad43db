/// @file
/// Hopper's bulk tensor copies (TMA) and barriers that count bytes.
///
/// A tensor map (the driver's TMA descriptor) says where a matrix lies in device memory, where it ends, and which tile
/// a copy takes. Barriers are mbarriers in shared memory, and their phases have a parity.
///
/// A tile of 64 columns of 16-bit numbers (or 32 floats) is copied "swizzled": row r has 128 bytes, and its piece of 16
/// bytes number c stands at c ^ (r % 8). Tiles so laid out are aligned to 1024 bytes.
#pragma once

#include <dm2/cuda/check.cuh>
#include <dm2/cuda/element.cuh>

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

#include <cuda.h>
#include <cudaTypedefs.h>

namespace dm2::cuda::detail {

/// A parameter of a kernel, by value and __grid_constant__.
using tensor_map = CUtensorMap;

/// The rows and columns of a tile, and whether its pieces of 16 bytes are swizzled in shared memory (above); then
/// a row of it has 128 bytes.
struct tile_shape {
  int rows, columns;
  bool swizzled;
};

/// The driver's function, found without linking the driver. Throws error where the driver is older than it.
inline PFN_cuTensorMapEncodeTiled_v12000 map_encoder() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult status{};
#if CUDART_VERSION >= 12050
  check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &status),
#else
  check(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &status),
#endif
        "tensor map: driver's function");
  if (status != cudaDriverEntryPointSuccess || found == nullptr)
    throw error{"tensor map: the driver has no cuTensorMapEncodeTiled"};
  return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found);
}

/// Row-major matrices of one size, one behind another without gaps.
struct matrix_batch {
  std::size_t count, rows;
  int columns;
};

/// The map of matrices at `data`, in `dimensions` of which the last may be their number.
template <class T>
tensor_map encode_map(T const* data, int dimensions, matrix_batch const& of, tile_shape tile) {
  constexpr auto type = std::is_same_v<T, float>           ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                        : std::is_same_v<T, __nv_bfloat16> ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                                           : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  static_assert(is_half<T> || std::is_same_v<T, float>);
  static PFN_cuTensorMapEncodeTiled_v12000 const encode = map_encoder();
  cuuint64_t const pitch = cuuint64_t(of.columns) * sizeof(T);
  cuuint64_t const extents[3] = {cuuint64_t(of.columns), cuuint64_t(of.rows), cuuint64_t(of.count)};
  cuuint64_t const pitches[2] = {pitch, pitch * of.rows};
  cuuint32_t const box[3] = {cuuint32_t(tile.columns), cuuint32_t(tile.rows), 1}, every[3] = {1, 1, 1};
  tensor_map map;
  CUresult const status =
      encode(&map, type, cuuint32_t(dimensions), const_cast<T*>(data), extents, pitches, box, every,
             CU_TENSOR_MAP_INTERLEAVE_NONE, tile.swizzled ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    throw error{"tensor map: the driver refuses matrices [" + std::to_string(of.count) + ", " +
                std::to_string(of.rows) + ", " + std::to_string(of.columns) + "], status " +
                std::to_string(int(status))};
  return map;
}

/// The map of a row-major matrix [rows, columns] without gaps; rows are a multiple of 16 bytes, and `data` is aligned
/// to 16. Throws error where the driver refuses it.
template <class T>
tensor_map make_tensor_map(T const* data, std::size_t rows, int columns, tile_shape tile) {
  return encode_map(data, 2, {1, rows, columns}, tile);
}
/// The same of many: a tile is of one matrix, and what lies outside of that one is zeros.
template <class T>
tensor_map make_tensor_map(T const* data, matrix_batch const& of, tile_shape tile) {
  return encode_map(data, 3, of, tile);
}

/// A barrier of 8 bytes at `at` whose phases end when `count` arrivals and all expected bytes are there.
__device__ inline void init_phases(std::uint32_t at, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(count) : "memory");
}
/// Before the block's barrier that follows init_phases: other threads and copies see the barriers.
__device__ inline void publish_phases() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ inline void arrive(std::uint32_t at) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory");
}
/// Arrives, and has the phase wait for `bytes` more.
__device__ inline void arrive_expecting(std::uint32_t at, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
}
/// Waits for the end of the phase of this parity: 0 the first one; before the first one, 1 has ended.
__device__ inline void wait_phase(std::uint32_t at, unsigned parity) {
  unsigned done = 0;
  do {
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done)
                 : "r"(at), "r"(parity)
                 : "memory");
  } while (done == 0);
}

/// Starts the copy of the map's tile from (row, column) to shared memory; zeros outside the matrix. The tile's bytes
/// arrive at the barrier.
__device__ inline void load_box(std::uint32_t to, tensor_map const& map, int row, int column, std::uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3}], [%4];" ::"r"(to),
      "l"(&map), "r"(column), "r"(row), "r"(barrier)
      : "memory");
}
/// The same from (row, column) of one matrix of a batch; both may be negative.
__device__ inline void load_box_of(std::uint32_t to, tensor_map const& map, int matrix, int row, int column,
                                   std::uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(to),
      "l"(&map), "r"(column), "r"(row), "r"(matrix), "r"(barrier)
      : "memory");
}
/// Starts the copy of a tile from shared memory; what lies outside the matrix is left out. Writers have called
/// fence_copies and met this thread at a barrier before.
__device__ inline void store_box(tensor_map const& map, int row, int column, std::uint32_t from) {
  asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map),
               "r"(column), "r"(row), "r"(from)
               : "memory");
}
/// Ends a group of this thread's store_box.
__device__ inline void commit_stores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
/// Waits until at most N groups of this thread's have yet to read shared memory.
template <int N>
__device__ inline void wait_stores() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}
/// Orders this thread's accesses to shared memory before copies and products that are started after the next barrier.
__device__ inline void fence_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
/// Fetches a map ahead of its use.
__device__ inline void prefetch_map(tensor_map const& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

}  // namespace dm2::cuda::detail
