/// @file
/// State-space duality: the selective scan of Mamba-2, forward.
///
/// Dao & Gu 2024, arXiv 2405.21060. Alone or inside a model; this header is all that a caller needs.
///
/// h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t^T,  y_t = C_t h_t + D x_t. Four ways to the same numbers:
///  - quadratic (ssd/quadratic.cuh): sequences of at most 256 tokens as a masked product, like attention;
///  - chunked (ssd/chunked.cuh, for a Hopper ssd/chunked_hopper.cuh): any length, in chunks of 64 tokens with the
///    state carried between them;
///  - in tiles of float or TF32 (ssd/tiled.cuh): float up to 720 tokens, few sequences up to 800, as a
///    masked product;
///  - the recurrence (ssd/general.cuh): longer ones of float, and sizes that no tile divides.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/ssd/chunked.cuh>
#include <dm2/cuda/ssd/chunked_hopper.cuh>
#include <dm2/cuda/ssd/general.cuh>
#include <dm2/cuda/ssd/quadratic.cuh>
#include <dm2/cuda/ssd/tiled.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>

namespace dm2::cuda {

/// The arguments of a scan over a batch of sequences. T is what x, B, C and y are stored as: bfloat16, half or float.
/// Steps, rates and sums are float.
template <mixer_shape M, class T>
using ssd_input = dm2::ssd_input<M, T, space::device, float>;

namespace detail::ssd {

/// Whether the tensor cores' kernels are built for these sizes.
template <mixer_shape M, class T>
inline constexpr bool on_tensor_cores = is_half<T>&& M.headdim % 16 == 0 && M.d_state % 16 == 0;

/// What one call does, decided before its memory is taken.
enum class chosen_form : unsigned char { recurrence, tiled, quadratic, chunked };

/// `aligned`: every pointer is at a multiple of 16 bytes. The number of sequences decides in float only.
template <mixer_shape M, class T>
chosen_form choose_form(int length, bool aligned, scan_form form, device_properties const& device, int sequences = 1) {
  if constexpr (on_tensor_cores<M, T>) {
    using sizes = ssd_sizes<M, T>;
    if (!aligned) return chosen_form::recurrence;
    if (form != scan_form::chunked && quadratic_fits<quadratic_traits<sizes>>(length, device))
      return chosen_form::quadratic;
    if (chunked_traits<sizes, 1>::bytes <= device.shared_per_block) return chosen_form::chunked;
  } else if constexpr (std::is_same_v<T, float>) {
    if (aligned && tiled_fits<M>(length, sequences, device)) return chosen_form::tiled;
  }
  return chosen_form::recurrence;
}

/// Bytes of scratch of the chunked form.
template <mixer_shape M, class T>
std::size_t chunked_bytes(int length, int sequences, device_properties const& device) {
  arena ruler;
  with_forward_traits<ssd_sizes<M, T>>(length, sequences, device, [&]<class Tr>(Tr, chunked_plan const& plan) {
    static_cast<void>(take_runs<Tr>(ruler, plan, sequences));
  });
  return ruler.peak();
}

/// The most of that for any number of sequences up to `sequences`: few are cut into runs, many are not.
template <mixer_shape M, class T>
std::size_t most_chunked_bytes(int length, int sequences, device_properties const& device) {
  std::size_t most = 0;
  for (int n = 1; n <= std::min(sequences, 2 * device.multiprocessors); ++n)
    most = std::max(most, chunked_bytes<M, T>(length, n, device));
  return most;
}

/// The chunked form with its scratch from `memory`.
template <mixer_shape M, class T>
void launch_chunked_from(arena& memory, device_properties const& device, cudaStream_t stream, arguments<T> const& p,
                         int sequences) {
  arena_scope const scope{memory};
  with_forward_traits<ssd_sizes<M, T>>(p.length, sequences, device, [&]<class Tr>(Tr, chunked_plan const& plan) {
    launch_chunked<Tr>(p, take_runs<Tr>(memory, plan, sequences), plan, sequences, stream);
  });
}

/// The same with scratch of the context's.
template <mixer_shape M, class T, precision P>
void run_chunked(context<P>& ctx, arguments<T> const& p, int sequences) {
  if (!ctx.reserve(chunked_bytes<M, T>(p.length, sequences, ctx.device())) || sequences == 0) return;
  launch_chunked_from<M>(ctx.shared(), ctx.device(), ctx.stream(), p, sequences);
}

template <class... P>
bool aligned_for_vectors(P const*... p) {
  return ((reinterpret_cast<std::uintptr_t>(p) % 16 == 0) && ...);
}

/// What the kernels take of a caller's operands.
template <mixer_shape M, class T>
arguments<T> kernel_arguments(ssd_input<M, T> const& in, rows<T, M.d_inner(), space::device> y) {
  return {.x = in.x.data,
          .b = in.b.data,
          .c = in.c.data,
          .dt = in.dt.data,
          .a = in.a.data,
          .d = in.d.data,
          .y = y.data,
          .length = in.length};
}

/// How the composed mixer's scan runs, and its scratch: in ssd's automatic form, its operands at multiples of 16 bytes.
/// Whole: a mixer of these sizes has kernels that do all of it, and those of the scan alone in 16 bits are not built.
template <mixer_shape M, class T, bool Whole>
struct composed_scratch {
  /// Sizes that ssd refuses take the recurrence.
  static constexpr bool limited = M.headdim <= 128 && M.d_state <= 256 && !Whole;
  chosen_form form = chosen_form::recurrence;
  std::optional<tiled_scratch<M>> tiles;  ///< where it is in tiles of float
  std::size_t bytes = 0;
  std::byte* runs = nullptr;  ///< where it is in chunks

  composed_scratch(arena& a, device_properties const& device, int sequences, int length) {
    if constexpr (limited) form = choose_form<M, T>(length, true, scan_form::automatic, device, sequences);
    if constexpr (limited && std::is_same_v<T, float>) {  // a plan holds every smaller number of sequences
      int const few = std::min(sequences, tiled_few<M>(device));
      if (form == chosen_form::tiled || tiled_fits<M>(length, few, device))
        tiles.emplace(a, form == chosen_form::tiled ? sequences : few, length);
    }
    if constexpr (limited && on_tensor_cores<M, T>) {
      if (form == chosen_form::chunked) bytes = most_chunked_bytes<M, T>(length, sequences, device);
      runs = a.template take<std::byte>(bytes);
    }
  }
};

/// The composed mixer's scan, of any shape.
template <mixer_shape M, class T, precision P, bool Whole>
void scan_composed(context<P>& ctx, ssd_input<M, T> const& in, rows<T, M.d_inner(), space::device> y,
                   composed_scratch<M, T, Whole> const& scratch) {
  using way = chosen_form;
  [[maybe_unused]] auto const p = kernel_arguments<M>(in, y);
  [[maybe_unused]] int const count = in.sequences();
  if constexpr (std::is_same_v<T, float> && tiled_traits<M>::possible)
    if (scratch.form == way::tiled) return scan_tiled<M>(ctx, p, count, *scratch.tiles);
  if constexpr (composed_scratch<M, T, Whole>::limited && on_tensor_cores<M, T>) {
    arena memory{scratch.runs, scratch.bytes};
    if (scratch.form == way::chunked) return launch_chunked_from<M>(memory, ctx.device(), ctx.stream(), p, count);
    if (scratch.form == way::quadratic)
      return launch_quadratic<quadratic_traits<ssd_sizes<M, T>>>(p, count, ctx.device(), ctx.stream());
  }
  scan_general(ctx, in, y);
}

}  // namespace detail::ssd

/// y = scan(x, dt, A, B, C) + D x for each sequence; head h reads group h / (H / G).
///
/// Shapes   ssd_input; y [B L, H P]. Any L >= 1; P at most 128, N at most 256.
/// Values   dt >= 0, as softplus makes it; nothing checks that. A negative dt may make y NaN: in chunks on a Hopper its
///          logarithm is taken. A token whose dt is 0 neither decays the state nor adds to it.
/// Writes   y (=). y overlaps no input. The same input on the same device gives the same bits.
/// Forms    automatic: quadratic where L <= 256 and a block's shared memory holds the scores, else chunked. quadratic:
///          the same. chunked: chunked. Whatever the form, T = float is in tiles up to 720 tokens, and up to 800 where
///          sequences times heads are at most two a multiprocessor, if 4 divides P and N; TF32's where the context has
///          that precision; else, with P or N not a multiple of 16, and with pointers that are not at a multiple of 16
///          bytes the scan is the recurrence.
/// Scratch  None, but for chunked scans of so few sequences that they are cut into runs, at most 18 MB on 132
///          multiprocessors, and for tiles of float: scores of L x L a sequence and group, 64 MB or one sequence's.
/// Throws   shape_error if the operands disagree; nothing is written then.
/// Source   Dao & Gu 2024, section 6 (arXiv 2405.21060).
template <mixer_shape M, class T, precision P>
void ssd(context<P>& ctx, ssd_input<M, T> const& in, std::type_identity_t<rows<T, M.d_inner(), space::device>> y,
         scan_form form = scan_form::automatic) {
  static_assert(M.headdim >= 1 && M.headdim <= 128, "dm2::cuda::ssd: headdim must be 1..128");
  static_assert(M.d_state >= 1 && M.d_state <= 256, "dm2::cuda::ssd: d_state must be 1..256");
  static_assert(M.heads % M.groups == 0, "dm2::cuda::ssd: groups must divide heads");
  int const count = in.sequences();
  require_extent("ssd.y rows", y.count, in.x.count);
  auto const p = detail::ssd::kernel_arguments<M>(in, y);
  bool const aligned = detail::ssd::aligned_for_vectors(p.x, p.b, p.c, p.y);
  auto const way = detail::ssd::choose_form<M, T>(in.length, aligned, form, ctx.device(), count);
  if constexpr (detail::ssd::on_tensor_cores<M, T>) {
    using sizes = detail::ssd::ssd_sizes<M, T>;
    if (way == detail::ssd::chosen_form::chunked) return detail::ssd::run_chunked<M>(ctx, p, count);
    if (!ctx.reserve(0) || count == 0) return;
    if (way == detail::ssd::chosen_form::quadratic)
      return detail::ssd::launch_quadratic<detail::ssd::quadratic_traits<sizes>>(p, count, ctx.device(), ctx.stream());
  } else if constexpr (std::is_same_v<T, float> && detail::ssd::tiled_traits<M>::possible) {
    if (way == detail::ssd::chosen_form::tiled) return detail::ssd::scan_tiled<M>(ctx, p, count);
  }
  detail::ssd::scan_general(ctx, in, y);
}

/// ssd by the recurrence, the form for any shape, alignment and precision.
///
/// Shapes   as ssd's, without its limits of P and N.
/// Writes   y (=). y overlaps no input.
/// Throws   shape_error if the operands disagree; nothing is written then.
template <mixer_shape M, class T, precision P>
void ssd_general(context<P>& ctx, ssd_input<M, T> const& in,
                 std::type_identity_t<rows<T, M.d_inner(), space::device>> y) {
  static_cast<void>(in.sequences());
  require_extent("ssd.y rows", y.count, in.x.count);
  detail::ssd::scan_general(ctx, in, y);
}

}  // namespace dm2::cuda
