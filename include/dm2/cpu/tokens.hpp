/// @file
/// Patches to tokens: the class token in the middle, the position embedding, and MixToken.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cpu/context.hpp>
#include <dm2/cpu/gemm.hpp>

#include <algorithm>
#include <cstddef>
#include <string>
#include <type_traits>

namespace dm2::cpu {

/// x = [patches before the middle, class token, the rest] + position embedding.
///
/// Shapes   grid [B (L - 1), D]; cls [1, 1, D]; pos [1, L, D]; x [B L, D]; the class token is token (L - 1) / 2.
/// Writes   x (=).
/// Throws   shape_error unless grid and x hold the same number of whole pictures.
template <class T, int D, int L>
void assemble_tokens(context<T>& ctx, std::type_identity_t<rows<T const, D>> grid,
                     block<T const, space::host, 1, 1, D> cls, block<T const, space::host, 1, L, D> pos,
                     std::type_identity_t<rows<T, D>> x) {
  int const batch = int(x.count / L);
  require_extent("assemble_tokens.x rows", x.count, std::size_t(batch) * L);
  require_extent("assemble_tokens.grid rows", grid.count, std::size_t(batch) * (L - 1));
  ctx.for_each(batch, [&](int b, arena&) {
    T const* patch = grid.data + std::ptrdiff_t{b} * (L - 1) * D;
    for (int t = 0; t < L; ++t) {
      bool const middle = t == (L - 1) / 2;
      array(x.data + (std::ptrdiff_t{b} * L + t) * D, D) =
          array(middle ? cls.data : patch, D) + array(pos.data + t * D, D);
      if (!middle) patch += D;
    }
  });
}

/// The gradient of assemble_tokens.
///
/// Shapes   as assemble_tokens.
/// Writes   dgrid (=); dcls, dpos (+=). dgrid does not overlap dx.
/// Throws   shape_error unless dgrid and dx hold the same number of whole pictures; nothing is written then.
template <class T, int D, int L>
void assemble_tokens_backward(context<T>& ctx, std::type_identity_t<rows<T const, D>> dx,
                              std::type_identity_t<rows<T, D>> dgrid, block<T, space::host, 1, 1, D> dcls,
                              block<T, space::host, 1, L, D> dpos) {
  int const batch = int(dx.count / L);
  require_extent("assemble_tokens_backward.dx rows", dx.count, std::size_t(batch) * L);
  require_extent("assemble_tokens_backward.dgrid rows", dgrid.count, std::size_t(batch) * (L - 1));
  ctx.for_each(L, [&](int t, arena&) {
    constexpr int middle = (L - 1) / 2;
    for (std::ptrdiff_t b = 0; b < batch; ++b) {
      auto const g = array(dx.data + (b * L + t) * D, D);
      array(dpos.data + t * D, D) += g;
      if (t == middle)
        array(dcls.data, D) += g;
      else
        array(dgrid.data + (b * (L - 1) + t - (t > middle ? 1 : 0)) * D, D) = g;
    }
  });
}

/// MixToken (Jiang et al. 2021, arXiv 2104.10858): inside the box, sample b and its partner B - 1 - b change places.
/// The same call mixes, mixes back, and is its own gradient.
///
/// Shapes   grid [B height width, C]. Writes grid, in place.
/// Throws   shape_error if grid's rows are not whole pictures or the box leaves the grid; nothing is written then.
template <class T, int C>
void mix_tokens(context<T>& ctx, rows<T, C> grid, int height, int width, mix_box box) {
  int const batch = require_mix_box(grid.count, height, width, box);
  if (box.area() == 0) return;
  std::ptrdiff_t const tokens = std::ptrdiff_t{height} * width;
  ctx.for_each(batch / 2, [&](int b, arena&) {
    for (int r = box.row0; r < box.row1; ++r) {
      std::ptrdiff_t const first = std::ptrdiff_t{r} * width + box.col0, n = std::ptrdiff_t{box.col1 - box.col0} * C;
      T* const one = grid.data + (b * tokens + first) * C;
      std::swap_ranges(one, one + n, grid.data + ((batch - 1 - b) * tokens + first) * C);
    }
  });
}

}  // namespace dm2::cpu
