/// @file
/// The scan's chunked form for sequences of any length, in 16-bit numbers on the tensor cores.
///
/// A block walks a run of chunks of 64 tokens of one sequence and group, four warps for each of one or two units (a
/// head's columns). What earlier chunks add is C_i exp(c_i) times the state at the chunk's start, which the four warps
/// hold in float, transposed [columns, N]: its accumulators are then B fragments of that product as they are, only
/// rounded. Scores of a chunk are shared by the units.
///
/// Where sequences are too few to fill the device, runs of chunks go to blocks of their own in three phases: each run's
/// state from zero, a scan over the runs, and the outputs from each run's true state.
#pragma once

#include <dm2/cuda/ssd/chunked_state.cuh>

#include <dm2/core/arena.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>

#include <algorithm>

namespace dm2::cuda::detail::scan {

/// The walk. Output: y, from the state that `runs` has for this run. Else the state after the run, from zero.
/// Block: unit block + unit blocks (group + G (run + runs sequence)).
template <class Tr, bool Output>
__global__ void __launch_bounds__(Tr::threads, Tr::resident(compiled_shared))
    ssd_chunked_kernel(ssd_args<typename Tr::element> p, ssd_runs<typename Tr::element> runs) {
  chunked_block<Tr> const k{p, runs, dynamic_shared()};
  if (!Output && k.run + 1 == runs.count) return;  // no run begins with the state after the last
  float state[Tr::row_tiles][Tr::state_tiles][4];
  bool const inherits = Output && k.run > 0;
  if (inherits)
    load_state(k, runs, state);
  else
    clear_state<Tr>(state);

  float2 steps = k.steps(k.first);
  float const rate = k.p.a[k.u.head] * log2_e;
  if (k.scans) scan_chunk(k, k.first, steps, rate);
  steps = k.steps(k.first + 1);
  copy_x(k, k.first), commit_copies();
  copy_rows(k, k.p.b, k.first, Tr::b), commit_copies();
  if (Output) copy_rows(k, k.p.c, k.first, Tr::c), commit_copies();
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
    if (Output) {
      score(k, chunk);
      __syncthreads();
    }
    if (!Output || more) update_state(k, chunk, state);
    if (!Output) total += k.decay(chunk)[ssd_tile - 1].x;
    __syncthreads();  // B is done with
    if (more) copy_rows(k, k.p.b, chunk + 1, Tr::b);
    commit_copies();
    if (more && k.scans) scan_chunk(k, chunk + 1, steps, rate);
    steps = k.steps(chunk + 2);
    if (Output) write_chunk(k, chunk, carries);
    __syncthreads();  // C, the scores, x and the state's fragments are done with, the next decays are there
    if (Output && more) copy_rows(k, k.p.c, chunk + 1, Tr::c);
    if (Output) commit_copies();
  }
  if (!Output && k.active) store_state(k, runs, state, total);
}

/// From each run's state from zero the state at each run's start, in place. Thread: four numbers of a unit's state.
template <class Tr>
__global__ void __launch_bounds__(128) ssd_runs_kernel(ssd_runs<typename Tr::element> runs) {
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
  int teams;   ///< units a block
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
    return {Tr::teams, blocks, (all + chunks - 1) / chunks, chunks};
  }
};

/// Scratch of runs, none for a single one.
template <class Tr>
ssd_runs<typename Tr::element> take_runs(arena& scratch, chunked_plan const& plan, int sequences) {
  std::size_t const units = std::size_t(sequences) * Tr::sizes::groups * Tr::unit::count;
  std::size_t const n = plan.runs == 1 ? 0 : units * std::size_t(plan.runs);
  return {plan.runs, plan.chunks, scratch.take<float4>(n * Tr::state_vectors), scratch.take<float>(n)};
}

template <class Tr, bool Output>
void launch_walk(ssd_args<typename Tr::element> const& p, ssd_runs<typename Tr::element> const& runs, unsigned blocks,
                 cudaStream_t stream) {
  prefer_shared("ssd: chunks", ssd_chunked_kernel<Tr, Output>);
  launch("ssd: chunks", ssd_chunked_kernel<Tr, Output>, {blocks, Tr::threads, std::size_t(Tr::bytes)}, stream, p, runs);
}

/// The scan of `sequences` sequences, its scratch in `runs`.
template <class Tr>
void launch_chunked(ssd_args<typename Tr::element> const& p, ssd_runs<typename Tr::element> const& runs,
                    chunked_plan const& plan, int sequences, cudaStream_t stream) {
  unsigned const blocks = unsigned(plan.blocks) * unsigned(sequences) * unsigned(plan.runs);
  if (plan.runs > 1) {
    launch_walk<Tr, false>(p, runs, blocks, stream);
    unsigned const units = unsigned(sequences) * unsigned(Tr::sizes::groups * Tr::unit::count);
    launch("ssd: states of runs", ssd_runs_kernel<Tr>, {dim3(Tr::state_vectors / 128, units), 128}, stream, runs);
  }
  launch_walk<Tr, true>(p, runs, blocks, stream);
}

}  // namespace dm2::cuda::detail::scan
