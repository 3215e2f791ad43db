/// @file
/// The scan's backward in the quadratic form.
///
/// Sequences of at most 240 tokens, in 16-bit numbers on the tensor cores.
///
/// With G = C B^T, c the sum of dt A up to and with a token, E_ij = exp(c_i - c_j) for i >= j, W_ij = dy_i . x_j:
///     U_j = sum_i G_ij E_ij dy_i        dx_j = dt_j U_j + D dy_j        dD = sum W_ii
///     dG_ij = sum over heads of E_ij dt_j W_ij        dC = dG B        dB = dG^T C
///     Gamma = G E dt W,  da_t = sum of Gamma_ij over i >= t > j,  d dt = x . U + A da,  dA = sum dt da
///
/// A block has one sequence and one group, in 16 x 16 tiles on and below the diagonal. Scores G are computed once and
/// stay in shared memory; dG stays in registers over all heads of the group, so that their sum is float's and in a
/// fixed order. For each unit, a head's columns, a warp goes down one or two columns of tiles, everything transposed:
/// W_ji = x_j . dy_i comes out of a product as G_ji lies in an A fragment, so that G E is the operand of the next one,
///     U_j += (G E)_ji dy_i,
/// without a way through shared memory. Below the diagonal, with e_J the sum c at the end of the column's 16 tokens,
/// E_ij = exp(c_i - e_J) exp(e_J - c_j), both at most 1: four exponentials a lane; the second factor is left out of
/// G E and goes into U at the end. On the diagonal G E is times dt_j, and D is added to it: U becomes dx. The free
/// warps meanwhile finish d dt and the sums for A and D of the unit before, and prepare the next one. Where they
/// convolve as well, the others add up the rows of the unit before.
/// At the end dB and dC, from dG rounded to 16 bits.
///
/// da_t as sums over rectangles: inside t's tile (i, j both in it), rows i >= t of it with all tiles before, columns
/// j < t of it with all tiles after, and whole tiles around. Row sums minus column sums of tokens would lose digits.
///
/// Saved: nothing. Reads x and dy of a sequence once, B and C twice.
#pragma once

#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/dynamic_shared.cuh>
#include <dm2/cuda/ssd/backward_quadratic_block.cuh>
#include <dm2/cuda/ssd/backward_quadratic_columns.cuh>
#include <dm2/cuda/ssd/backward_quadratic_input.cuh>
#include <dm2/cuda/ssd/backward_quadratic_tokens.cuh>
#include <dm2/cuda/ssd/backward_tiles.cuh>
#include <dm2/cuda/tile/fragment.cuh>

#include <cstddef>

namespace dm2::cuda::detail::ssd {

/// Starts the copy of a part of B, and of C.
template <class Tr, class Threads>
__device__ inline void copy_b(backward_quadratic_block<Tr> const& k, Threads threads, int part) {
  int const column = k.group() * Tr::sizes::state + part * Tr::part;
  copy_columns<Tr::part>(k, threads, k.p.b + column, k.p.b_stride, k.part(part));
}
template <class Tr, class Threads>
__device__ inline void copy_c(backward_quadratic_block<Tr> const& k, Threads threads, int part) {
  int const column = k.group() * Tr::sizes::state + part * Tr::part;
  copy_columns<Tr::part>(k, threads, k.p.c + column, k.p.c_stride, k.part(part) + k.at.half_bytes());
}

/// The same of what B and C are made from.
template <class Tr>
__device__ inline void copy_states_raw(backward_quadratic_block<Tr> const& k, int part) {
  int const column = k.group() * Tr::sizes::state + part * Tr::part;
  copy_projected<Tr::part>(k, every_thread<Tr>(), k.front().b + column, k.part(part));
  copy_projected<Tr::part>(k, every_thread<Tr>(), k.front().c + column, k.part(part) + k.at.half_bytes());
}

/// f(part, its B, its C in shared memory) for every part. The copies of the first at.buffers() have been started, a
/// group each; start(part) starts others when every warp is done with the parts before.
template <class Tr, class F, class G>
__device__ inline void each_part(backward_quadratic_block<Tr> const& k, F const& f, G const& start) {
  int const buffers = k.at.buffers();
#pragma unroll 1
  for (int part = 0; part < Tr::parts; ++part) {
    if (buffers == 2)
      wait_copies<1>();
    else
      wait_copies<0>();
    __syncthreads();
    start(part);
    unsigned char* const b = k.part(part);
    f(part, b, b + k.at.half_bytes());
    if (part + buffers < Tr::parts) {
      __syncthreads();
      copy_b(k, every_thread<Tr>(), part + buffers), copy_c(k, every_thread<Tr>(), part + buffers);
    }
    commit_copies();
  }
}

/// The scores of every tile to shared memory. Starts the copy of the first unit, where there is room for it.
template <class Tr>
__device__ inline void score_tiles(backward_quadratic_block<Tr> const& k) {
  using T = typename Tr::element;
  tile_sums<Tr> scores;
  scores.clear();
  [[maybe_unused]] first_numbers<Tr> first;
  if constexpr (Tr::projected) first.load(k);
  for (int part = 0; part < k.at.buffers(); ++part) {
    if constexpr (Tr::projected)
      copy_states_raw(k, part);
    else
      copy_b(k, every_thread<Tr>(), part), copy_c(k, every_thread<Tr>(), part);
    commit_copies();
  }
  if constexpr (Tr::projected) first.keep(k);
  auto const multiply = [&]([[maybe_unused]] int part, unsigned char* b, unsigned char* c) {
    if constexpr (Tr::projected) convolve_states(k, part, b, c);
    if (k.free_warp() >= 0) return;
    std::uint32_t const columns = shared_address(b) + k.row_operand(Tr::part_pitch);
    std::uint32_t const rows = shared_address(c) + k.column_operand(Tr::part_pitch);
    warp_columns const own{k.warp, k.at.tiles};
    std::uint32_t a[Tr::part_steps][4];
    load_rows(a, columns + own.first * 16 * Tr::part_pitch);
    own.each<Tr::slots>(
        k.at.tiles,
        [&](int s, int row, int) { multiply_rows<T>(scores.below[s], a, rows + row * 16 * Tr::part_pitch); },
        [&] {
          if (own.own >= 0) load_rows(a, columns + own.own * 16 * Tr::part_pitch);
        });
    if (own.own >= 0) multiply_rows<T>(scores.diagonal, a, rows + own.own * 16 * Tr::part_pitch);
  };
  int const over = (k.at.stage + k.at.part_bytes() - 1) / k.at.part_bytes();  // parts that lie over the first unit
  bool const early = k.at.buffers() == Tr::parts && over < Tr::parts;
  auto const copy_first = [&] { copy_unit(k, every_thread<Tr>(), 0); };
  each_part(k, multiply, [&](int part) {
    if (early && part == over && k.two_units()) copy_first();
  });
  if (k.free_warp() < 0) store_tiles(k, scores);
  if (early && k.two_units()) return;
  __syncthreads();
  if (k.two_units()) copy_first();
  commit_copies();
}

/// A tile's accumulators of a part, rounded, by way of the warp's patch to a gradient's rows and columns.
template <class Tr>
__device__ inline void write_part(backward_quadratic_block<Tr> const& k, float const (&acc)[Tr::part / 8][4],
                                  typename Tr::element* to, int stride, int part) {
  unsigned char* const patch = k.shared + k.at.patches + k.warp * k.at.patch_bytes;
  unsigned char* const own =
      patch + fragment::row(unsigned(k.lane)) * Tr::part_pitch + fragment::column(unsigned(k.lane)) * 2;
  __syncwarp();
#pragma unroll
  for (int n = 0; n < Tr::part / 8; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      *reinterpret_cast<std::uint32_t*>(own + half * 8 * Tr::part_pitch + n * 16) =
          pack<typename Tr::element>(acc[n][2 * half], acc[n][2 * half + 1]);
  int const column = k.group() * Tr::sizes::state + part * Tr::part;
  write_rows<Tr::part>(patch, to + k.row(k.warp * 16) * std::size_t(stride) + column, stride, k.p.length - k.warp * 16,
                       k.lane);
}

/// dB and dC from the scores' gradient in the scores' place: a warp has both of 16 tokens, since tiles of dC have as
/// many products as their tokens have tokens before them, those of dB as many as are after them. The copies of the
/// first parts have been started.
template <class Tr>
__device__ inline void finish_states(backward_quadratic_block<Tr> const& k) {
  using T = typename Tr::element;
  auto const multiply = [&](int part, unsigned char* b, unsigned char* c) {
    if (k.warp >= k.at.tiles) return;
    float dc[1][Tr::part / 8][4] = {}, db[1][Tr::part / 8][4] = {};
    constexpr std::uint32_t step = 16 * Tr::part_pitch;
    std::uint32_t a[1][4], at = shared_address(b) + k.row_operand(Tr::part_pitch);
    std::uint32_t tile =
        shared_address(k.tile(k.warp, 0)) + std::uint32_t(fragment::transposed_left_operand(unsigned(k.lane)));
#pragma unroll 2
    for (int j = 0; j <= k.warp; ++j, at += step, tile += fragment_bytes) {  // dG B
      load_matrix_transposed(a[0], tile);
      multiply_x<T, 0, 1, Tr::part>(dc, a, at);
    }
    write_part(k, dc[0], k.p.dc, k.p.dc_stride, part);
    at = shared_address(c) + k.row_operand(Tr::part_pitch) + std::uint32_t(k.warp) * step;
    tile = shared_address(k.tile(k.warp, k.warp)) + std::uint32_t(k.lane * 16);
#pragma unroll 2
    for (int i = k.warp; i < k.at.tiles; ++i, at += step, tile += std::uint32_t(i * fragment_bytes)) {  // dG^T C
      load_matrix(a[0], tile);
      multiply_x<T, 0, 1, Tr::part>(db, a, at);
    }
    write_part(k, db[0], k.p.db, k.p.db_stride, part);
  };
  each_part(k, multiply, [](int) {});
}

/// Whether the first part of B can come while the last unit is computed: it lies over the first stage.
template <class Tr>
__device__ inline bool early_b(backward_quadratic_block<Tr> const& k) {
  return Tr::units % 2 == 0 && k.two_units() && k.at.half_bytes() <= k.at.stage;
}

/// Every warp waits, each kind of warps in its own loop over units. compute-sanitizer's racecheck lists accesses that
/// this barrier orders, with any barrier in its place, unless the barriers of some warps are left out, which are no
/// part of that order: bench/results/h200/mixer_core_backward.md has the variants that were tried.
template <class Tr>
__device__ inline void meet() {
  barrier<Tr::threads>(14);
}

/// Every thread starts its copies of a unit's operands where there is room for one unit's only.
template <class Tr>
__device__ inline void copy_single(backward_quadratic_block<Tr> const& k, int unit) {
  if (k.two_units() || unit == Tr::units) return;
  copy_unit(k, every_thread<Tr>(), unit);
  commit_copies();
}

/// Every warp: the unit's operands and decays are there, those of the unit before are done with.
template <class Tr>
__device__ inline void begin_unit() {
  wait_copies<0>();
  meet<Tr>();
}
/// The free warps convolve a unit's x, beside the tiles of the unit before.
template <class Tr, class Wait>
__device__ inline void convolve_beside(backward_quadratic_block<Tr> const& k, copying_threads threads, int unit,
                                       Wait const& wait) {
  auto own = convolution_of_x<4>(k, threads, unit);
  wait_copies<0>();
  wait();
  own.run(k.x(unit), wait, [](int, int, auto const&) {});
}

/// Where the free warps wait for the rows of the warps with tiles.
template <class Tr>
inline constexpr int rows_barrier = Tr::most_tiles / 2 + 1;

/// The free warps start the copy of the next unit's operands.
template <class Tr>
__device__ inline void copy_beside(backward_quadratic_block<Tr> const& k, copying_threads threads, int unit) {
  if constexpr (Tr::projected)
    copy_unit(k, copying_team<Tr>{threads.own}, unit);
  else
    copy_unit(k, threads, unit);
}
/// The free warps finish a unit's tokens; where they convolve, without the rows.
template <class Tr, class Wait>
__device__ inline void finish_beside(backward_quadratic_block<Tr> const& k, int unit, token_team team,
                                     Wait const& wait) {
  if constexpr (Tr::projected)
    finish_tokens<false>(k, unit, team, [] { barrier<Tr::threads>(rows_barrier<Tr>); });
  else
    finish_tokens(k, unit, team, wait);
}
/// The warps with tiles add up the rows of the unit before, where the free warps convolve, and wait for nobody.
template <class Tr>
__device__ inline void rows_beside(backward_quadratic_block<Tr> const& k, int unit) {
  if constexpr (Tr::projected)
    if (unit > 0) {
      add_own_row(k, unit - 1);
      arrive<Tr::threads>(rows_barrier<Tr>);
    }
}

/// The free warps' loop, beside the others' unit_columns: operands of the next unit, or the first part of B; its
/// decays; the tokens of the unit before. Where there is room for one unit's operands only, the tokens of the unit
/// itself, while the next one's operands come.
template <class Tr>
__device__ inline void units_beside(backward_quadratic_block<Tr> k) {
  int const warps = k.at.free_warps();
  copying_threads const threads{k.free_warp() * 32 + k.lane, warps * 32};
  auto const wait = [&] { barrier(Tr::most_tiles / 2, warps * 32); };
  copy_single(k, 0);
#pragma unroll 1
  for (int unit = 0; unit < Tr::units; ++unit) {
    bool const scanner = k.warp == Tr::warps - 1 && unit + 1 < Tr::units;
    begin_unit<Tr>();
    lane_steps steps;
    if (scanner) steps = load_lane_steps(k, unit + 1);
    if (unit + 1 == Tr::units && early_b(k)) copy_b(k, threads, 0);
    if (unit + 1 < Tr::units && k.two_units()) copy_beside(k, threads, unit + 1);
    commit_copies();
    if (scanner) scan_vectors(k, unit + 1, steps);
    if (!k.two_units()) meet<Tr>();
    copy_single(k, unit + 1);
    int const done = k.two_units() ? unit - 1 : unit;
    if (done >= 0 && done + 1 < Tr::units) finish_beside(k, done, {k.free_warp(), warps}, wait);
    if constexpr (Tr::projected)
      if (unit + 1 < Tr::units) convolve_beside(k, threads, unit + 1, wait);
  }
  if (k.two_units()) meet<Tr>();
}

/// The others' loop. dG goes to the scores' place.
template <class Tr>
__device__ inline void units_of_tiles(backward_quadratic_block<Tr> k) {
  tile_sums<Tr> gradient;
  gradient.clear();
  copy_single(k, 0);
#pragma unroll 1
  for (int unit = 0; unit < Tr::units; ++unit) {
    begin_unit<Tr>();
    rows_beside(k, unit);
    hide(k.lane), hide(k.warp);  // else what depends on them alone is kept in registers from here to the loop's end
    int own = unit;
    if constexpr (Tr::projected) hide(own);
    unit_columns(k, own, gradient);
    if (!k.two_units()) meet<Tr>();
    copy_single(k, unit + 1);
  }
  if (k.two_units()) meet<Tr>();
  store_tiles(k, gradient);
}

/// Block: group + G sequence. Where at.stages is 2, the next unit's operands are copied, and the tokens of the unit
/// before finished, while a unit is computed.
template <class Tr>
__global__ void __launch_bounds__(Tr::threads, 1)
    backward_quadratic_kernel(typename Tr::operands const p, backward_quadratic_layout<Tr> const at) {
  backward_quadratic_block<Tr> const k{p, at, dynamic_shared()};
  score_tiles(k);
  if constexpr (Tr::projected) convolve_first(k);
  if (k.warp == Tr::warps - 1) scan_vectors(k, 0, load_lane_steps(k, 0));
  if (k.free_warp() >= 0)
    units_beside(k);
  else
    units_of_tiles(k);
  auto const copy = [&](int part, bool with_b) {
    if (with_b) copy_b(k, every_thread<Tr>(), part);
    copy_c(k, every_thread<Tr>(), part);
    commit_copies();
  };
  bool const clear = at.part_bytes() <= at.row_parts - at.operands;  // else over what the tokens are finished from
  if (clear) copy(0, !early_b(k));
  finish_tokens(k, Tr::units - 1, {k.warp, Tr::warps}, [] { __syncthreads(); });
  if (!clear) copy(0, !early_b(k));
  if (at.buffers() == 2) copy(1, true);
  finish_states(k);
  write_totals(k);
}

/// Bytes of shared memory of a block, with two units' operands where that fits.
template <class Tr>
backward_quadratic_layout<Tr> backward_quadratic_plan(int length, device_properties const& device) {
  backward_quadratic_layout<Tr> const two{length, 2};
  return Tr::units > 1 && two.bytes <= device.shared_per_block ? two : backward_quadratic_layout<Tr>{length, 1};
}

/// The form, as backward_operands.cuh describes one.
template <mixer_shape M, class T>
struct backward_quadratic {
  /// Kernels are built for 16-bit numbers, heads and states of a multiple of 16.
  static constexpr bool possible = is_half<T> && M.headdim % 16 == 0 && M.d_state % 16 == 0;

  /// dx, dB and dC may be x, B and C: a block has copied what it overwrites, and no other one reads it.
  static constexpr bool in_place = true;

  /// At most 240 tokens, pointers and rows at multiples of 16 bytes, and a block's shared memory: of Tiny or Small at
  /// 197 tokens 209 KB, or 149 KB with one unit's operands at a time. 512 of Tiny's sequences of 226 tokens take 464 us
  /// for the chunks' 550.
  static bool fits(backward_operands<M, T> const& p, device_properties const& device) {
    if constexpr (possible)
      return p.length <= long_traits::most_tiles * 16 && p.aligned() &&
             backward_quadratic_plan<long_traits>(p.length, device).bytes <= device.shared_per_block;
    else
      return false;
  }
  /// Bytes of scratch that launch needs.
  static std::size_t scratch_bytes(int, int, device_properties const&) { return 0; }

  /// Enqueues the gradient. Only where fits(p, device); blocks may use device.shared_per_block bytes.
  static void launch(backward_operands<M, T> const& p, std::byte*, device_properties const& device,
                     cudaStream_t stream) {
    if (p.sequences == 0) return;
    if (p.length <= short_traits::most_tiles * 16)
      enqueue<short_traits>(p, device, stream);
    else
      enqueue<long_traits>(p, device, stream);
  }

 private:
  using short_traits = backward_quadratic_traits<M, T, 6>;  ///< for 13 tiles
  using long_traits = backward_quadratic_traits<M, T, 7>;   ///< for 15

  template <class Tr>
  static void enqueue(backward_operands<M, T> const& p, device_properties const& device, cudaStream_t stream) {
    auto const plan = backward_quadratic_plan<Tr>(p.length, device);
    detail::launch("ssd_backward_quadratic", backward_quadratic_kernel<Tr>,
                   {dim3(unsigned(p.sequences * M.groups)), Tr::threads, std::size_t(plan.bytes)}, stream, p, plan);
  }
};

}  // namespace dm2::cuda::detail::ssd
