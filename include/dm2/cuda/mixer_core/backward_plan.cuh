/// @file
/// The division of the mixer's backward into kernels, and its scratch.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/mixer_core/backward_conv.cuh>
#include <dm2/cuda/mixer_core/backward_gate.cuh>
#include <dm2/cuda/mixer_core/backward_inputs.cuh>
#include <dm2/cuda/ssd_backward.cuh>

#include <algorithm>
#include <cstddef>
#include <type_traits>

namespace dm2::cuda::detail::mixer_core {

/// Sequences that one call's kernels do at a time: scratch stays below that of 264 sequences of 197 tokens, for Tiny in
/// bfloat16 224 MB, or 144 where the scan's backward convolves. Both directions of 264 sequences are four blocks for
/// each of 132 multiprocessors.
inline int backward_slice(int sequences, int length) {
  return std::clamp(264 * 197 / length, 1, std::max(sequences, 1));
}

/// What is done with some sequences, decided before memory is taken. The parts in which sums are taken depend on the
/// sizes alone.
template <mixer_shape M, class T>
struct backward_plan {
  /// Whether ssd's tiles of float are there.
  static constexpr bool tiled_scan = std::is_same_v<T, float> && ssd::tiled_traits<M>::possible;
  /// Channels of an access where pointers allow it.
  static constexpr int widest = widest_vector(4, M.d_inner(), M.groups* M.d_state, M.heads, M.d_inner() / M.groups);
  /// Whether ssd's forms on the tensor cores are there.
  static constexpr bool tensor_scan = ssd::on_tensor_cores<M, T> && M.headdim <= 128 && M.d_state <= 256;

  /// Of the gate's rows: what the registers of 132 multiprocessors hold at a time.
  static constexpr std::size_t most_norm_parts =
      132 * gate_group<backward_traits<M, widest>>::resident / (M.variant == mixer_variant::published ? 2 : 1);

  /// Of the convolution's runs of tokens.
  static constexpr int most_conv_parts =
      mixer_core::most_conv_parts<backward_traits<M, std::min(widest, 2)>, backward_traits<M, widest>>();

  int sequences, length;
  std::size_t rows;
  device_properties const& device;
  int norm_parts, conv_parts;
  bool convolves;  ///< whether the scans' backward makes x, B, C and dt itself: then x is never in memory
  int runs, run;   ///< into which a sequence's tokens are cut for the convolution's backward, and tokens of a run

  backward_plan(int sequences_, int length_, device_properties const& device_, bool convolves_ = false)
      : sequences{sequences_},
        length{length_},
        rows{std::size_t(sequences_) * std::size_t(length_)},
        device{device_},
        norm_parts{int(std::clamp<std::size_t>((rows + 15) / 16, 1, most_norm_parts))},
        convolves{convolves_} {
    auto const cut = conv_cut::make(sequences, length, M.d_conv, most_conv_parts);
    runs = cut.runs, run = cut.run, conv_parts = cut.parts;
  }

  /// Of the steps' rows, where a thread of the convolution takes so many channels.
  template <int Wide, int Narrow>
  [[nodiscard]] int step_parts() const {
    return conv_parts * conv_backward_shares<backward_traits<M, Narrow>, backward_traits<M, Wide>>::step_warps;
  }

  /// The scans' backward of both directions at once; null operands where only their scratch is asked for.
  [[nodiscard]] ssd::backward_operands<M, T> operands(backward_arrays<M, T> const& s, float* a_parts,
                                                      float* d_parts) const {
    constexpr int inner = M.d_inner(), states = M.groups * M.d_state;
    ssd::backward_operands<M, T> p{};
    p.x = s.in.x, p.b = s.in.b, p.c = s.in.c, p.dy = s.y, p.dt = s.in.dt, p.a = s.in.a, p.d = s.in.d;
    p.dx = s.dx, p.db = s.db, p.dc = s.dc, p.ddt = s.ddt, p.da = a_parts, p.d_skip = d_parts;
    p.x_stride = p.dy_stride = p.dx_stride = inner;
    p.b_stride = p.c_stride = p.db_stride = p.dc_stride = states;
    p.sequences = 2 * sequences, p.length = length, p.set_size = sequences;
    return p;
  }

  /// Where the scans' backward writes dx, dB and dC: over what it reads where it may, at the same speed.
  [[nodiscard]] gradient_place place() const {
    if (convolves) return gradient_place::over_dy;
    arena none;
    backward_arrays<M, T> const empty{none, 0, gradient_place::over_inputs};
    bool const in_place = ssd::with_backward_form(operands(empty, nullptr, nullptr), device,
                                                  [](auto form) { return decltype(form)::in_place; });
    return in_place ? gradient_place::over_inputs : gradient_place::apart;
  }

  /// Of the scan that is computed again, one direction.
  [[nodiscard]] std::size_t scan_bytes() const {
    if constexpr (tensor_scan) {
      auto const way = ssd::choose_form<M, T>(length, true, scan_form::automatic, device);
      if (way == ssd::chosen_form::chunked) return ssd::chunked_bytes<M, T>(length, sequences, device);
    }
    if constexpr (tiled_scan)
      if (ssd::tiled_fits<M>(length, sequences, device)) return planned_bytes<ssd::tiled_scratch<M>>(sequences, length);
    return 0;
  }

  [[nodiscard]] std::size_t bytes() const;
};

/// Scratch of a call, but for that of the scans.
template <mixer_shape M, class T>
struct backward_scratch {
  backward_arrays<M, T> arrays;
  float2* statistics;                           ///< of the gate in two passes
  float *norm_parts, *step_parts, *conv_parts;  ///< as the kernels' operands say
  float *a_parts, *d_parts;                     ///< [2 sequences, H]

  backward_scratch(arena& s, backward_plan<M, T> const& plan) : arrays{s, plan.rows, plan.place()} {
    statistics = s.take<float2>(plan.rows * M.groups);
    norm_parts = s.take<float>(std::size_t(plan.norm_parts) * 2 * M.d_inner());
    constexpr int wide = backward_plan<M, T>::widest, narrow = std::min(wide, 2);
    int const most = std::max(plan.template step_parts<wide, narrow>(), plan.template step_parts<1, 1>());
    step_parts = s.take<float>(std::size_t(most) * 2 * M.heads);
    conv_parts = s.take<float>(std::size_t(plan.conv_parts) * 2 * M.conv_dim() * (M.d_conv + 1));
    a_parts = s.take<float>(std::size_t(plan.sequences) * 2 * M.heads);
    d_parts = s.take<float>(std::size_t(plan.sequences) * 2 * M.heads);
  }
};

template <mixer_shape M, class T>
std::size_t backward_plan<M, T>::bytes() const {
  std::size_t const own = planned_bytes<backward_scratch<M, T>>(*this) + arena::alignment;
  if (convolves) return own;
  arena none;
  backward_arrays<M, T> const empty{none, 0, gradient_place::over_inputs};
  return own + std::max(scan_bytes(), ssd::backward_scratch(operands(empty, nullptr, nullptr), device));
}

/// y = scan + D x of one direction, in the form that ssd takes.
template <mixer_shape M, precision P>
void scan_again(context<P>& ctx, scan_arrays<element<P>> const& in, element<P>* y,
                backward_plan<M, element<P>> const& plan) {
  using T = element<P>;
  arena_scope const scope{ctx.shared()};
  [[maybe_unused]] ssd::arguments<T> const args{
      .x = in.x, .b = in.b, .c = in.c, .dt = in.dt, .a = in.a, .d = in.d, .y = y, .length = plan.length};
  if constexpr (backward_plan<M, T>::tiled_scan)
    if (ssd::tiled_fits<M>(plan.length, plan.sequences, plan.device))
      return ssd::scan_tiled<M>(ctx, args, plan.sequences,
                                ssd::tiled_scratch<M>{ctx.shared(), plan.sequences, plan.length});
  if constexpr (backward_plan<M, T>::tensor_scan) {
    using sizes = ssd::ssd_sizes<M, T>;
    auto const way = ssd::choose_form<M, T>(plan.length, true, scan_form::automatic, plan.device);
    if (way == ssd::chosen_form::quadratic)
      return ssd::launch_quadratic<ssd::quadratic_traits<sizes>>(args, plan.sequences, plan.device, ctx.stream());
    if (way == ssd::chosen_form::chunked)
      return ssd::launch_chunked_from<M>(ctx.shared(), plan.device, ctx.stream(), args, plan.sequences);
  }
  ssd_input<M, T> const operands{
      {in.x, plan.rows}, {in.dt, plan.rows}, block<float const, space::device, M.heads>{in.a},
      {in.b, plan.rows}, {in.c, plan.rows},  block<float const, space::device, M.heads>{in.d},
      plan.length};
  ssd_general(ctx, operands, rows<T, M.d_inner(), space::device>{y, plan.rows});
}

}  // namespace dm2::cuda::detail::mixer_core
