/// @file
/// The bidirectional Mamba-2 mixer between its projections, backward.
///
/// Saved: the projection, and in bfloat16 what the forward left. Computed again: convolutions, SiLU and steps, which
/// pass between kernels through scratch, rounded to the context's element:
///     inputs     x, B, C and dt of both directions (mixer_core/backward_inputs.cuh), unless the scan's backward makes
///                them itself (mixer_core/backward_scan.cuh): in bfloat16, up to 208 tokens, from what the forward left
///     scan       y of each direction (ssd.cuh), where the forward left nothing or y cannot be had from it
///     gate       dy, dz, the norms' sums (mixer_core/backward_gate.cuh)
///     scan back  dx, dB, dC, ddt, sums for A and D of both directions at once (ssd_backward.cuh)
///     conv       the projection's x, B, C and dt, the sums for taps and steps (mixer_core/backward_conv.cuh)
///     sums       the parameters' gradients (mixer_core/backward_sums.cuh)
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/mixer_core/backward_conv.cuh>
#include <dm2/cuda/mixer_core/backward_gate.cuh>
#include <dm2/cuda/mixer_core/backward_inputs.cuh>
#include <dm2/cuda/mixer_core/backward_plan.cuh>
#include <dm2/cuda/mixer_core/backward_scan.cuh>
#include <dm2/cuda/mixer_core/backward_sums.cuh>
#include <dm2/cuda/ssd_backward.cuh>

#include <algorithm>
#include <cstddef>
#include <type_traits>

namespace dm2::cuda {

/// What mixer_core left for mixer_core_backward: its result and the factors of its norms, or neither.
template <mixer_shape M, precision P>
struct mixer_left {
  rows<element<P> const, 2 * M.d_inner(), space::device> g{nullptr, 0};  ///< [B L, 2 d_inner], its result
  float const* factors = nullptr;                                        ///< [B L, 2, groups]
};

namespace detail::mixer_core {

/// One call's operands and scratch.
template <mixer_shape M, precision P>
struct backward_call {
  using T = element<P>;
  context<P>& ctx;
  T const *zxbcdt, *dg;
  T const* g;            ///< what the forward left, or null
  float const* factors;  ///< the same
  mixer_parameters<M, float const, space::device> const& p;
  T* dzxbcdt;
  mixer_parameters<M, float, space::device> const& grad;
  backward_plan<M, T> const& plan;
  backward_scratch<M, T> const& s;
  bool packets;  ///< whether accesses are of as many channels as they can be

  [[nodiscard]] direction_pair pointers() const {
    auto const of = [](mixer_direction<M, float const, space::device> const& d) {
      return direction_parameters{.conv = d.conv.data,
                                  .conv_bias = d.conv_bias.data,
                                  .dt_bias = d.dt_bias.data,
                                  .a_log = d.a_log.data,
                                  .d = d.d.data,
                                  .norm = d.norm.data};
    };
    return {{of(p.forward), of(p.backward)}};
  }

  template <int V>
  void inputs() const {
    using traits = backward_traits<M, V>;
    int const runs = (plan.length + traits::run - 1) / traits::run;
    std::size_t const items = 2 * std::size_t(traits::convolved / V + traits::heads);
    launch("mixer_core_backward: inputs", inputs_kernel<traits, T>,
           {blocks_for(std::size_t(plan.sequences) * std::size_t(runs) * items, traits::threads), traits::threads},
           ctx.stream(), zxbcdt, pointers(), s.arrays.in, plan.rows, plan.length, runs);
  }

  void scans() const {
    scan_arrays<T> const& in = s.arrays.in;
    scan_arrays<T> const second = second_rows<typename backward_traits<M, 1>::first>(in, plan.rows);
    scan_again<M>(ctx, in, s.arrays.y, plan);
    scan_again<M>(ctx, second, s.arrays.y + plan.rows * std::size_t(M.d_inner()), plan);
  }

  /// Whether the gate is undone, so that no scan is computed again.
  template <int V>
  [[nodiscard]] bool undone() const {
    return gate_is_undone<T> && gate_group<backward_traits<M, V>>::possible && factors != nullptr;
  }
  template <int V, template <class, class, class> class Row>
  void gate_in_one(gate_backward_operands<T> const& q) const {
    using traits = backward_traits<M, V>;
    launch("mixer_core_backward: gate", gate_backward_kernel<traits, Row, T>,
           {dim3(unsigned(plan.norm_parts), M.groups, traits::reverse_tokens ? 1 : 2), 256}, ctx.stream(), q);
  }
  template <int V>
  void gate() const {
    using traits = backward_traits<M, V>;
    gate_backward_operands<T> const q{.y = s.arrays.y,
                                      .zxbcdt = zxbcdt,
                                      .dg = dg,
                                      .norm = {p.forward.norm.data, p.backward.norm.data},
                                      .dzxbcdt = dzxbcdt,
                                      .parts = s.norm_parts,
                                      .n = plan.rows,
                                      .length = plan.length,
                                      .g = g,
                                      .factors = factors};
    if constexpr (gate_group<traits>::possible) {
      if constexpr (gate_is_undone<T>)
        if (undone<V>()) return gate_in_one<V, left_gate_row>(q);
      gate_in_one<V, gate_row>(q);
    } else {
      gate_in_two_passes<traits, typename traits::first>(q);
      gate_in_two_passes<traits, typename traits::second>(q);
    }
  }
  template <class Tr, class Dir>
  void gate_in_two_passes(gate_backward_operands<T> const& q) const {
    launch("mixer_core_backward: norm", gate_statistics_kernel<Tr, Dir, T>,
           {dim3(blocks_for(plan.rows * std::size_t(M.groups), 8)), 256}, ctx.stream(), q, s.statistics);
    launch("mixer_core_backward: gate", gate_channels_kernel<Tr, Dir, T>,
           {dim3(unsigned(plan.norm_parts), blocks_for(std::size_t(Tr::inner), 256)), 256}, ctx.stream(), q,
           s.statistics);
  }

  void scans_back() const {
    auto const operands = plan.operands(s.arrays, s.a_parts, s.d_parts);
    if constexpr (ssd::backward_projected<M, T>::possible)
      if (plan.convolves)
        return ssd::backward_projected<M, T>::launch(projected_operands(operands, zxbcdt, s.arrays.in.dt, pointers()),
                                                     ctx.stream());
    ssd::launch_backward<P == precision::tf32>(operands, ctx.shared(), ctx.device(), ctx.stream());
  }

  template <int Wide, int Narrow>
  void convolutions() const {
    using traits = backward_traits<M, Narrow>;
    using wide = backward_traits<M, Wide>;
    conv_backward_operands<T> const q{.zxbcdt = zxbcdt,
                                      .dx = s.arrays.dx,
                                      .db = s.arrays.db,
                                      .dc = s.arrays.dc,
                                      .dzxbcdt = dzxbcdt,
                                      .parts = s.conv_parts,
                                      .ddt = s.arrays.ddt,
                                      .step_parts = s.step_parts,
                                      .p = pointers(),
                                      .n = plan.rows,
                                      .length = plan.length,
                                      .sequences = plan.sequences,
                                      .runs = plan.runs,
                                      .run = plan.run};
    constexpr unsigned blocks = conv_backward_shares<traits, wide>::blocks;
    launch("mixer_core_backward: convolution", conv_backward_kernel<traits, wide, conv_backward_resident, T>,
           {dim3(unsigned(plan.conv_parts), blocks), traits::threads}, ctx.stream(), q);
  }

  template <int Wide, int Narrow>
  void sums() const {
    constexpr int inner = M.d_inner(), C = M.conv_dim(), K = M.d_conv, H = M.heads, conv = C * (K + 1);
    constexpr bool reversed = M.variant == mixer_variant::published;
    auto const &a = grad.forward, &b = grad.backward;
    auto const half = std::size_t(plan.sequences) * H;
    gradient_sums const all{.of = {{.parts = {s.conv_parts, s.conv_parts + conv},
                                    .to = {a.conv.data, b.conv.data},
                                    .count = plan.conv_parts,
                                    .stride = 2 * conv,
                                    .width = C * K},
                                   {.parts = {s.conv_parts + C * K, s.conv_parts + conv + C * K},
                                    .to = {a.conv_bias.data, b.conv_bias.data},
                                    .count = plan.conv_parts,
                                    .stride = 2 * conv,
                                    .width = C},
                                   {.parts = {s.step_parts, s.step_parts + H},
                                    .to = {a.dt_bias.data, b.dt_bias.data},
                                    .count = plan.template step_parts<Wide, Narrow>(),
                                    .stride = 2 * H,
                                    .width = H},
                                   {.parts = {s.a_parts, s.a_parts + half},
                                    .to = {a.a_log.data, b.a_log.data},
                                    .log_rates = {p.forward.a_log.data, p.backward.a_log.data},
                                    .count = plan.sequences,
                                    .stride = H,
                                    .width = H,
                                    .reversed = reversed},
                                   {.parts = {s.d_parts, s.d_parts + half},
                                    .to = {a.d.data, b.d.data},
                                    .count = plan.sequences,
                                    .stride = H,
                                    .width = H,
                                    .reversed = reversed},
                                   {.parts = {s.norm_parts, s.norm_parts + inner},
                                    .to = {a.norm.data, b.norm.data},
                                    .count = plan.norm_parts,
                                    .stride = 2 * inner,
                                    .width = inner,
                                    .reversed = reversed}}};
    launch("mixer_core_backward: sums", add_gradient_sums_kernel<32>, {dim3(all.blocks()), 1024}, ctx.stream(), all);
  }

  /// Wide: channels of an access; the convolutions' backward takes Narrow where it has both directions.
  template <int Wide, int Narrow>
  void run() const {
    if (!plan.convolves) inputs<Wide>();
    if (!undone<Wide>()) scans();
    gate<Wide>();
    scans_back();
    convolutions<Wide, Narrow>();
    sums<Wide, Narrow>();
  }
  void run() const {
    constexpr int wide = backward_plan<M, T>::widest, narrow = std::min(wide, 2);
    if (packets)
      run<wide, narrow>();
    else
      run<1, 1>();
  }
};

/// mixer_core_backward; where it may not `convolve`, the scan's backward reads x, B, C and dt from memory.
template <mixer_shape M, precision P>
void run_backward(context<P>& ctx, rows<element<P> const, M.projected(), space::device> const& zxbcdt,
                  mixer_parameters<M, float const, space::device> const& p,
                  rows<element<P> const, 2 * M.d_inner(), space::device> const& dg,
                  rows<element<P>, M.projected(), space::device> const& dzxbcdt,
                  mixer_parameters<M, float, space::device> const& grad, int length, mixer_left<M, P> const& left,
                  bool convolve = true) {
  using T = element<P>;
  constexpr int widest = backward_plan<M, T>::widest;
  int const sequences = whole_sequences("mixer_core_backward.zxbcdt", zxbcdt.count, length);
  require_extent("mixer_core_backward.dg rows", dg.count, zxbcdt.count);
  require_extent("mixer_core_backward.dzxbcdt rows", dzxbcdt.count, zxbcdt.count);
  bool const kept = left.factors != nullptr;
  if (kept) require_extent("mixer_core_backward.left.g rows", left.g.count, zxbcdt.count);
  bool const packets = packets_at<widest>(zxbcdt.data) && packets_at<widest>(dg.data) &&
                       packets_at<widest>(dzxbcdt.data) && (!kept || packets_at<widest>(left.g.data));
  bool const convolves = convolve && kept &&
                         (packets ? scan_convolves<M, T, widest>(zxbcdt.data, length, ctx.device())
                                  : scan_convolves<M, T, 1>(zxbcdt.data, length, ctx.device()));
  int const slice = backward_slice(sequences, length);
  auto const bytes = [&](int n) { return backward_plan<M, T>{n, length, ctx.device(), convolves}.bytes(); };
  if (!ctx.reserve(std::max(bytes(slice), bytes(sequences % slice)))) return;  // few sequences are cut into more runs
  for (int first = 0; first < sequences; first += slice) {
    std::size_t const row = std::size_t(first) * std::size_t(length);
    backward_plan<M, T> const plan{std::min(slice, sequences - first), length, ctx.device(), convolves};
    arena_scope const scope{ctx.shared()};
    backward_scratch<M, T> const scratch{ctx.shared(), plan};
    backward_call<M, P> const call{.ctx = ctx,
                                   .zxbcdt = zxbcdt.data + row * M.projected(),
                                   .dg = dg.data + row * 2 * M.d_inner(),
                                   .g = kept ? left.g.data + row * 2 * M.d_inner() : nullptr,
                                   .factors = kept ? left.factors + row * 2 * M.groups : nullptr,
                                   .p = p,
                                   .dzxbcdt = dzxbcdt.data + row * M.projected(),
                                   .grad = grad,
                                   .plan = plan,
                                   .s = scratch,
                                   .packets = packets};
    call.run();
  }
}

}  // namespace detail::mixer_core

/// The gradient of mixer_core; its inside is computed again from zxbcdt.
///
/// Shapes   as mixer_core; dg [B L, 2 d_inner], of what mixer_core writes; dzxbcdt [B L, projected]; `left`: what
///          mixer_core has written for the same zxbcdt and parameters, g and factors, which saves the scan in bfloat16;
///          without it, and in other precisions, the scan is computed again.
/// Writes   dzxbcdt (=), which overlaps no input; grad (+=). In the published variant grad.backward.d is the first
///          direction's d. The same input on the same device gives the same bits.
/// Scratch  For Tiny in bfloat16 with `left` 2.7 KB a token up to 208 tokens, that is 0.5 MB a picture of 197 tokens,
///          and partial sums of a few MB; without it, or up to 240 tokens, 4.2 KB a token; 6.8 KB for longer sequences;
///          no more than for 264 pictures, since larger batches go in slices.
/// Stream   the context's; no synchronisation.
/// Throws   shape_error if the rows disagree; nothing is written then.
template <mixer_shape M, precision P>
void mixer_core_backward(context<P>& ctx,
                         std::type_identity_t<rows<element<P> const, M.projected(), space::device>> zxbcdt,
                         mixer_parameters<M, float const, space::device> const& p,
                         std::type_identity_t<rows<element<P> const, 2 * M.d_inner(), space::device>> dg,
                         std::type_identity_t<rows<element<P>, M.projected(), space::device>> dzxbcdt,
                         mixer_parameters<M, float, space::device> const& grad, int length,
                         std::type_identity_t<mixer_left<M, P>> const& left = {}) {
  detail::mixer_core::run_backward<M>(ctx, zxbcdt, p, dg, dzxbcdt, grad, length, left);
}

}  // namespace dm2::cuda
