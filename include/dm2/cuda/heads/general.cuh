/// @file
/// The classifiers, general form: any shape and precision.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/gemm.cuh>
#include <dm2/cuda/heads/patches.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <type_traits>

namespace dm2::cuda::detail::heads {

/// Logits of patches that are held at a time in evaluation: 16 MB, which stay in the L2 cache.
inline constexpr std::size_t head_tile_logits = std::size_t{4} << 20;

/// How evaluation is cut: `pictures` whole pictures at a time, or `tokens` tokens of one.
struct head_tiles {
  int pictures, tokens;

  head_tiles(int batch, int length, int classes) {
    std::size_t const most = std::max<std::size_t>(64, head_tile_logits / std::size_t(classes));
    tokens = int(std::min(std::size_t(length), most));
    pictures = tokens < length ? 1 : int(std::min(std::size_t(batch), most / std::size_t(length)));
  }
};

/// A tile of pictures' logits: `tokens` of their `length` tokens, from token t0 on.
struct logit_tile {
  int pictures, tokens, classes, t0, length;
};

/// best = the greatest logit of each class over the tile's patches, and over what is there already unless the tile is
/// the first; after the last tile, (best + bias) / 2. scores [pictures, tokens, classes]. A NaN stays.
template <class T>
__global__ void __launch_bounds__(256) best_logits_kernel(T const* scores, T const* bias, T* best, logit_tile tile) {
  auto const classes = std::size_t(tile.classes), at = std::size_t{blockIdx.x} * 256 + threadIdx.x;
  if (at >= std::size_t(tile.pictures) * classes) return;
  std::size_t const picture = at / classes, k = at % classes;
  T const* const column = scores + picture * std::size_t(tile.tokens) * classes + k;
  int const class_token = (tile.length - 1) / 2;
  T most = tile.t0 == 0 ? T(-INFINITY) : best[at];
#pragma unroll 8
  for (int t = 0; t < tile.tokens; ++t) {
    T const v = column[std::size_t(t) * classes];
    if (tile.t0 + t != class_token && !(most >= v || most != most)) most = v;
  }
  best[at] = tile.t0 + tile.tokens == tile.length ? (most + bias[k]) / 2 : most;
}

/// logits = head(class token) + max over patches of aux_head(patch) / 2
///
/// Shapes   features [B L, D], class token at (L - 1) / 2, at least one patch; logits [B, K].
/// Writes   logits (=). At most 16 MB of the patches' logits are held at a time, 64 patches at least.
/// Stream   the context's; no synchronisation.
/// Throws   shape_error if the row counts disagree, or the length leaves no patch; nothing is written then.
template <precision P, int K, int D>
void evaluation_heads_general(context<P>& ctx, std::type_identity_t<rows<element<P> const, D, space::device>> features,
                              head_parameters<float const, K, D, space::device, element<P> const> const& p,
                              std::type_identity_t<rows<float, K, space::device>> logits, int length) {
  using T = element<P>;
  int const batch = whole_sequences("evaluation_heads.features", features.count, length);
  if (length < 2) throw shape_error{"evaluation_heads.length: got 1, expected at least 2: the class token and a patch"};
  require_extent("evaluation_heads.logits rows", logits.count, std::size_t(batch));
  if (batch == 0) return;
  head_tiles const tile{batch, length, K};
  std::size_t const most = std::size_t(tile.pictures) * std::size_t(tile.tokens) * K;
  bool const run = ctx.reserve(most * sizeof(float) + arena::alignment);
  arena_scope const scope{ctx.shared()};
  float* const scores = ctx.shared().template take<float>(most);
  for (int b = 0; b < batch; b += tile.pictures)
    for (int t = 0; t < length; t += tile.tokens) {
      int const pictures = std::min(tile.pictures, batch - b), tokens = std::min(tile.tokens, length - t);
      std::size_t const row = std::size_t(b) * std::size_t(length) + std::size_t(t);
      std::size_t const n = std::size_t(pictures) * std::size_t(tokens);
      T const* const from = run ? features.data + row * D : nullptr;
      gemm<op::plain, op::transposed>(ctx, matrix<T const>{from, std::int64_t(n), D}, as_matrix(p.aux.weight),
                                      matrix<float>{scores, std::int64_t(n), K});
      if (!run) continue;
      launch("evaluation_heads: maximum", best_logits_kernel<float>, {blocks_for(std::size_t(pictures) * K, 256), 256},
             ctx.stream(), scores, p.aux.bias.data, logits.data + std::size_t(b) * K,
             logit_tile{.pictures = pictures, .tokens = tokens, .classes = K, .t0 = t, .length = length});
    }
  gemm<op::plain, op::transposed>(ctx, class_tokens(features, batch, length), as_matrix(p.cls.weight),
                                  as_matrix(logits), {logits.data, p.cls.bias.data});
}

}  // namespace dm2::cuda::detail::heads
