/// @file
/// The scan's quadratic form.
///
/// Sequences of at most 256 tokens, in 16-bit numbers on the tensor cores.
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
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/ssd/tile.cuh>
#include <dm2/cuda/tile/copy_rows.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <cstddef>

namespace dm2::cuda::detail::ssd {

/// How a block computes: 8 warps, each with a pair of row tiles, 32 tokens.
template <class Sizes>
struct quadratic_traits {
  using sizes = Sizes;
  using element = typename Sizes::element;
  static constexpr int threads = 256, longest = 256;
  static constexpr int slice = widest_slice(Sizes::headdim, 64), chunks = slice / 8, pitch = 2 * slice + 16;
  using unit = ssd_unit<Sizes, slice>;
  static constexpr int state = (Sizes::d_state + 31) / 32 * 32;  // zeros behind d_state
  static constexpr int b_pitch = 2 * state;
  static constexpr int swizzle = state / 32 % 2 == 0;     // else neighbouring rows lie in other banks anyway
  static constexpr int row_tiles = state <= 128 ? 2 : 1;  // whose C fits in registers: 64 of them
};

/// Byte offsets into a block's shared memory; the scores are at 0. B lies over x, scaled x and staged x, which it is
/// done before.
template <class Tr>
struct quadratic_layout {
  int tiles;   ///< of 16 tokens
  int full;    ///< tokens before the last tile of 64
  int x;       ///< x of the unit, reordered; and B, before the first unit
  int scaled;  ///< x times its weight, of `full` tokens
  int staged;  ///< x of the next unit as it comes
  int decay;   ///< two of them, of two units
  int weight;  ///< of `full` tokens
  int bytes;

  __host__ __device__ explicit quadratic_layout(int length)
      : tiles{(length + 15) / 16},
        full{(length - 1) / ssd_tile * ssd_tile},
        x{tiles * (tiles + 1) / 2 * fragment_bytes},
        scaled{x + tiles * 16 * Tr::pitch},
        staged{scaled + full * Tr::pitch} {
    int const x_end = staged + length * Tr::slice * 2, b_end = x + tiles * 16 * Tr::b_pitch;
    decay = x_end > b_end ? x_end : b_end;
    weight = decay + 2 * tiles * 16 * 8;
    bytes = weight + full * 4;
  }
};

/// One block's place in the work.
template <class Tr>
struct quadratic_block {
  using T = typename Tr::element;
  quadratic_layout<Tr> at;
  arguments<T> p;  ///< moved to the block's sequence, b and c to its group
  int warp, lane;
  int pair;  ///< of row tiles that this warp has, negative for none

  __device__ quadratic_block(arguments<T> const& all, int sequence, int group)
      : at{all.length}, p{all}, warp{int(threadIdx.x) >> 5}, lane{int(threadIdx.x) & 31} {
    std::size_t const first = std::size_t(sequence) * std::size_t(p.length);
    p.x += first * Tr::sizes::inner, p.y += first * Tr::sizes::inner, p.dt += first * Tr::sizes::heads;
    p.b += first * Tr::sizes::state_width + group * Tr::sizes::d_state;
    p.c += first * Tr::sizes::state_width + group * Tr::sizes::d_state;
    // Warps w and w + 4 share a scheduler: the longest rows with the shortest.
    int const pairs = (at.tiles + 1) / 2;
    pair = warp < 4 ? pairs - 1 - warp : pairs > 4 ? warp - 12 + pairs : -1;
  }
};

/// Starts the copy of B to shared memory, a 64-byte piece of every second row moved so that eight lanes of a read have
/// different banks.
template <class Tr>
__device__ inline void copy_b(quadratic_block<Tr> const& k, unsigned char* shared) {
  constexpr int chunks = Tr::state / 8;
  for (int i = int(threadIdx.x); i < k.at.tiles * 16 * chunks; i += Tr::threads) {
    int const row = i / chunks, chunk = i % chunks;
    bool const valid = row < k.p.length && chunk * 8 < Tr::sizes::d_state;
    auto const* const from = valid ? k.p.b + std::size_t(row) * Tr::sizes::state_width + chunk * 8 : k.p.b;
    int const piece = (chunk >> 2) ^ (Tr::swizzle & row & 1);
    copy_async(shared_address(shared + k.at.x + row * Tr::b_pitch + piece * 64 + (chunk & 3) * 16), from, valid);
  }
  commit_copies();
}

/// C of the warp's row tiles from `first` on, in registers: rows g and g + 8, lane t having 8 neighbouring numbers of
/// every 32. Which 16 of the 32 make one product's depth is free, as long as B's fragments agree.
template <class Tr>
__device__ inline void load_c(quadratic_block<Tr> const& k, int first, uint4 (&c)[Tr::row_tiles][2][Tr::state / 32]) {
#pragma unroll
  for (int m = 0; m < Tr::row_tiles; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int const row = (2 * k.pair + first + m) * 16 + fragment::row(unsigned(k.lane), half);
      auto const* const from = k.p.c + std::size_t(max(row, 0)) * Tr::sizes::state_width;
#pragma unroll
      for (int s = 0; s < Tr::state / 32; ++s) {
        int const column = s * 32 + fragment::column<8>(unsigned(k.lane));
        bool const valid = k.pair >= 0 && row < k.p.length && column < Tr::sizes::d_state;
        c[m][half][s] = valid ? __ldg(reinterpret_cast<uint4 const*>(from + column)) : uint4{0, 0, 0, 0};
      }
    }
}

/// The scores of the warp's row tiles from `first` on.
template <class Tr>
__device__ inline void score(quadratic_block<Tr> const& k, int first,
                             uint4 const (&c)[Tr::row_tiles][2][Tr::state / 32], unsigned char* shared) {
  using T = typename Tr::element;
  int const g = fragment::row(unsigned(k.lane)), t = fragment::quarter(unsigned(k.lane)), row0 = 2 * k.pair + first;
  int const last = min(row0 + Tr::row_tiles, k.at.tiles) - 1;
  for (int col = 0; col <= last; ++col) {
    float s[Tr::row_tiles][2][4] = {};
#pragma unroll
    for (int piece = 0; piece < Tr::state / 32; ++piece)
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        unsigned char const* const row = shared + k.at.x + (col * 16 + n * 8 + g) * Tr::b_pitch;
        uint4 const b = *reinterpret_cast<uint4 const*>(row + (piece ^ (Tr::swizzle & g & 1)) * 64 + t * 16);
#pragma unroll
        for (int m = 0; m < Tr::row_tiles; ++m) {
          uint4 const low = c[m][0][piece], high = c[m][1][piece];
          mma<T>(s[m][n], {low.x, high.x, low.y, high.y}, b.x, b.y);
          mma<T>(s[m][n], {low.z, high.z, low.w, high.w}, b.z, b.w);
        }
      }
#pragma unroll
    for (int m = 0; m < Tr::row_tiles; ++m) {
      int const r = row0 + m;
      if (col > r || r >= k.at.tiles) continue;
      auto const& v = s[m];
      *reinterpret_cast<uint4*>(shared + (r * (r + 1) / 2 + col) * fragment_bytes + k.lane * 16) = {
          pack<T>(v[0][0], v[0][1]), pack<T>(v[0][2], v[0][3]), pack<T>(v[1][0], v[1][1]), pack<T>(v[1][2], v[1][3])};
    }
  }
}

/// All scores to shared memory. All threads; ends with a barrier.
template <class Tr>
__device__ inline void score_all(quadratic_block<Tr> const& k, unsigned char* shared) {
  copy_b(k, shared);
  uint4 c[Tr::row_tiles][2][Tr::state / 32];
  load_c(k, 0, c);
  wait_copies<0>();
  __syncthreads();
  if (k.pair >= 0) score(k, 0, c, shared);
  if (Tr::row_tiles == 1 && k.pair >= 0) load_c(k, 1, c), score(k, 1, c, shared);
  __syncthreads();
}

/// Starts the copy of a unit's x.
template <class Tr>
__device__ inline void copy_x(quadratic_block<Tr> const& k, int column, unsigned char* shared) {
  auto const token = [&](int t, int c, bool&) { return k.p.x + std::size_t(t) * Tr::sizes::inner + column + c; };
  copy_rows<Tr::chunks * 8>(shared_address(shared + k.at.staged), Tr::chunks * 16, token, 0, k.p.length,
                            int(threadIdx.x), Tr::threads);
}

/// From staged x the two operands. A thread reads what it copied itself.
template <class Tr>
__device__ inline void place_x(quadratic_block<Tr> const& k, unsigned char* shared) {
  using T = typename Tr::element;
  auto const* const weight = reinterpret_cast<float const*>(shared + k.at.weight);
  for (int i = int(threadIdx.x); i < k.at.tiles * 16 * Tr::chunks; i += Tr::threads) {
    int const row = i / Tr::chunks, chunk = i % Tr::chunks;
    uint4 v{0, 0, 0, 0};
    if (row < k.p.length) v = *reinterpret_cast<uint4 const*>(shared + k.at.staged + i * 16);
    store_reordered(shared + k.at.x + row * Tr::pitch, chunk, v);
    if (row >= k.at.full) continue;
    float const w = weight[row];
    v = {scale_pair<T>(v.x, w), scale_pair<T>(v.y, w), scale_pair<T>(v.z, w), scale_pair<T>(v.w, w)};
    store_reordered(shared + k.at.scaled + row * Tr::pitch, chunk, v);
  }
}

/// What tiles of 64 before the one of the warp's rows add, decayed to the end of the last of them. `rows` are the rows'
/// scores, `scaled` the lane's address in scaled x.
template <class Tr>
__device__ inline void multiply_before(quadratic_block<Tr> const& k, unsigned char const* const (&rows)[2],
                                       float2 const* decay, std::uint32_t scaled, float (&acc)[2][Tr::slice / 8][4]) {
  using T = typename Tr::element;
  std::uint32_t a[2][4];
  for (int tile = 0; tile < k.pair >> 1; ++tile) {
    if (tile > 0) {
      float const more = exp2_fast(decay[tile * ssd_tile + ssd_tile - 1].x);
      scale_rows(acc[0], more, more), scale_rows(acc[1], more, more);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int const col = tile * 4 + i;
      load_fragment(a[0], rows[0] + col * fragment_bytes, k.lane);
      load_fragment(a[1], rows[1] + col * fragment_bytes, k.lane);
      multiply_x<T, 0, 2, Tr::slice>(acc, a, scaled + col * 16 * Tr::pitch);
    }
  }
}

/// y of the warp's 32 tokens for the placed unit.
template <class Tr>
__device__ inline void multiply(quadratic_block<Tr> const& k, float2 const* decay, float skip, int column,
                                unsigned char* shared) {
  using T = typename Tr::element;
  int const g = fragment::row(unsigned(k.lane)), q = k.pair, own = q >> 1;  // own: the tile of 64 that the rows are in
  int const r0 = 2 * q, r1 = min(r0 + 1, k.at.tiles - 1);  // a missing second tile repeats the first, unused
  unsigned char const* const rows[2] = {shared + r0 * (r0 + 1) / 2 * fragment_bytes,
                                        shared + r1 * (r1 + 1) / 2 * fragment_bytes};
  std::uint32_t const lane_at = std::uint32_t(fragment::left_operand(unsigned(k.lane), Tr::pitch));
  std::uint32_t const x = shared_address(shared + k.at.x) + lane_at;
  float acc[2][Tr::slice / 8][4] = {};
  std::uint32_t a[2][4];

  multiply_before(k, rows, decay, shared_address(shared + k.at.scaled) + lane_at, acc);
  float const c00 = decay[r0 * 16 + g].x, c01 = decay[r0 * 16 + g + 8].x;
  float const c10 = decay[r1 * 16 + g].x, c11 = decay[r1 * 16 + g + 8].x;
  if (own > 0) {
    scale_rows(acc[0], exp2_fast(c00), exp2_fast(c01));
    scale_rows(acc[1], exp2_fast(c10), exp2_fast(c11));
  }
  for (int col = own * 4; col <= r0; ++col) {
    load_fragment(a[0], rows[0] + col * fragment_bytes, k.lane);
    load_fragment(a[1], rows[1] + col * fragment_bytes, k.lane);
    decay_fragment<T>(a[0], c00, c01, decay + col * 16, k.lane, col == r0);
    decay_fragment<T>(a[1], c10, c11, decay + col * 16, k.lane, false);
    multiply_x<T, 0, 2, Tr::slice>(acc, a, x + col * 16 * Tr::pitch);
  }
  if (r1 > r0) {
    load_fragment(a[1], rows[1] + r1 * fragment_bytes, k.lane);
    decay_fragment<T>(a[1], c10, c11, decay + r1 * 16, k.lane, true);
    multiply_x<T, 1, 2, Tr::slice>(acc, a, x + r1 * 16 * Tr::pitch);
  }
  unsigned char const* const own_x = shared + k.at.x + (r0 * 16 + g) * Tr::pitch;
  T* const y = k.p.y + std::size_t(r0 * 16 + g) * Tr::sizes::inner + column;
#pragma unroll
  for (int m = 0; m < 2; ++m)
    write_tile(acc[m], own_x + m * 16 * Tr::pitch, Tr::pitch, skip, y + m * 16 * Tr::sizes::inner, Tr::sizes::inner,
               (r0 + m) * 16 + g, k.p.length, k.lane);
}

/// Block: part + parts (group + G sequence), `units` units a part.
template <class Tr>
__global__ void __launch_bounds__(Tr::threads, 2)
    quadratic_kernel(arguments<typename Tr::element> p, int parts, int units) {
  unsigned char* const ssd_shared = dynamic_shared();
  int const part = int(blockIdx.x) % parts, place = int(blockIdx.x) / parts, group = place % Tr::sizes::groups;
  quadratic_block<Tr> const k{p, place / Tr::sizes::groups, group};
  score_all(k, ssd_shared);
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
void launch_quadratic(arguments<typename Tr::element> const& p, int sequences, device_properties const& device,
                      cudaStream_t stream) {
  int const places = sequences * Tr::sizes::groups;
  int const wanted = quadratic_parts(Tr::unit::count, places, device.multiprocessors);
  int const units = (Tr::unit::count + wanted - 1) / wanted, parts = (Tr::unit::count + units - 1) / units;
  int const bytes = quadratic_layout<Tr>{p.length}.bytes;
  prefer_shared("ssd: quadratic form", quadratic_kernel<Tr>);
  launch("ssd: quadratic form", quadratic_kernel<Tr>,
         {unsigned(places) * unsigned(parts), Tr::threads, std::size_t(bytes)}, stream, p, parts, units);
}

}  // namespace dm2::cuda::detail::ssd
