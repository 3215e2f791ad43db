/// @file
/// The two classifiers, of the class token and of the patches.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/heads/general.cuh>
#include <dm2/cuda/heads/tensor.cuh>
#include <dm2/cuda/sequences.cuh>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace dm2::cuda {
namespace detail {

/// Whether the tensor kernel has code for T and D channels: whole fragments, and weights that fit registers.
template <class T>
constexpr bool heads_fit(int dim) {
  return is_half<T> && dim % 16 == 0 && dim <= 512;
}

/// Warps that share classes: no more classes a block than there are, and blocks for the device where pictures are few.
template <class Tr>
int class_parts(device_properties const& device, int batch) {
  int parts = 1;
  auto const blocks = [&] { return std::int64_t{batch} * ((Tr::classes * parts - 1) / Tr::block_classes + 1); };
  while (parts < Tr::warps &&
         (Tr::block_classes / (2 * parts) >= Tr::classes || 2 * blocks() <= device.multiprocessors))
    parts *= 2;
  return parts;
}

template <class Tr>
void launch_heads(heads_call<Tr> call, device_properties const& device, cudaStream_t stream, bool early) {
  call.parts = class_parts<Tr>(device, call.batch);
  int const slices = (Tr::classes * call.parts - 1) / Tr::block_classes + 1;
  int const columns = std::min(call.batch, std::max(1, device.multiprocessors / slices));
  call.pictures = (call.batch - 1) / columns + 1;
  dim3 const grid(unsigned((call.batch - 1) / call.pictures + 1), unsigned(slices));
  launch("evaluation_heads", heads_kernel<Tr>, {grid, Tr::threads, Tr::bytes, early}, stream, call);
}

/// False where the device or an address does not allow the tensor kernel, and nothing was launched.
template <precision P, int K, int D>
bool evaluation_heads_tensor(context<P>& ctx, rows<element<P> const, D, space::device> features,
                             head_parameters<float const, K, D, space::device, element<P> const> const& p,
                             rows<float, K, space::device> logits, int length) {
  using T = element<P>;
  auto const aligned = [](T const* at) { return reinterpret_cast<std::uintptr_t>(at) % 16 == 0; };
  if (!aligned(features.data) || !aligned(p.cls.weight.data) || !aligned(p.aux.weight.data)) return false;
  auto const launch = [&]<class Tr>(Tr) {
    if (Tr::bytes > std::size_t(ctx.device().shared_per_block)) return false;
    if (!ctx.reserve(0)) return true;
    heads_call<Tr> const call{features.data,   p.cls.weight.data, p.aux.weight.data, p.cls.bias.data,
                              p.aux.bias.data, logits.data,       int(logits.count), length,
                              /*pictures=*/1,  /*parts=*/1};
    launch_heads(call, ctx.device(), ctx.stream(), ctx.early());
    return true;
  };
  return launch(heads_traits<T, K, D, 4>{}) || launch(heads_traits<T, K, D, 2>{});
}

}  // namespace detail

/// logits = head(class token) + max over patches of aux_head(patch) / 2
///
/// Shapes   features [B L, D], class token at (L - 1) / 2, at least one patch; logits [B, K].
/// Writes   logits (=). The patches' logits are not stored. Sums are float.
/// Stream   the context's; no synchronisation.
/// Throws   shape_error if the row counts disagree, or the length leaves no patch; nothing is written then.
template <precision P, int K, int D>
void evaluation_heads(context<P>& ctx, std::type_identity_t<rows<element<P> const, D, space::device>> features,
                      head_parameters<float const, K, D, space::device, element<P> const> const& p,
                      std::type_identity_t<rows<float, K, space::device>> logits, int length) {
  int const batch = detail::whole_sequences("evaluation_heads.features", features.count, length);
  if (length < 2) throw shape_error{"evaluation_heads.length: got 1, expected at least 2: the class token and a patch"};
  require_extent("evaluation_heads.logits rows", logits.count, std::size_t(batch));
  if (batch == 0) return;
  if constexpr (detail::heads_fit<element<P>>(D)) {
    if (detail::evaluation_heads_tensor(ctx, features, p, logits, length)) return;
  }
  detail::evaluation_heads_general(ctx, features, p, logits, length);
}

}  // namespace dm2::cuda
