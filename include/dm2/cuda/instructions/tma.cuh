/// @file
/// A matrix in device memory as the copies of a Hopper see it: where it lies, where it ends, which tile a copy takes.
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

/// The rows and columns of a tile, and whether its pieces of 16 bytes are swizzled in shared memory (wgmma.cuh); then
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

/// The map of a row-major matrix [rows, columns] without gaps; rows are a multiple of 16 bytes, and `data` is aligned to
/// 16. Throws error where the driver refuses it.
template <class T>
tensor_map make_tensor_map(T const* data, std::size_t rows, int columns, tile_shape tile) {
  constexpr auto type = std::is_same_v<T, float>           ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                        : std::is_same_v<T, __nv_bfloat16> ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                                           : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  static_assert(is_half<T> || std::is_same_v<T, float>);
  static PFN_cuTensorMapEncodeTiled_v12000 const encode = map_encoder();
  cuuint64_t const extents[2] = {cuuint64_t(columns), cuuint64_t(rows)}, pitch[1] = {cuuint64_t(columns) * sizeof(T)};
  cuuint32_t const box[2] = {cuuint32_t(tile.columns), cuuint32_t(tile.rows)}, every[2] = {1, 1};
  tensor_map map;
  CUresult const status =
      encode(&map, type, 2, const_cast<T*>(data), extents, pitch, box, every, CU_TENSOR_MAP_INTERLEAVE_NONE,
             tile.swizzled ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    throw error{"tensor map: the driver refuses a matrix [" + std::to_string(rows) + ", " + std::to_string(columns) +
                "], status " + std::to_string(int(status))};
  return map;
}

}  // namespace dm2::cuda::detail
