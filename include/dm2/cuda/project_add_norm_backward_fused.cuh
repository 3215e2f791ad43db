/// @file
/// The gradients between two cores of the trunk as one kernel: which one, and its launch.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/project_add_norm/backward_hopper_launch.cuh>
#include <dm2/cuda/project_add_norm/backward_tensor.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/tile/partial_sums.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda {

/// Which form project_add_norm_project_backward takes. Where the one that is named does not do the sizes, the addresses
/// or the device: composed.
enum class between_backward_choice : unsigned char { automatic, composed, fused, fused_hopper };

namespace detail {

/// The kernel for these sizes on every device. A block takes 128 rows and a Hopper's shared memory, as the forward's.
template <class T, int D, int K, int N>
using between_backward_form = between_backward_traits<T, D, K, N, 232448>;
/// The kernel for these sizes on a Hopper: Tiny's 50,432 rows 140 us for the other's 260.
template <class T, int D, int K, int N>
using between_backward_hopper_form = between_backward_hopper_traits<T, D, K, N, 2>;

/// Tiles of rows of either kernel, and at most so many blocks, each of which writes a row of partial sums.
inline int between_backward_tiles(std::size_t count) { return int((count + 127) / 128); }

/// Whether every address is a multiple of what the kernel reads or writes there at once.
template <class T>
bool between_backward_aligned(between_backward_arguments<T> const& p) {
  auto const vectors = [](auto const*... at) { return (packets_at<16 / int(sizeof(*at))>(at) && ...); };
  auto const pairs = [](auto const*... at) { return (packets_at<2>(at) && ...); };
  return vectors(p.dy, p.in, p.normed, p.rounded, p.out, p.dg) && pairs(p.residual, p.norm, p.dresidual);
}

/// Launches a kernel, and adds its sums to dnorm.
template <class T>
using between_backward_launch = void (*)(cudaStream_t stream, arena& scratch, device_properties const& device,
                                         between_backward_arguments<T> p, float* dnorm);

template <class Tr>
void between_backward_fused(cudaStream_t stream, arena& scratch, device_properties const&,
                            between_backward_arguments<typename Tr::element> p, float* dnorm) {
  arena_scope const scope{scratch};
  int const tiles = between_backward_tiles(std::size_t(p.count));
  p.parts = scratch.take<float>(std::size_t(tiles) * Tr::dim);
  launch("project_add_norm_backward", between_backward_kernel<Tr>, {unsigned(tiles), Tr::threads, Tr::bytes}, stream,
         p);
  add_parts("project_add_norm_backward: norm", stream, p.parts, tiles, Tr::dim, dnorm);
}

/// What launches the kernel to take; null where it is none. One kernel is faster than the products one by one where its
/// tiles fill three quarters of the device.
template <int D, int K, int N, class T>
between_backward_launch<T> between_backward_kernel_for(device_properties const& device, between_backward_choice choice,
                                                       between_backward_arguments<T> const& p) {
  using Form = between_backward_form<T, D, K, N>;
  using Hopper = between_backward_hopper_form<T, D, K, N>;
  std::int64_t const tiles = between_backward_tiles(std::size_t(p.count));
  bool const automatic =
      choice == between_backward_choice::automatic && 4 * tiles >= 3 * std::int64_t{device.multiprocessors};
  if constexpr (Hopper::possible)
    if ((automatic || choice == between_backward_choice::fused_hopper) &&
        between_backward_hopper_runs<Hopper>(device) && between_backward_mappable(p))
      return between_backward_hopper<Hopper>;
  if constexpr (Form::possible)
    if ((automatic || choice == between_backward_choice::fused) && Form::bytes <= device.shared_per_block &&
        between_backward_aligned(p))
      return between_backward_fused<Form>;
  return nullptr;
}

}  // namespace detail
}  // namespace dm2::cuda
