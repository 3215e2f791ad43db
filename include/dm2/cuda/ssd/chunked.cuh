/// @file
/// The scan's chunked form.
///
/// Sequences of any length, in 16-bit numbers on the tensor cores.
///
/// A block walks a run of chunks of 64 tokens of one sequence and group, four warps for each of one, two or four units
/// (a head's columns). What earlier chunks add is C_i exp(c_i) times the state at the chunk's start, which the four
/// warps hold in float, transposed [columns, N]: its accumulators are then B fragments of that product as they are,
/// only rounded. Scores of a chunk are shared by the units. Scores and the state's update are one phase between
/// barriers, since neither reads what the other writes.
///
/// Where sequences are too few to fill the device, runs of chunks go to blocks of their own in three phases: each run's
/// state from zero, a scan over the runs, and the outputs from each run's true state.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/pack.cuh>
#include <dm2/cuda/ssd/tile.cuh>
#include <dm2/cuda/tile/copy_rows.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dm2::cuda::detail::ssd {

/// Runs of chunks and, where there are several, their states.
template <class T>
struct chunk_runs {
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
                "dm2::cuda::detail::ssd::chunked_traits: units must begin at multiples of 16 bytes");
};

/// One block's place in the work, seen from one of its threads.
template <class Tr>
struct chunked_block {
  using T = typename Tr::element;
  arguments<T> p;         ///< moved to the block's sequence, b and c to its group
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

  __device__ chunked_block(arguments<T> const& all, chunk_runs<T> const& runs, unsigned char* memory)
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
  row_source<typename Tr::element> const tokens{k.p.x + k.u.column, Tr::sizes::inner, k.p.length};
  copy_tile<Tr::pieces * 8, ssd_tile, Tr::team_threads, 2>(shared_address(k.own + Tr::staged), Tr::pieces * 16, tokens,
                                                           chunk * ssd_tile, k.thread);
}

/// Starts the copy of a chunk of B or C, zeros behind the sequence; a thread's copies at constant distances where its
/// rows have one.
template <class Tr>
__device__ inline void copy_state_rows(chunked_block<Tr> const& k, typename Tr::element const* from, int chunk,
                                       int to) {
  constexpr int pieces = Tr::sizes::d_state / 8, rows = Tr::threads / pieces;
  if constexpr (Tr::threads % pieces == 0 && ssd_tile % rows == 0) {
    int const row = int(threadIdx.x) / pieces, piece = int(threadIdx.x) % pieces, first = chunk * ssd_tile + row;
    std::uint32_t const at = shared_address(k.shared + to) + std::uint32_t(row * Tr::row_pitch + piece * 16);
    from += std::size_t(first) * Tr::sizes::state_width + piece * 8;
#pragma unroll
    for (int i = 0; i < ssd_tile; i += rows)
      copy_async(at + std::uint32_t(i * Tr::row_pitch), from + i * Tr::sizes::state_width, first + i < k.p.length);
  } else {
    row_source<typename Tr::element> const tokens{from, Tr::sizes::state_width, k.p.length};
    copy_tile<Tr::sizes::d_state, ssd_tile, Tr::threads, 2>(shared_address(k.shared + to), Tr::row_pitch, tokens,
                                                            chunk * ssd_tile, int(threadIdx.x));
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
  std::uint32_t const c = shared_address(k.shared + Tr::c) + fragment::left_operand(unsigned(k.lane), Tr::row_pitch);
  std::uint32_t const b = shared_address(k.shared + Tr::b) + fragment::right_operand(unsigned(k.lane), Tr::row_pitch);
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
  int const g = fragment::row(unsigned(k.lane)), token = chunk * ssd_tile + k.row * 16 + g;
  if (token - g >= k.p.length) return;
  float2 const* const decay = k.decay(chunk);
  float const low = decay[k.row * 16 + g].x, high = decay[k.row * 16 + g + 8].x;
  float acc[1][Tr::slice / 8][4] = {};
  std::uint32_t a[1][4];
  if (carries) {
    std::uint32_t const c = shared_address(k.shared + Tr::c) + k.row * 16 * Tr::row_pitch +
                            fragment::left_operand(unsigned(k.lane), Tr::row_pitch);
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
  std::uint32_t const x = shared_address(k.own + Tr::x) + fragment::left_operand(unsigned(k.lane), Tr::pitch);
  for (int col = 0; col <= k.row; ++col) {
    load_fragment(a[0], k.shared + Tr::scores + (k.row * (k.row + 1) / 2 + col) * fragment_bytes, k.lane);
    decay_fragment<T>(a[0], low, high, decay + col * 16, k.lane, col == k.row);
    multiply_x<T, 0, 1, Tr::slice>(acc, a, x + col * 16 * Tr::pitch);
  }
  if (!k.active) return;
  write_tile(acc[0], k.own + Tr::x + (k.row * 16 + g) * Tr::pitch, Tr::pitch, __ldg(k.p.d + k.u.head),
             k.p.y + std::size_t(token) * Tr::sizes::inner + k.u.column, Tr::sizes::inner, token, k.p.length, k.lane);
}

/// A thread's share of a unit's state: of the 16 columns of each row tile rows g and g + 8, of N the warp's tiles of
/// 16, each as two of 8.
template <class Tr>
using state_registers = float[Tr::row_tiles][Tr::state_tiles][4];

template <class Tr>
__device__ inline void clear_state(state_registers<Tr>& state) {
#pragma unroll
  for (int m = 0; m < Tr::row_tiles; ++m)
#pragma unroll
    for (int n = 0; n < Tr::state_tiles; ++n) state[m][n][0] = state[m][n][1] = state[m][n][2] = state[m][n][3] = 0;
}

/// The state at the run's start.
template <class Tr>
__device__ inline void load_state(chunked_block<Tr> const& k, chunk_runs<typename Tr::element> const& runs,
                                  state_registers<Tr>& state) {
  float4 const* const from = runs.states + (std::size_t(k.place) * runs.count + k.run) * Tr::state_vectors + k.thread;
#pragma unroll
  for (int m = 0; m < Tr::row_tiles; ++m)
#pragma unroll
    for (int n = 0; n < Tr::state_tiles; ++n) {
      float4 const v = from[(m * Tr::state_tiles + n) * Tr::team_threads];
      state[m][n][0] = v.x, state[m][n][1] = v.y, state[m][n][2] = v.z, state[m][n][3] = v.w;
    }
}

/// The state after the run, and its decay.
template <class Tr>
__device__ inline void store_state(chunked_block<Tr> const& k, chunk_runs<typename Tr::element> const& runs,
                                   state_registers<Tr> const& state, float total) {
  std::size_t const at = std::size_t(k.place) * runs.count + k.run;
  float4* const to = runs.states + at * Tr::state_vectors + k.thread;
#pragma unroll
  for (int m = 0; m < Tr::row_tiles; ++m)
#pragma unroll
    for (int n = 0; n < Tr::state_tiles; ++n)
      to[(m * Tr::state_tiles + n) * Tr::team_threads] = {state[m][n][0], state[m][n][1], state[m][n][2],
                                                          state[m][n][3]};
  if (k.thread == 0) runs.decays[at] = total;
}

/// The state, rounded, as B fragments: 16 of N by 16 columns a tile, for the team's other warps.
template <class Tr>
__device__ inline void store_fragments(chunked_block<Tr> const& k, state_registers<Tr> const& state) {
  using T = typename Tr::element;
#pragma unroll
  for (int j = 0; j < Tr::owned; ++j) {
    int const d = j * 4 + (k.warp & 3);
    if (Tr::depth % 4 != 0 && d >= Tr::depth) break;
#pragma unroll
    for (int m = 0; m < Tr::row_tiles; ++m) {
      auto const &low = state[m][2 * j], &high = state[m][2 * j + 1];
      *reinterpret_cast<uint4*>(k.own + Tr::fragments + (d * Tr::row_tiles + m) * fragment_bytes + k.lane * 16) = {
          pack<T>(low[0], low[1]), pack<T>(high[0], high[1]), pack<T>(low[2], low[3]), pack<T>(high[2], high[3])};
    }
  }
}

/// state = exp(c_63) state + sum_j scaled x_j B_j^T.
template <class Tr>
__device__ inline void update_state(chunked_block<Tr> const& k, int chunk, state_registers<Tr>& state) {
  using T = typename Tr::element;
  float const left = exp2_fast(k.decay(chunk)[ssd_tile - 1].x);
#pragma unroll
  for (int m = 0; m < Tr::row_tiles; ++m) scale_rows(state[m], left, left);
  std::uint32_t const x = shared_address(k.own + Tr::scaled) + fragment::right_operand(unsigned(k.lane), Tr::pitch);
  std::uint32_t const b = shared_address(k.shared + Tr::b) + fragment::left_operand(unsigned(k.lane), Tr::row_pitch);
#pragma unroll
  for (int t = 0; t < ssd_tile / 16; ++t) {
    std::uint32_t a[Tr::row_tiles][4];
#pragma unroll
    for (int m = 0; m < Tr::row_tiles; ++m) load_matrix_transposed(a[m], x + t * 16 * Tr::pitch + m * 32);
#pragma unroll
    for (int j = 0; j < Tr::owned; ++j) {
      int const d = j * 4 + (k.warp & 3);
      if (Tr::depth % 4 != 0 && d >= Tr::depth) break;
      std::uint32_t bb[4];
      load_matrix_transposed(bb, b + t * 16 * Tr::row_pitch + d * 32);
#pragma unroll
      for (int m = 0; m < Tr::row_tiles; ++m) {
        mma<T>(state[m][2 * j], a[m], bb[0], bb[1]);
        mma<T>(state[m][2 * j + 1], a[m], bb[2], bb[3]);
      }
    }
  }
}

/// Starts the copies of the first chunk.
template <bool Output, class Tr>
__device__ inline void start_chunk(chunked_block<Tr> const& k) {
  copy_x(k, k.first), commit_copies();
  copy_state_rows(k, k.p.b, k.first, Tr::b), commit_copies();
  if (Output) copy_state_rows(k, k.p.c, k.first, Tr::c), commit_copies();
}

/// The walk. Output: y, from the state that `runs` has for this run. Else the state after the run, from zero.
/// Block: unit block + unit blocks (group + G (run + runs sequence)).
template <class Tr, bool Output>
__global__ void __launch_bounds__(Tr::threads, Tr::resident(compiled_shared))
    chunked_kernel(arguments<typename Tr::element> p, chunk_runs<typename Tr::element> runs) {
  chunked_block<Tr> const k{p, runs, dynamic_shared()};
  if (!Output && k.run + 1 == runs.count) return;  // no run begins with the state after the last
  float state[Tr::row_tiles][Tr::state_tiles][4];
  bool const inherits = Output && k.run > 0;
  if (inherits)
    load_state(k, runs, state);
  else
    clear_state<Tr>(state);
  float const rate = k.p.a[k.u.head] * log2_e;
  if (k.scans) scan_chunk(k, k.first, k.steps(k.first), rate);
  float2 steps = k.steps(k.first + 1);
  start_chunk<Output>(k);
  float total = 0;
  __syncthreads();

  for (int chunk = k.first; chunk < k.last; ++chunk) {
    bool const carries = inherits || chunk > k.first, more = chunk + 1 < k.last;
    wait_copies<Output ? 2 : 1>();  // x of this chunk, which its own thread reads
    place_x(k);
    if (Output && carries) store_fragments(k, state);
    if (more) copy_x(k, chunk + 1);
    commit_copies();
    wait_copies<1>();  // B and C
    __syncthreads();
    if (Output) score(k, chunk);
    if (!Output || more) update_state(k, chunk, state);
    if (!Output) total += k.decay(chunk)[ssd_tile - 1].x;
    __syncthreads();  // B is done with
    if (more) copy_state_rows(k, k.p.b, chunk + 1, Tr::b);
    commit_copies();
    if (more && k.scans) scan_chunk(k, chunk + 1, steps, rate);
    steps = k.steps(chunk + 2);
    if (Output) write_chunk(k, chunk, carries);
    __syncthreads();  // C, the scores, x and the state's fragments are done with, the next decays are there
    if (Output && more) copy_state_rows(k, k.p.c, chunk + 1, Tr::c);
    if (Output) commit_copies();
  }
  if (!Output && k.active) store_state(k, runs, state, total);
}

/// From each run's state from zero the state at each run's start, in place. Thread: four numbers of a unit's state.
template <class Tr>
__global__ void __launch_bounds__(128) runs_kernel(chunk_runs<typename Tr::element> runs) {
  constexpr int ahead = 8;  // loads in flight
  auto const unit = std::size_t(blockIdx.y);
  float4* const at = runs.states + unit * std::size_t(runs.count) * Tr::state_vectors + blockIdx.x * 128 + threadIdx.x;
  float const* const decay = runs.decays + unit * std::size_t(runs.count);
  float4 state{0, 0, 0, 0};
  for (int first = 0; first < runs.count; first += ahead) {
    float4 v[ahead];
#pragma unroll
    for (int i = 0; i < ahead; ++i)  // the last run has left no state
      v[i] = first + i + 1 < runs.count ? at[std::size_t(first + i) * Tr::state_vectors] : float4{0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < ahead; ++i) {
      if (first + i >= runs.count) break;
      at[std::size_t(first + i) * Tr::state_vectors] = state;
      float const d = first + i + 1 < runs.count ? exp2_fast(decay[first + i]) : 0.f;
      state = {fmaf(state.x, d, v[i].x), fmaf(state.y, d, v[i].y), fmaf(state.z, d, v[i].z), fmaf(state.w, d, v[i].w)};
    }
  }
}

/// How a scan is spread over blocks.
struct chunked_plan {
  int blocks;  ///< of a sequence's run: unit blocks of all groups
  int runs;    ///< of a sequence
  int chunks;  ///< a run

  template <class Tr>
  [[nodiscard]] static chunked_plan make(int length, int sequences, device_properties const& device) {
    int const all = (length + ssd_tile - 1) / ssd_tile,
              slots = Tr::resident(device.shared_per_sm) * device.multiprocessors;
    int const blocks = (Tr::unit::count + Tr::teams - 1) / Tr::teams * Tr::sizes::groups;
    long long const one = 1LL * blocks * sequences;
    // Runs cost a second pass over B and x, so that a device at least half full is left as it is.
    int const wanted = one == 0 || 2 * one > slots ? 1 : int(std::min<long long>(all, slots / one));
    int const chunks = (all + wanted - 1) / wanted;
    return {blocks, (all + chunks - 1) / chunks, chunks};
  }
};

/// Units times chunks of the multiprocessor that has the most, as if it had its blocks one after the other.
template <class Tr>
[[nodiscard]] long long longest_work(chunked_plan const& plan, int sequences, device_properties const& device) {
  long long const blocks = 1LL * plan.blocks * plan.runs * sequences, processors = std::max(device.multiprocessors, 1);
  return (blocks + processors - 1) / processors * Tr::teams * plan.chunks;
}

/// f(traits, plan) with four units a block, two or one: B and C are copied and their scores made once a block, so that
/// the most that shared memory has room for are the fastest. Four only where no multiprocessor then has more to do than
/// with two: few short sequences are too few blocks of four for a device, and six units are one and a half. Of Tiny a
/// block of four takes 172 KB, which an H200 has and an A100 has not.
template <class Sizes, class F>
auto with_chunked_traits(int length, int sequences, device_properties const& device, F const& f) {
  using one = chunked_traits<Sizes, 1>;
  if constexpr (one::unit::count > 1) {
    using two = chunked_traits<Sizes, 2>;
    auto const pairs = chunked_plan::make<two>(length, sequences, device);
    if constexpr (one::unit::count >= 4) {
      using four = chunked_traits<Sizes, 4>;
      auto const fours = chunked_plan::make<four>(length, sequences, device);
      if (four::bytes <= device.shared_per_block &&
          longest_work<four>(fours, sequences, device) <= longest_work<two>(pairs, sequences, device))
        return f(four{}, fours);
    }
    if (two::bytes <= device.shared_per_block) return f(two{}, pairs);
  }
  return f(one{}, chunked_plan::make<one>(length, sequences, device));
}

/// Scratch of runs, none for a single one.
template <class Tr>
chunk_runs<typename Tr::element> take_runs(arena& scratch, chunked_plan const& plan, int sequences) {
  std::size_t const units = std::size_t(sequences) * Tr::sizes::groups * Tr::unit::count;
  std::size_t const n = plan.runs == 1 ? 0 : units * std::size_t(plan.runs);
  return {plan.runs, plan.chunks, scratch.take<float4>(n * Tr::state_vectors), scratch.take<float>(n)};
}

/// The walk's kernel; chunked_hopper.cuh has another of these, for its traits.
template <class Sizes, int Teams, bool Output>
void launch_walk(chunked_traits<Sizes, Teams>, std::bool_constant<Output>, arguments<typename Sizes::element> const& p,
                 chunk_runs<typename Sizes::element> const& runs, int, unsigned blocks, cudaStream_t stream) {
  using traits = chunked_traits<Sizes, Teams>;
  auto const kernel = chunked_kernel<traits, Output>;
  prefer_shared("ssd: chunks", kernel);
  launch("ssd: chunks", kernel, {blocks, traits::threads, std::size_t(traits::bytes)}, stream, p, runs);
}

/// The scan of `sequences` sequences, its scratch in `runs`.
template <class Tr>
void launch_chunked(arguments<typename Tr::element> const& p, chunk_runs<typename Tr::element> const& runs,
                    chunked_plan const& plan, int sequences, cudaStream_t stream) {
  unsigned const blocks = unsigned(plan.blocks) * unsigned(sequences) * unsigned(plan.runs);
  if (plan.runs > 1) {
    launch_walk(Tr{}, std::false_type{}, p, runs, sequences, blocks, stream);
    unsigned const units = unsigned(sequences) * unsigned(Tr::sizes::groups * Tr::unit::count);
    launch("ssd: states of runs", runs_kernel<Tr>, {dim3(Tr::state_vectors / 128, units), 128}, stream, runs);
  }
  launch_walk(Tr{}, std::true_type{}, p, runs, sequences, blocks, stream);
}

}  // namespace dm2::cuda::detail::ssd
