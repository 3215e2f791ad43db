#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/device/properties.cuh>
#include <dm2/cuda/instructions/dynamic_shared.cuh>
#include <dm2/cuda/instructions/wgmma.cuh>
#include <dm2/cuda/tile/ring.cuh>

#include <doctest/doctest.h>

#include "cuda/support/device_array.cuh"
#include "support/random.hpp"

#include <cstddef>
#include <vector>

using namespace dm2;
using namespace dm2::cuda::detail;
using namespace dm2::test;

namespace {

constexpr int rows = 16, columns = 32;  // of a tile of floats: a stage

template <int Stages>
struct shape {
  static constexpr int stages = Stages, groups = 1, stage_bytes = rows * columns * 4;
};

/// out = in, tile after tile through the ring; 128 threads read, and one more warp's first thread fills.
template <class Tr>
__global__ void through_ring(__grid_constant__ tensor_map const in, float* out, int tiles) {
  if constexpr (hopper_code) {
    __shared__ std::uint64_t barriers[2 * Tr::stages];
    unsigned char* const memory = align_shared<1024>(dynamic_shared());
    stage_ring<Tr> ring{shared_address(memory), shared_address(barriers)};
    ring.init();
    if (threadIdx.x >= 128) {
      if (threadIdx.x != 128) return;
      for (int tile = 0; tile < tiles; ++tile, ring.advance()) {
        ring.claim(Tr::stage_bytes);
        ring.copy(0, in, tile * rows, 0);
      }
      return;
    }
    for (int tile = 0; tile < tiles; ++tile, ring.advance()) {
      ring.wait();
      auto const* const stage = reinterpret_cast<float const*>(memory + ring.stage * Tr::stage_bytes);
      for (int i = int(threadIdx.x); i < rows * columns; i += 128) out[tile * rows * columns + i] = stage[i];
      ring.release(int(threadIdx.x) % 32);
    }
  }
}

template <int Stages>
void check_ring(int tiles) {
  CAPTURE(Stages);
  CAPTURE(tiles);
  auto const in = rounded<float>(random_source{unsigned(tiles)}.normal(std::size_t(tiles) * rows * columns, 1));
  device_array<float> const from{in};
  device_array<float> to{in.size()};
  using Tr = shape<Stages>;
  tensor_map const map =
      make_tensor_map<float>(from.data(), std::size_t(tiles) * rows, columns, {rows, columns, false});
  cuda::detail::launch("ring", through_ring<Tr>, {1u, 160, std::size_t(Stages) * Tr::stage_bytes + 1024}, nullptr, map,
                       to.data(), tiles);
  CHECK(to.read() == in);
  CHECK(to.margins_untouched());
}

}  // namespace

TEST_CASE("ring: every tile arrives once and in order, however many stages there are") {
  if (cuda::device_properties{cuda::current_device()}.major != 9) return;
  for (int const tiles : {1, 2, 3, 4, 5, 11}) {
    check_ring<1>(tiles);
    check_ring<2>(tiles);
    check_ring<3>(tiles);
  }
}
