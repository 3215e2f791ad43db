/// @file
/// The box of MixToken.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/random.hpp>

#include <algorithm>
#include <cmath>

namespace dm2 {

/// The box about (row, col) with sides sqrt(1 - lam) times the grid's.
///
/// The sides are truncated to whole patches, the box is clipped to the grid (Yun et al. 2019, CutMix, arXiv 1905.04899,
/// on patches). Throws std::invalid_argument unless lam is 0 to 1 and the grid has a patch.
[[nodiscard]] inline mix_box mix_box_at(int height, int width, double lam, int row, int col) {
  detail::require_option(height >= 1, "mix_box: the grid's height", height, "at least 1");
  detail::require_option(width >= 1, "mix_box: the grid's width", width, "at least 1");
  detail::require_option(lam >= 0 && lam <= 1, "mix_box: lam", lam, "0 to 1");
  double const side = std::sqrt(1 - lam);
  int const half_rows = int(height * side) / 2, half_cols = int(width * side) / 2;
  return {std::clamp(row - half_rows, 0, height), std::clamp(row + half_rows, 0, height),
          std::clamp(col - half_cols, 0, width), std::clamp(col + half_cols, 0, width)};
}

/// One box for a batch: lam from Beta(1, 1), which is uniform in [0, 1), and a patch as its centre.
[[nodiscard]] inline mix_box draw_mix_box(int height, int width, random_stream& random) {
  double const lam = random.uniform();
  int const row = int(random.below(std::uint32_t(height))), col = int(random.below(std::uint32_t(width)));
  return mix_box_at(height, width, lam, row, col);
}

}  // namespace dm2
