/// @file
/// The scan's quadratic form for sequences of at most 256 tokens, in 16-bit numbers on the tensor cores.
///
/// A block has one sequence, one group and some of the group's units (a head's columns). Scores S = C B^T are computed
/// once, only the 16 x 16 tiles that touch the lower triangle, and stay in shared memory as fragments. Then for each
/// unit: y_i = sum_j S_ij exp(c_i - c_j) dt_j x_j + D x_i. With e_J the decay at the end of tile J of 64 tokens, and
/// i in a later tile, exp(c_i - c_j) = exp(c_i - e_J) exp(e_J - c_j), both at most 1: the second goes into x once a
/// unit, the first into the accumulators' rows, and the scores are operands as they are. Only tiles on the diagonal get
/// their decay number by number.
#pragma once

#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/ssd/quadratic.cuh>

#include <cstddef>

namespace dm2::cuda::detail::scan {

/// Block: part + parts (group + G sequence), `units` units a part.
template <class Tr>
__global__ void __launch_bounds__(Tr::threads, 2)
    ssd_quadratic_kernel(ssd_args<typename Tr::element> p, int parts, int units) {
  unsigned char* const ssd_shared = dynamic_shared();
  int const part = int(blockIdx.x) % parts, place = int(blockIdx.x) / parts, group = place % Tr::sizes::groups;
  quadratic_block<Tr> const k{p, place / Tr::sizes::groups, group};
  {
    copy_b(k, ssd_shared);
    uint4 c[Tr::row_tiles][2][Tr::state / 32];
    load_c(k, 0, c);
    wait_copies<0>();
    __syncthreads();
    if (k.pair >= 0) score(k, 0, c, ssd_shared);
    if (Tr::row_tiles == 1 && k.pair >= 0) load_c(k, 1, c), score(k, 1, c, ssd_shared);
    __syncthreads();
  }
  int const first = part * units, last = min(first + units, Tr::unit::count);
  int const scanned = k.warp - 4;  // the tile of 64 whose decays this warp computes
  float2 steps{0, 0};
  if (first < last) {
    typename Tr::unit const u{group, first};
    copy_x(k, u.column, ssd_shared);
    if (scanned >= 0) steps = load_steps<typename Tr::sizes>(k.p.dt, u.head, scanned * ssd_tile + 2 * k.lane, p.length);
  }
  commit_copies();
  for (int i = first; i < last; ++i) {
    typename Tr::unit const u{group, i};
    float2* const decay = reinterpret_cast<float2*>(ssd_shared + k.at.decay) + (i & 1) * k.at.tiles * 16;
    if (scanned >= 0 && scanned * ssd_tile < k.at.tiles * 16) {
      bool const inside = scanned * ssd_tile + 2 * k.lane < k.at.tiles * 16, before = scanned * ssd_tile < k.at.full;
      scan_decays(steps, p.a[u.head] * log2_e, k.lane,
                  inside ? reinterpret_cast<float4*>(decay + scanned * ssd_tile) : nullptr,
                  before ? reinterpret_cast<float2*>(ssd_shared + k.at.weight) + scanned * 32 : nullptr);
    }
    wait_copies<0>();
    __syncthreads();  // the decays are there, and the last unit's operands are done with
    place_x(k, ssd_shared);
    __syncthreads();
    if (i + 1 < last) {
      typename Tr::unit const next{group, i + 1};
      copy_x(k, next.column, ssd_shared);
      if (scanned >= 0)
        steps = load_steps<typename Tr::sizes>(k.p.dt, next.head, scanned * ssd_tile + 2 * k.lane, p.length);
    }
    commit_copies();
    if (k.pair >= 0) multiply(k, decay, p.d[u.head], u.column, ssd_shared);
  }
}

/// Parts of a group's units over blocks: the least of blocks a multiprocessor times a block's work, where the scores
/// cost as much as two units.
inline int quadratic_parts(int units, int places, int multiprocessors) {
  int best = 1;
  long long least = -1;
  for (int parts = 1; parts <= units; ++parts) {
    long long const blocks = 1LL * places * parts, rounds = (blocks + multiprocessors - 1) / multiprocessors;
    long long const cost = rounds * (2 + (units + parts - 1) / parts);
    if (least >= 0 && cost >= least) continue;
    least = cost, best = parts;
  }
  return best;
}

/// Whether a sequence of that length fits in a block.
template <class Tr>
bool quadratic_fits(int length, device_properties const& device) {
  return length <= Tr::longest && quadratic_layout<Tr>{length}.bytes <= device.shared_per_block;
}

/// The scan of `sequences` sequences.
template <class Tr>
void launch_quadratic(ssd_args<typename Tr::element> const& p, int sequences, device_properties const& device,
                      cudaStream_t stream) {
  int const places = sequences * Tr::sizes::groups;
  int const wanted = quadratic_parts(Tr::unit::count, places, device.multiprocessors);
  int const units = (Tr::unit::count + wanted - 1) / wanted, parts = (Tr::unit::count + units - 1) / units;
  int const bytes = quadratic_layout<Tr>{p.length}.bytes;
  prefer_shared("ssd: quadratic form", ssd_quadratic_kernel<Tr>);
  launch("ssd: quadratic form", ssd_quadratic_kernel<Tr>,
         {unsigned(places) * unsigned(parts), Tr::threads, std::size_t(bytes)}, stream, p, parts, units);
}

}  // namespace dm2::cuda::detail::scan
