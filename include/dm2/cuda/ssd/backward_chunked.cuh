/// @file
/// The scan's backward in chunks of 64 tokens: how sequences are cut up.
///
/// The kernels, and the equations, are in backward_chunked_kernels.cuh. Sequences go in slices, so that the states
/// between the kernels stay small. Of many long ones a launch has the second kernel's blocks of one slice and the
/// first's of the next (backward_beside_kernel).
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/ssd/backward_chunk.cuh>
#include <dm2/cuda/ssd/backward_chunked_kernels.cuh>
#include <dm2/cuda/ssd/backward_chunked_walk.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <algorithm>
#include <cstddef>
#include <utility>

namespace dm2::cuda::detail::ssd {

/// When a slice is walked: by itself ahead of its chunks, beside the chunks of the slice before, or beside them and
/// begun before the chunks before those have all ended.
enum class backward_walks { alone, beside, early };

/// How sequences are cut up.
struct backward_chunk_plan {
  int slice;  ///< sequences of a slice, the last one having what is left
  int teams;  ///< units of a block that walks: 1, 2 or 4; 2 unless slices are walked alone
  backward_walks walks = backward_walks::alone;

  /// Slices whose states are there at a time.
  [[nodiscard]] int sets() const {
    return walks == backward_walks::alone ? 1 : walks == backward_walks::beside ? 2 : 3;
  }
};

/// The form, as backward_operands.cuh describes one.
template <mixer_shape M, class T>
struct backward_chunked {
  using operands = backward_operands<M, T>;
  /// Kernels are built for 16-bit numbers, heads of a multiple of 8 up to 128 and states of a multiple of 16 up to 256.
  static constexpr bool possible =
      is_half<T> && M.headdim % 8 == 0 && M.d_state % 16 == 0 && M.headdim <= 128 && M.d_state <= 256;
  static constexpr bool in_place = false;
  /// Sequences go in slices of at most about this much scratch: as many blocks as keep a device busy many times over.
  static constexpr std::size_t most_scratch = std::size_t{512} << 20;

  /// Pointers and rows at multiples of 16 bytes, and a block's shared memory: of Tiny or Small 112 KB, or 98 KB with
  /// one unit's operands at a time.
  static bool fits(operands const& p, device_properties const& device) {
    if constexpr (possible)
      return p.aligned() && layout{1}.bytes <= device.shared_per_block && walk::bytes <= device.shared_per_block;
    else
      return false;
  }
  /// Whether launch has the teams a phase apart: where a head's group has several units, and a multiprocessor of the
  /// device as many blocks as in step.
  static bool staggers(device_properties const& device) {
    return traits::units > 1 && blocks_of(backward_chunk_layout<apart>{2}.bytes, device) >=
                                    std::max(1, blocks_of(layout_for(device).bytes, device));
  }
  static std::size_t scratch_bytes(int sequences, int length, device_properties const& device) {
    return scratch_bytes(sequences, length, plan(sequences, length, device));
  }
  static std::size_t scratch_bytes(int sequences, int length, backward_chunk_plan const& plan) {
    return planned_bytes<backward_chunk_scratch>(plan.sets() * slice_bytes(plan, length), sums_of(sequences, length));
  }
  /// Slices are walked early where each multiprocessor then has at most one block that walks, and at least three blocks
  /// of chunks to go with it: shorter walks are over before they are of use. There are three slices at least, since the
  /// first walks and the last chunks have nothing beside them, and three slices' states fit into most_scratch. Beside
  /// without early is slower than four units a block by themselves.
  static backward_chunk_plan plan(int sequences, int length, device_properties const& device) {
    int const most = device.multiprocessors / int(units);
    if (most > 0 && sequences > 2 * most && shares(device) && has_early_starts(device)) {
      int const slices = (sequences + most - 1) / most, n = (sequences + slices - 1) / slices;
      if (1LL * n * chunks_of(length) * M.groups >= 3LL * device.multiprocessors &&
          3 * std::size_t(n) * one_bytes(length) <= most_scratch)
        return {n, 2, backward_walks::early};
    }
    int const n = slice(sequences, length, device);
    return {n, teams(n, device)};
  }
  /// Where slices are walked by themselves: as few slices as there can be, and of their sizes, equal
  /// ones up to an eighth more, the smallest that leaves the device the fewest rounds of blocks. Of 64 sequences of
  /// 3,137 tokens of Tiny on an H200 33 and 31, which are 7 and 6 rounds of 264 blocks in the second kernel; 32 and 32
  /// would be 7 and 7, the last of 16 blocks.
  static int slice(int sequences, int length, device_properties const& device) {
    int const fit = int(std::clamp<std::size_t>(most_scratch / one_bytes(length), 1, 65535)),
              all = std::max(sequences, 1);
    int const slices = (all + fit - 1) / fit, equal = (all + slices - 1) / slices;
    int best = equal;
    for (int n = equal + 1; n <= std::min({fit, all, equal + equal / 8}); ++n)
      if (rounds(n, all, length, device) < rounds(best, all, length, device)) best = n;
    return best;
  }
  /// Enqueues the gradient. Only where fits(p, device).
  static void launch(operands const& p, std::byte* scratch, device_properties const& device, cudaStream_t stream) {
    launch(p, scratch, device, stream, plan(p.sequences, p.length, device));
  }
  /// As planned: with teams that divide a group's units, beside chunks only where shares(device), and early only where
  /// has_early_starts(device).
  static void launch(operands const& p, std::byte* scratch, device_properties const& device, cudaStream_t stream,
                     backward_chunk_plan const& plan) {
    if (p.sequences == 0) return;
    int const chunks = chunks_of(p.length);
    bool const walks = chunks > 1, beside = walks && plan.walks != backward_walks::alone;
    std::size_t const bytes = slice_bytes(plan, p.length);
    arena memory{scratch, scratch_bytes(p.sequences, p.length, plan)};
    backward_chunk_scratch const s{memory, plan.sets() * bytes, sums_of(p.sequences, p.length)};
    auto const count = [&](int first) { return std::clamp(p.sequences - first, 0, plan.slice); };
    auto const states = [&](int first) { return s.behind(std::size_t(first / plan.slice % plan.sets()) * bytes); };
    if (beside) launch_walks(p, s, 0, count(0), chunks, 2, stream);
    for (int first = 0; first < p.sequences; first += plan.slice) {
      int const next = first + plan.slice;
      if (walks && !beside) launch_walks(p, s, first, count(first), chunks, plan.teams, stream);
      if (beside && next < p.sequences)
        launch_beside(p, states(first), first, count(first), {states(next), next, count(next) * int(units) / 2, 0},
                      chunks, plan.walks == backward_walks::early, stream);
      else
        launch_chunks(p, states(first), first, dim3(unsigned(chunks * M.groups), unsigned(count(first))), device,
                      stream);
    }
    detail::launch("ssd_backward: sums", chunk_sums_kernel<operands>,
                   {dim3(blocks_for(std::size_t(p.sequences) * M.heads, 128)), 128}, stream, p, s.da, s.d, 0,
                   p.sequences, chunks);
  }
  /// Whether a multiprocessor has room for a block that walks two units beside one of a chunk.
  static bool shares(device_properties const& device) {
    return can_share && staggers(device) && blocks_of(beside_bytes, device) >= 2;
  }

 private:
  using traits = backward_chunk_traits<M, T>;
  using apart = backward_chunk_traits<M, T, true>;
  using walk = backward_walk_traits<traits>;
  /// Two units a block, which share B or C, where a group's are even in number; four where the state of a unit leaves
  /// 512 threads registers enough.
  using walk_of_pairs = backward_walk_traits<traits, traits::units % 2 == 0 ? 2 : 1>;
  using walk_of_fours =
      backward_walk_traits<traits,
                           traits::units % 4 == 0 && traits::steps * walk::owned <= 8 ? 4 : walk_of_pairs::teams>;
  using layout = backward_chunk_layout<traits>;
  static constexpr unsigned units = unsigned(traits::units * M.groups);
  static constexpr std::size_t state_bytes = std::size_t(units) * traits::state_bytes;
  static constexpr bool can_share = walk_of_pairs::teams == 2 && traits::resident > 1;
  static constexpr int beside_bytes = std::max(backward_chunk_layout<apart>{2}.bytes, walk_of_pairs::bytes);

  static int chunks_of(int length) { return (length + ssd_tile - 1) / ssd_tile; }
  /// Bytes of a sequence's states, of both kinds.
  static std::size_t one_bytes(int length) { return 2 * state_bytes * std::size_t(chunks_of(length)); }
  /// Bytes of a slice's states of one kind.
  static std::size_t slice_bytes(backward_chunk_plan const& plan, int length) {
    return std::size_t(plan.slice) * state_bytes * std::size_t(chunks_of(length));
  }
  static std::size_t sums_of(int sequences, int length) {
    return std::size_t(sequences) * std::size_t(chunks_of(length)) * std::size_t(M.heads);
  }
  /// Rounds of blocks of all slices of n sequences: of the first kernel, whose blocks walk a whole sequence, and of the
  /// second.
  static std::pair<long long, long long> rounds(int n, int all, int length, device_properties const& device) {
    std::pair<long long, long long> sum{0, 0};
    int const resident =
        blocks_of(staggers(device) ? backward_chunk_layout<apart>{2}.bytes : layout_for(device).bytes, device);
    for (auto const& [times, count] : {std::pair{all / n, n}, std::pair{1, all % n}}) {
      sum.first += times * with_walk(teams(count, device), [count = count, &device](auto of) {
                     return walk_rounds<decltype(of)>(count, device);
                   });
      sum.second += times * rounds_of(1LL * count * chunks_of(length) * M.groups, resident, device);
    }
    return sum;
  }
  template <class Walk>
  static long long walk_rounds(int count, device_properties const& device) {
    return rounds_of(2LL * count * (units / Walk::teams),
                     std::min(Walk::resident, device.shared_per_sm / (Walk::bytes + 1024)), device);
  }
  static long long rounds_of(long long blocks, int resident, device_properties const& device) {
    long long const at_a_time = std::max(1LL, 1LL * resident * device.multiprocessors);
    return (blocks + at_a_time - 1) / at_a_time;
  }
  /// Units of the multiprocessor that has the most of the first kernel.
  template <class Walk>
  static long long most_units(int count, device_properties const& device) {
    return rounds_of(2LL * count * (units / Walk::teams), 1, device) * Walk::teams;
  }
  /// Units of a block of the first kernel where a slice is walked by itself: two only where blocks of one, in both
  /// directions, would be more than the multiprocessors, and four only where none of them then has more to do.
  static int teams(int count, device_properties const& device) {
    if (2LL * count * units <= device.multiprocessors || walk_of_pairs::bytes > device.shared_per_block) return 1;
    bool const four = walk_of_fours::bytes <= device.shared_per_block &&
                      most_units<walk_of_fours>(count, device) <= most_units<walk_of_pairs>(count, device);
    return four ? walk_of_fours::teams : walk_of_pairs::teams;
  }
  /// f(traits of the first kernel with so many units a block).
  template <class F>
  static auto with_walk(int teams, F const& f) {
    return teams == 4 ? f(walk_of_fours{}) : teams == 2 ? f(walk_of_pairs{}) : f(walk{});
  }
  /// Two units' operands at a time where that leaves a multiprocessor as many blocks.
  static layout layout_for(device_properties const& device) {
    layout const one{1}, two{2};
    bool const fit = blocks_of(two.bytes, device) >= std::max(1, blocks_of(one.bytes, device));
    return traits::units > 1 && fit ? two : one;
  }
  /// Blocks of a multiprocessor.
  static int blocks_of(int bytes, device_properties const& device) {
    return bytes > device.shared_per_block ? 0 : std::min(traits::resident, device.shared_per_sm / (bytes + 1024));
  }
  template <class Tr, class Kernel>
  static void launch_kernel(Kernel kernel, backward_chunk_layout<Tr> const& at, operands const& p,
                            backward_chunk_scratch const& s, int first, dim3 grid, cudaStream_t stream) {
    prefer_shared("ssd_backward: chunks", kernel);
    detail::launch("ssd_backward: chunks", kernel, {grid, Tr::threads, std::size_t(at.bytes)}, stream, p, at, s, first);
  }
  /// The first kernel.
  static void launch_walks(operands const& p, backward_chunk_scratch const& s, int first, int count, int chunks,
                           int teams, cudaStream_t stream) {
    with_walk(teams, [&](auto of) {
      using Walk = decltype(of);
      auto const kernel = backward_walk_kernel<Walk>;
      prefer_shared("ssd_backward: states of chunks", kernel);
      detail::launch("ssd_backward: states of chunks", kernel,
                     {dim3(unsigned(count) * (units / Walk::teams), 2), Walk::threads, std::size_t(Walk::bytes)},
                     stream, p, s, first, chunks);
    });
  }
  /// The second kernel.
  static void launch_chunks(operands const& p, backward_chunk_scratch const& s, int first, dim3 grid,
                            device_properties const& device, cudaStream_t stream) {
    if constexpr (traits::units > 1)
      if (staggers(device))
        return launch_kernel(backward_staggered_kernel<apart>, backward_chunk_layout<apart>{2}, p, s, first, grid,
                             stream);
    launch_kernel(backward_chunked_kernel<traits>, layout_for(device), p, s, first, grid, stream);
  }
  /// The second kernel with the next slice's walks, next.rows not being set.
  static void launch_beside(operands const& p, backward_chunk_scratch const& s, int first, int count, walks_beside next,
                            int chunks, bool early, cudaStream_t stream) {
    if constexpr (can_share) {
      auto const kernel = backward_beside_kernel<walk_of_pairs, apart>;
      int const columns = chunks * M.groups;
      next.rows = (2 * next.blocks + columns - 1) / columns;
      prefer_shared("ssd_backward: chunks beside walks", kernel);
      detail::launch(
          "ssd_backward: chunks beside walks", kernel,
          {dim3(unsigned(columns), unsigned(next.rows + count)), apart::threads, std::size_t(beside_bytes), early},
          stream, p, backward_chunk_layout<apart>{2}, s, first, next);
    }
  }
};

}  // namespace dm2::cuda::detail::ssd
