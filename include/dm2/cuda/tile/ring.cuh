/// @file
/// A ring of shared-memory stages between a TMA thread and warpgroups.
///
/// Two barriers (mbarrier) a stage: all its bytes have landed, and all its readers are done. Everybody goes through the
/// stages in the same order, each with a ring of its own, whose stage and round say where it is.
#pragma once

#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/instructions/tma.cuh>

#include <cstdint>

namespace dm2::cuda::detail {

/// Tr has the number of `stages`, their `stage_bytes`, and the number of `groups`, of four warps, that read.
template <class Tr>
struct stage_ring {
  /// Bytes of shared memory of the barriers, at a multiple of 8.
  static constexpr int barrier_bytes = 16 * Tr::stages;

  std::uint32_t memory, barriers;  ///< shared addresses
  int stage = 0;
  unsigned round = 0;

  /// Makes the barriers. Every thread of the block calls it, once; it ends with a barrier.
  __device__ void init() const {
    if (threadIdx.x == 0) {
      for (int s = 0; s < Tr::stages; ++s) {
        init_phases(barriers + std::uint32_t(s * 16), 1);
        init_phases(barriers + std::uint32_t(s * 16 + 8), 4 * Tr::groups);
      }
      publish_phases();
    }
    __syncthreads();
  }

  [[nodiscard]] __device__ std::uint32_t bytes() const { return memory + std::uint32_t(stage * Tr::stage_bytes); }
  /// Ends when the stage is filled, and when it is read.
  [[nodiscard]] __device__ std::uint32_t filled() const { return barriers + std::uint32_t(stage * 16); }
  [[nodiscard]] __device__ std::uint32_t read() const { return filled() + 8; }
  __device__ void advance() {
    if (++stage == Tr::stages) stage = 0, round ^= 1;
  }

  /// The thread that fills: waits until the stage has been read, and says how many bytes will come.
  __device__ void claim(int bytes_to_come) const {
    wait_phase(read(), round ^ 1);
    arrive_expecting(filled(), bytes_to_come);
  }
  /// Starts the copy of the map's tile from (row, column) to `place` bytes into the stage.
  __device__ void copy(int place, tensor_map const& map, int row, int column) const {
    load_box(bytes() + std::uint32_t(place), map, row, column, filled());
  }

  /// A reader: waits until the copies into the stage have landed.
  __device__ void wait() const { wait_phase(filled(), round); }
  /// The warp does not read the stage any more.
  __device__ void release(int lane) const {
    __syncwarp();
    if (lane == 0) arrive(read());
  }
};

/// The first multiple of `Alignment` bytes from `shared` on.
template <int Alignment>
__device__ inline unsigned char* align_shared(unsigned char* shared) {
  return shared + (Alignment - shared_address(shared) % Alignment) % Alignment;
}

}  // namespace dm2::cuda::detail
