/// @file
/// Launching the mixer core for few sequences: two kernels, of which the second has many small blocks.
#pragma once

#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/launch.cuh>
#include <dm2/cuda/mixer_core_few_conv.cuh>
#include <dm2/cuda/mixer_core_few_scan.cuh>
#include <dm2/cuda/mixer_core_layout.cuh>

#include <cstddef>

namespace dm2::cuda::detail {

/// Whether there are kernels for these sizes.
template <class T, mixer_shape M>
inline constexpr bool mixer_core_few_possible = mixer_core_traits<T, M>::possible && !mixer_core_traits<T, M>::padded &&
                                                M.groups == 1 && M.d_inner() % 8 == 0 && M.heads % 8 == 0;

/// Most sequences that they are for, on any device: memory for more is not planned.
inline constexpr int mixer_core_few_most = 4;

/// Whether they are the way to do so many sequences of this length on this device: no more than two blocks a
/// multiprocessor.
template <class T, mixer_shape M>
bool mixer_core_few_fits(device_properties const& device, int sequences, int length) {
  if constexpr (mixer_core_few_possible<T, M>) {
    using Tr = mixer_core_traits<T, M>;
    int const tiles = (length + 15) / 16,
              groups = (tiles + few_scan_traits<Tr>::row_tiles - 1) / few_scan_traits<Tr>::row_tiles;
    return sequences <= mixer_core_few_most && tiles <= Tr::most_tiles &&
           Tr::units * groups * 2 * sequences <= 2 * device.multiprocessors &&
           2 * (few_scan_layout<Tr>{tiles}.bytes + 1024) <= device.shared_per_sm;
  } else {
    return false;
  }
}

/// Numbers of scratch memory that the kernels need.
template <mixer_shape M>
constexpr std::size_t mixer_core_few_numbers(std::size_t rows) {
  return 2 * rows * M.conv_dim();
}

/// The kernels' arguments. `convolved` is scratch, mixer_core_few_numbers() of them.
template <mixer_shape M, class T>
few_mixer_arguments<T> mixer_core_few_arguments(T const* zxbcdt,
                                                mixer_parameters<M, float const, space::device> const& p, T* convolved,
                                                T* g, float* squares, int sequences, int length) {
  auto const pointers = [](mixer_direction<M, float const, space::device> const& d) {
    return mixer_direction_pointers{d.conv.data, d.conv_bias.data, d.dt_bias.data, d.a_log.data, d.d.data};
  };
  return {zxbcdt, convolved, g, squares, {pointers(p.forward), pointers(p.backward)}, sequences, length};
}

/// g before its norm, and squares [rows, 2, units], which sum up to a row's g^2, as mixer_core_fused leaves them.
/// mixer_core_few_fits() must hold; `convolves`: p.convolved has still to be made.
template <mixer_shape M, precision P>
void mixer_core_few(context<P>& ctx, few_mixer_arguments<element<P>> const& p, bool convolves) {
  using Tr = mixer_core_traits<element<P>, M>;
  using F = few_scan_traits<Tr>;
  int const tasks = 2 * p.sequences * ((p.length + 3) / 4) * (Tr::conv_dim / 4);
  if (convolves)
    launch("mixer_core: convolution", few_conv_kernel<Tr>, {unsigned((tasks + 127) / 128), 128, 0, ctx.early()},
           ctx.stream(), p);
  int const tiles = (p.length + 15) / 16;
  dim3 const grid(unsigned(Tr::units), unsigned((tiles + F::row_tiles - 1) / F::row_tiles), unsigned(2 * p.sequences));
  launch("mixer_core: scan", few_scan_kernel<Tr>,
         {grid, F::threads, std::size_t(few_scan_layout<Tr>{tiles}.bytes), ctx.early()}, ctx.stream(), p);
}

}  // namespace dm2::cuda::detail
