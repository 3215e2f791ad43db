/// @file
/// Parameters as the GPU's inference reads them.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/memory.cuh>
#include <dm2/cuda/stem.cuh>
#include <dm2/model/blocks.hpp>
#include <dm2/model/config.hpp>
#include <dm2/model/network.hpp>
#include <dm2/model/parameter_table.hpp>

#include <array>
#include <cstddef>
#include <span>
#include <type_traits>

namespace dm2::cuda::detail {

/// merged [D, 2 I] = [forward | backward'] / 2, columns times the norms' weights: the mixer's output projection reads
/// rows that are normed but for these. backward' is backward reversed in both axes where Reverse.
template <class T, int D, int I, bool Reverse>
__global__ void __launch_bounds__(256)
    fold_mixer_kernel(float const* forward, float const* backward, float const* norm, float const* norm_b, T* merged) {
  int const i = int(blockIdx.x) * 256 + int(threadIdx.x);
  if (i >= D * 2 * I) return;
  int const row = i / (2 * I), column = i % (2 * I), k = column % I;
  bool const second = column >= I;
  int const from = second && Reverse ? (D - 1 - row) * I + I - 1 - k : row * I + k;
  int const w = second && Reverse ? I - 1 - k : k;
  merged[i] = from_float<T>(0.5f * (second ? backward : forward)[from] * (second ? norm_b : norm)[w]);
}

/// What inference reads: the state, a copy of it in the operands' type, each mixer's two output projections and norms
/// as one matrix, and the stem with BatchNorm folded in.
template <config C, precision P>
struct inference_weights {
  using T = element<P>;
  static constexpr int inner = sizes<C>::d_inner;

  float* state;
  T* operands;                     ///< state, rounded; in float the state itself
  std::array<T*, C.depth> merged;  ///< [dim, 2 d_inner]
  float* ones;                     ///< [d_inner], the norms' weights once they are in `merged`
  stem_weights<sizes<C>::stem, T> stem;

  explicit inference_weights(arena& a)
      : state{a.take<float>(state_extent<C>)},
        operands{std::is_same_v<T, float> ? nullptr : a.take<T>(state_extent<C>)},
        merged{},
        ones{a.take<float>(inner)},
        stem{a} {
    for (int i = 0; i < C.depth; ++i)
      if (!C.attn_layers.contains(i)) merged[std::size_t(i)] = a.take<T>(std::size_t(C.dim) * 2 * inner);
  }

  [[nodiscard]] network_view<C, float const, space::device> view() const {
    return network_view<C, float const, space::device>{state};
  }

  /// From now on the context's products read these matrices.
  void use(context<P>& ctx) const { ctx.set_copies(state, operands); }

  /// From the state on the host. Waits until the device has it.
  void fill(context<P>& ctx, std::span<float const> host) const {
    check(cudaMemcpyAsync(state, host.data(), host.size() * sizeof(float), cudaMemcpyHostToDevice, ctx.stream()),
          "weights: copy");
    if constexpr (!std::is_same_v<T, float>) round(ctx, state, host.size(), operands);
    std::array<float, inner> one;
    one.fill(1.f);
    check(cudaMemcpyAsync(ones, one.data(), sizeof(one), cudaMemcpyHostToDevice, ctx.stream()), "weights: copy");
    for (int i = 0; i < C.depth; ++i)
      if (!C.attn_layers.contains(i)) fold(ctx, i);
    prepare_stem(ctx, dm2::detail::stem_operands(view()), dm2::detail::stem_running(view()), stem);
    check(cudaStreamSynchronize(ctx.stream()), "weights");
  }

 private:
  void fold(context<P>& ctx, int i) const {
    using layer = mixer_layer<C>;
    auto const p = view().mixer(i);
    constexpr int n = C.dim * 2 * inner;
    constexpr bool reverse = C.variant == mixer_variant::published;
    launch("weights: fold", fold_mixer_kernel<T, C.dim, inner, reverse>, {unsigned((n + 255) / 256), 256}, ctx.stream(),
           get<layer::out_proj>(p).data, get<layer::out_proj_b>(p).data, get<layer::norm>(p).data,
           get<layer::norm_b>(p).data, merged[std::size_t(i)]);
  }
};

}  // namespace dm2::cuda::detail
