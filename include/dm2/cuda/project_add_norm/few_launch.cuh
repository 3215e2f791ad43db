/// @file
/// Launching the two kernels between two cores that take few rows.
#pragma once

#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/project_add_norm/few.cuh>
#include <dm2/cuda/project_add_norm/few_project.cuh>
#include <dm2/cuda/rms_norm.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <cstddef>

namespace dm2::cuda::detail {

/// Whether there are kernels for these sizes in blocks of RowTiles tiles of 16 rows. K, N: 0 where there is no such product.
template <class T, int D, int K, int N, int U, int RowTiles>
inline constexpr bool few_possible = (K == 0 || few_add_traits<T, D, K, U, RowTiles>::possible) &&
                                     (N == 0 || few_project_traits<T, D, N, RowTiles>::possible);

/// The tiles of 16 rows of a block that do `count` rows: 1, with no more than two blocks of Tiny's size a multiprocessor, or
/// 4, which read the weights a quarter as often, with no more than one; 0: this is not for so many rows, or these sizes.
/// On an H100, Tiny's sizes, 197 rows 4.5 us for 8.0 through cuBLASLt, 394 rows 5.8 for 8.1, 788 rows 8.5 for 8.8 with 4
/// tiles, 3,152 rows 19.3 for 13.7; Small's 197 rows 9.3 for 10.0, 394 rows 17 for 11.
template <class T, int D, int K, int N, int U>
int few_row_tiles(device_properties const& device, std::size_t count) {
  auto const fits = [&](std::size_t rows, std::size_t splits, std::size_t each) {
    return (count + rows - 1) / rows * splits * D <= 192 * each * std::size_t(device.multiprocessors);
  };
  if (count == 0) return 0;
  if (few_possible<T, D, K, N, U, 1> && fits(16, 8, 2)) return 1;
  if (few_possible<T, D, K, N, U, 4> && fits(64, 4, 1)) return 4;
  return 0;
}

/// Whether every address is a multiple of what the kernels read or write there at once.
template <class T>
bool few_aligned(between_arguments<T> const& p) {
  auto const whole = [](auto const*... at) { return (packets_at<16 / int(sizeof(*at))>(at) && ...); };
  return whole(p.g, p.out, p.out_bias, p.before, p.after, p.norm, p.in, p.in_bias) && packets_at<4>(p.y);
}

/// The first kernel: p.after = p.before + g out^T + bias.
template <int D, int K, int U, int RowTiles, precision P>
void launch_few_add(context<P>& ctx, between_arguments<element<P>> const& p) {
  using Tr = few_add_traits<element<P>, D, K, U, RowTiles>;
  unsigned const tiles = unsigned((p.count - 1) / Tr::rows + 1);
  launch("project_add", few_add_kernel<Tr>, {dim3(D / Tr::columns, tiles), Tr::threads, Tr::bytes, ctx.early()},
         ctx.stream(), p);
}

/// The second kernel: y = RMSNorm(p.before) in^T + bias.
template <int D, int N, int RowTiles, precision P>
void launch_few_project(context<P>& ctx, between_arguments<element<P>> const& p) {
  using Tr = few_project_traits<element<P>, D, N, RowTiles>;
  unsigned const tiles = unsigned((p.count - 1) / Tr::rows + 1);
  launch("norm_project", few_project_kernel<Tr>,
         {dim3((N - 1) / Tr::columns + 1, tiles), Tr::threads, Tr::bytes, ctx.early()}, ctx.stream(), p);
}

template <int D, int K, int N, int U, int RowTiles, precision P>
void launch_few(context<P>& ctx, between_arguments<element<P>> p) {
  using T = element<P>;
  static_assert(few_possible<T, D, K, N, U, RowTiles>);
  if constexpr (K != 0) {
    launch_few_add<D, K, U, RowTiles>(ctx, p);
    p.before = p.after;
  }
  if constexpr (N != 0) {
    launch_few_project<D, N, RowTiles>(ctx, p);
  } else {
    std::size_t const count = std::size_t(p.count);
    rms_norm(ctx, rows<float const, D, space::device>{p.before, count}, block<float const, space::device, D>{p.norm},
             double(p.eps), rows<T, D, space::device>{p.y, count}, p.rstd);
  }
}

/// The kernels, where they are the ones to take, on this device and for so many rows; else false.
template <int D, int K, int N, int U, precision P>
bool between_few(context<P>& ctx, between_arguments<element<P>> const& p) {
  using T = element<P>;
  int const row_tiles = few_row_tiles<T, D, K, N, U>(ctx.device(), std::size_t(p.count));
  if (row_tiles == 0 || !few_aligned(p)) return false;
  if (!ctx.reserve(0)) return true;
  if constexpr (few_possible<T, D, K, N, U, 1>)
    if (row_tiles == 1) launch_few<D, K, N, U, 1>(ctx, p);
  if constexpr (few_possible<T, D, K, N, U, 4>)
    if (row_tiles == 4) launch_few<D, K, N, U, 4>(ctx, p);
  return true;
}

}  // namespace dm2::cuda::detail
