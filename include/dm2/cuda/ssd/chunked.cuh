/// @file
/// The steps of a block that walks chunks of a sequence: see chunked_launch.cuh.
#pragma once

#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/ssd/tile.cuh>

#include <algorithm>

namespace dm2::cuda::detail::scan {

/// Runs of chunks and, where there are several, their states.
template <class T>
struct ssd_runs {
  int count;       ///< of a sequence
  int chunks;      ///< a run
  float4* states;  ///< [sequences, G, units, count, state_vectors], in the order of the accumulators
  float* decays;   ///< [sequences, G, units, count], log2 of what a run leaves of the state before it
};

/// Shared memory of a multiprocessor of the architecture that is compiled for: bounds a thread's registers.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
inline constexpr int compiled_shared = 164 * 1024;
#else
inline constexpr int compiled_shared = 228 * 1024;
#endif

/// How a block computes, and byte offsets into its shared memory: what the block shares, then Teams times what a unit
/// has.
template <class Sizes, int Teams>
struct chunked_traits {
  using sizes = Sizes;
  using element = typename Sizes::element;
  static constexpr int teams = Teams, team_threads = 128, threads = Teams * team_threads;
  static constexpr int depth = Sizes::d_state / 16;  // tiles of 16 of the state's N
  static constexpr int owned = (depth + 3) / 4;      // of them, a warp's: every fourth
  static constexpr int slice = widest_slice(Sizes::headdim, std::min(64, 128 / owned));  // the state: 64 registers
  static constexpr int pitch = 2 * slice + 16, row_pitch = 2 * Sizes::d_state + 16, pieces = slice / 8;
  using unit = ssd_unit<Sizes, slice>;
  static constexpr int row_tiles = slice / 16, state_tiles = 2 * owned;  // accumulators: 16 columns by 8 of N
  static constexpr int state_vectors = row_tiles * state_tiles * team_threads;

  static constexpr int b = 0, c = b + ssd_tile * row_pitch, scores = c + ssd_tile * row_pitch;
  static constexpr int unit_begin = scores + 10 * fragment_bytes;
  static constexpr int x = 0, scaled = x + ssd_tile * pitch, staged = scaled + ssd_tile * pitch;
  static constexpr int fragments = staged + ssd_tile * slice * 2;
  static constexpr int decay = fragments + depth * row_tiles * fragment_bytes, weight = decay + 2 * ssd_tile * 8;
  static constexpr int unit_bytes = weight + ssd_tile * 4;
  static constexpr int bytes = unit_begin + Teams * unit_bytes;
  /// Blocks that a multiprocessor of so much shared memory holds, at most 512 threads of 128 registers.
  static constexpr int resident(int shared) { return std::clamp(shared / (bytes + 1024), 1, 512 / threads); }
  static_assert(unit_bytes % 16 == 0 && unit_begin % 16 == 0,
                "dm2::cuda::detail::scan::chunked_traits: units must begin at multiples of 16 bytes");
};

/// One block's place in the work, seen from one of its threads.
template <class Tr>
struct chunked_block {
  using T = typename Tr::element;
  ssd_args<T> p;          ///< moved to the block's sequence, b and c to its group
  unsigned char* shared;  ///< of the block
  unsigned char* own;     ///< of the thread's unit
  int warp, lane;         ///< warp: of the block
  int thread;             ///< of the team
  int run, place;         ///< place: the unit, counted over all sequences
  bool active;      ///< false where the last block has a team too many: it repeats the last unit and writes nothing
  int first, last;  ///< chunks
  typename Tr::unit u;
  int row;     ///< the row tile whose outputs the warp computes; turned round in the second team to even out schedulers
  bool scans;  ///< whether the warp computes the unit's decays: the one with the shortest rows

  __device__ chunked_block(ssd_args<T> const& all, ssd_runs<T> const& runs, unsigned char* memory)
      : p{all},
        shared{memory},
        warp{int(threadIdx.x) >> 5},
        lane{int(threadIdx.x) & 31},
        thread{int(threadIdx.x) % Tr::team_threads},
        u{0, 0} {
    constexpr int unit_blocks = (Tr::unit::count + Tr::teams - 1) / Tr::teams;
    int const team = warp >> 2, wanted = int(blockIdx.x) % unit_blocks * Tr::teams + team;
    int const at = int(blockIdx.x) / unit_blocks, group = at % Tr::sizes::groups;
    int const unit = min(wanted, Tr::unit::count - 1), sequence = at / Tr::sizes::groups / runs.count;
    run = at / Tr::sizes::groups % runs.count;
    active = wanted == unit;
    place = (sequence * Tr::sizes::groups + group) * Tr::unit::count + unit;
    u = typename Tr::unit{group, unit};
    own = shared + Tr::unit_begin + team * Tr::unit_bytes;
    first = run * runs.chunks, last = min(first + runs.chunks, (p.length + ssd_tile - 1) / ssd_tile);
    row = team & 1 ? 3 - (warp & 3) : warp & 3;
    scans = row == 0;
    std::size_t const before = std::size_t(sequence) * std::size_t(p.length);
    p.x += before * Tr::sizes::inner, p.y += before * Tr::sizes::inner, p.dt += before * Tr::sizes::heads;
    p.b += before * Tr::sizes::state_width + group * Tr::sizes::d_state;
    p.c += before * Tr::sizes::state_width + group * Tr::sizes::d_state;
  }

  /// dt of the lane's two tokens of a chunk, in the warp that scans.
  [[nodiscard]] __device__ float2 steps(int chunk) const {
    if (!scans) return {0, 0};
    return load_steps<typename Tr::sizes>(p.dt, u.head, chunk * ssd_tile + 2 * lane, p.length);
  }
  /// {c_t, dt_t} of a chunk's tokens: two buffers, since the next chunk's are computed while these are read.
  [[nodiscard]] __device__ float2* decay(int chunk) const {
    return reinterpret_cast<float2*>(own + Tr::decay) + (chunk & 1) * ssd_tile;
  }
};

template <class Tr>
__device__ inline void scan_chunk(chunked_block<Tr> const& k, int chunk, float2 steps, float rate) {
  scan_decays(steps, rate, k.lane, reinterpret_cast<float4*>(k.decay(chunk)),
              reinterpret_cast<float2*>(k.own + Tr::weight));
}

/// Starts the copy of a chunk's x of the unit, zeros behind the sequence.
template <class Tr>
__device__ inline void copy_x(chunked_block<Tr> const& k, int chunk) {
  for (int i = k.thread; i < ssd_tile * Tr::pieces; i += Tr::team_threads) {
    int const token = chunk * ssd_tile + i / Tr::pieces;
    bool const valid = token < k.p.length;
    copy_async(shared_address(k.own + Tr::staged + i * 16),
               k.p.x + std::size_t(valid ? token : 0) * Tr::sizes::inner + k.u.column + i % Tr::pieces * 8, valid);
  }
}

/// Starts the copy of a chunk of B or C, zeros behind the sequence.
template <class Tr>
__device__ inline void copy_rows(chunked_block<Tr> const& k, typename Tr::element const* from, int chunk, int to) {
  constexpr int pieces = Tr::sizes::d_state / 8;
  for (int i = int(threadIdx.x); i < ssd_tile * pieces; i += Tr::threads) {
    int const row = i / pieces, piece = i % pieces, token = chunk * ssd_tile + row;
    bool const valid = token < k.p.length;
    copy_async(shared_address(k.shared + to + row * Tr::row_pitch + piece * 16),
               from + std::size_t(valid ? token : 0) * Tr::sizes::state_width + piece * 8, valid);
  }
}

/// From staged x the two operands: x, and x times what is left of it at the chunk's end. A thread reads what it copied
/// itself.
template <class Tr>
__device__ inline void place_x(chunked_block<Tr> const& k) {
  using T = typename Tr::element;
  for (int i = k.thread; i < ssd_tile * Tr::pieces; i += Tr::team_threads) {
    int const row = i / Tr::pieces, piece = i % Tr::pieces;
    uint4 const v = *reinterpret_cast<uint4 const*>(k.own + Tr::staged + i * 16);
    float const w = reinterpret_cast<float const*>(k.own + Tr::weight)[row];
    store_reordered(k.own + Tr::x + row * Tr::pitch, piece, v);
    store_reordered(k.own + Tr::scaled + row * Tr::pitch, piece,
                    {scale_pair<T>(v.x, w), scale_pair<T>(v.y, w), scale_pair<T>(v.z, w), scale_pair<T>(v.w, w)});
  }
}

/// The chunk's scores, tile by tile of the lower triangle.
template <class Tr>
__device__ inline void score(chunked_block<Tr> const& k, int chunk) {
  using T = typename Tr::element;
  int const rows = min(4, (k.p.length - chunk * ssd_tile + 15) / 16);
  std::uint32_t const c = shared_address(k.shared + Tr::c) + (k.lane & 15) * Tr::row_pitch + (k.lane >> 4) * 16;
  std::uint32_t const b =
      shared_address(k.shared + Tr::b) + ((k.lane & 7) + (k.lane >> 4) * 8) * Tr::row_pitch + (k.lane >> 3 & 1) * 16;
  for (int i = k.warp; i < rows * (rows + 1) / 2; i += Tr::threads / 32) {
    int const r = i < 1 ? 0 : i < 3 ? 1 : i < 6 ? 2 : 3, col = i - r * (r + 1) / 2;
    float s[2][4] = {};
#pragma unroll
    for (int d = 0; d < Tr::depth; ++d) {
      std::uint32_t a[4], bb[4];
      load_matrix(a, c + r * 16 * Tr::row_pitch + d * 32);
      load_matrix(bb, b + col * 16 * Tr::row_pitch + d * 32);
      mma<T>(s[0], a, bb[0], bb[1]);
      mma<T>(s[1], a, bb[2], bb[3]);
    }
    *reinterpret_cast<uint4*>(k.shared + Tr::scores + i * fragment_bytes + k.lane * 16) = {
        pack<T>(s[0][0], s[0][1]), pack<T>(s[0][2], s[0][3]), pack<T>(s[1][0], s[1][1]), pack<T>(s[1][2], s[1][3])};
  }
}

/// y of the warp's 16 tokens.
template <class Tr>
__device__ inline void write_chunk(chunked_block<Tr> const& k, int chunk, bool carries) {
  using T = typename Tr::element;
  int const g = k.lane >> 2, token = chunk * ssd_tile + k.row * 16 + g;
  if (token - g >= k.p.length) return;
  float2 const* const decay = k.decay(chunk);
  float const low = decay[k.row * 16 + g].x, high = decay[k.row * 16 + g + 8].x;
  float acc[1][Tr::slice / 8][4] = {};
  std::uint32_t a[1][4];
  if (carries) {
    std::uint32_t const c =
        shared_address(k.shared + Tr::c) + (k.row * 16 + (k.lane & 15)) * Tr::row_pitch + (k.lane >> 4) * 16;
#pragma unroll 2
    for (int d = 0; d < Tr::depth; ++d) {
      load_matrix(a[0], c + d * 32);
#pragma unroll
      for (int m = 0; m < Tr::row_tiles; ++m) {
        uint4 const h = *reinterpret_cast<uint4 const*>(k.own + Tr::fragments +
                                                        (d * Tr::row_tiles + m) * fragment_bytes + k.lane * 16);
        mma<T>(acc[0][2 * m], a[0], h.x, h.y);
        mma<T>(acc[0][2 * m + 1], a[0], h.z, h.w);
      }
    }
    scale_rows(acc[0], exp2_fast(low), exp2_fast(high));
  }
  std::uint32_t const x = shared_address(k.own + Tr::x) + (k.lane & 15) * Tr::pitch + (k.lane >> 4) * 16;
  for (int col = 0; col <= k.row; ++col) {
    load_fragment(a[0], k.shared + Tr::scores + (k.row * (k.row + 1) / 2 + col) * fragment_bytes, k.lane);
    decay_fragment<T>(a[0], low, high, decay + col * 16, k.lane, col == k.row);
    multiply_x<T, 0, 1, Tr::slice>(acc, a, x + col * 16 * Tr::pitch);
  }
  if (!k.active) return;
  write_tile(acc[0], k.own + Tr::x + (k.row * 16 + g) * Tr::pitch, Tr::pitch, __ldg(k.p.d + k.u.head),
             k.p.y + std::size_t(token) * Tr::sizes::inner + k.u.column, Tr::sizes::inner, token, k.p.length, k.lane);
}

}  // namespace dm2::cuda::detail::scan
