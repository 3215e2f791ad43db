/// @file
/// Launching the kernel of the gradients between two cores for a Hopper.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/instructions/tma.cuh>
#include <dm2/cuda/project_add_norm/backward_hopper.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/tile/partial_sums.cuh>

#include <algorithm>
#include <cstddef>

namespace dm2::cuda::detail {

/// Whether this device runs the kernel, and this program has it compiled.
template <class Tr>
bool between_backward_hopper_runs(device_properties const& device) {
  if constexpr (Tr::possible) {
    if (device.major != 9 || device.minor != 0 || Tr::bytes > device.shared_per_block) return false;
    static bool const compiled = has_hopper_code("project_add_norm_backward", between_backward_hopper_kernel<Tr>);
    return compiled;
  } else {
    return false;
  }
}

/// Whether every address suits tensor maps.
template <class T>
bool between_backward_mappable(between_backward_arguments<T> const& p) {
  auto const whole = [](auto const*... at) { return (packets_at<16 / int(sizeof(*at))>(at) && ...); };
  return whole(p.dy, p.in, p.residual, p.dresidual, p.normed, p.rounded, p.out, p.dg) && packets_at<2>(p.norm);
}

/// The arguments with their tensor maps.
template <class Tr>
between_backward_hopper_arguments<typename Tr::element> map_between_backward(
    between_backward_arguments<typename Tr::element> const& p) {
  using T = typename Tr::element;
  auto const rows = std::size_t(p.count);
  tile_shape const box{Tr::rows, 32, true}, warp{16, 64, true};
  between_backward_hopper_arguments<T> arguments{};
  arguments.plain = p;
  arguments.dy = make_tensor_map(p.dy, rows, Tr::wide, {Tr::rows, Tr::depth, true});
  arguments.in = make_tensor_map(p.in, Tr::wide, Tr::dim, {64, 64, true});
  arguments.residual = make_tensor_map(p.residual, rows, Tr::dim, box);
  arguments.gradient = make_tensor_map<float>(p.dresidual, rows, Tr::dim, box);
  arguments.out = make_tensor_map(p.out, Tr::dim, Tr::inner, {192, Tr::chunk, true});
  arguments.new_gradient = make_tensor_map<float>(p.dresidual, rows, Tr::dim, {16, 32, true});
  arguments.normed = make_tensor_map<T>(p.normed, rows, Tr::dim, warp);
  arguments.rounded = make_tensor_map<T>(p.rounded, rows, Tr::dim, warp);
  arguments.dg = make_tensor_map<T>(p.dg, rows, Tr::inner, warp);
  return arguments;
}

/// Launches the kernel, and adds its sums to dnorm. Takes a row of D floats of scratch for each block: as many as there
/// are tiles at most.
template <class Tr>
void between_backward_hopper(cudaStream_t stream, arena& scratch, device_properties const& device,
                             between_backward_arguments<typename Tr::element> p, float* dnorm) {
  arena_scope const scope{scratch};
  int const blocks = std::min((p.count + Tr::rows - 1) / Tr::rows, device.multiprocessors);
  p.parts = scratch.take<float>(std::size_t(blocks) * Tr::dim);
  launch("project_add_norm_backward", between_backward_hopper_kernel<Tr>, {unsigned(blocks), Tr::threads, Tr::bytes},
         stream, map_between_backward<Tr>(p));
  add_parts("project_add_norm_backward: norm", stream, p.parts, blocks, Tr::dim, dnorm);
}

}  // namespace dm2::cuda::detail
