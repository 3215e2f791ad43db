/// @file
/// Launching the kernel between two cores for a Hopper.
#pragma once

#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/device/properties.cuh>
#include <dm2/cuda/instructions/tma.cuh>
#include <dm2/cuda/project_add_norm/hopper.cuh>

#include <algorithm>
#include <cstddef>

namespace dm2::cuda::detail {

/// Whether this device runs the kernel for these sizes, and this program has it compiled.
template <class T, int D, int K, int N, int U>
bool between_hopper_runs(device_properties const& device) {
  using Tr = between_hopper_traits<T, D, K, N, U>;
  if constexpr (Tr::possible) {
    if (device.major != 9 || device.minor != 0 || Tr::bytes > device.shared_per_block) return false;
    static bool const compiled = has_hopper_code("project_add_norm", between_hopper_kernel<Tr>);
    return compiled;
  } else {
    return false;
  }
}

/// Whether it is the one to take for `count` rows: their tiles go to a third of the multiprocessors. A block's time is
/// that of its tile's bytes and of all weights through one multiprocessor, with one tile or with 132.
template <class T, int D, int K, int N, int U>
bool between_hopper_fits(device_properties const& device, std::size_t count) {
  std::size_t const tiles = (count + 127) / 128;
  return count != 0 && 3 * tiles >= std::size_t(device.multiprocessors) && between_hopper_runs<T, D, K, N, U>(device);
}

/// The arguments with their tensor maps. Making six maps costs the host about what a launch does; a graph has them.
template <class Tr>
between_hopper_arguments<typename Tr::element> map_between(between_arguments<typename Tr::element> const& p) {
  using T = typename Tr::element;
  auto const rows = std::size_t(p.count);
  tile_shape const residual{64, 32, true};
  between_hopper_arguments<T> arguments{};
  arguments.plain = p;
  if constexpr (Tr::inner != 0) {
    arguments.g = make_tensor_map(p.g, rows, Tr::inner, {Tr::rows, Tr::depth, true});
    arguments.out = make_tensor_map(p.out, Tr::dim, Tr::inner, {192, Tr::depth, true});
    arguments.after = make_tensor_map<float>(p.after, rows, Tr::dim, residual);
  }
  arguments.before = make_tensor_map(p.before, rows, Tr::dim, residual);
  if constexpr (Tr::wide != 0) arguments.in = make_tensor_map(p.in, Tr::wide, Tr::dim, {Tr::chunk, Tr::depth, true});
  arguments.y = make_tensor_map<T>(p.y, rows, Tr::result, {64, Tr::chunk, Tr::wide == 0});
  return arguments;
}

/// Launches the kernel for p.count rows, of which there are some; `early` as in launch_shape.
template <class Tr>
void launch_between_hopper(between_arguments<typename Tr::element> const& p, int multiprocessors, cudaStream_t stream,
                           bool early) {
  int const tiles = (p.count + Tr::rows - 1) / Tr::rows;
  launch("project_add_norm", between_hopper_kernel<Tr>,
         {unsigned(std::min(tiles, multiprocessors)), Tr::threads, Tr::bytes, early}, stream, map_between<Tr>(p));
}

}  // namespace dm2::cuda::detail
