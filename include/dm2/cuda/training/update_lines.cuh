/// @file
/// Which numbers of a model an optimizer moves, for each line of 64.
#pragma once

#include <dm2/core/parameters.hpp>
#include <dm2/cuda/optimizer_step.cuh>
#include <dm2/model/parameter_table.hpp>
#include <dm2/train/optimizer.hpp>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace dm2::cuda {

/// A code for each line of a model's state; it goes to the device once.
template <config C>
[[nodiscard]] std::vector<std::uint16_t> update_lines(bool shared_pairs) {
  static_assert(state_extent<C> % update_line::size == 0);
  std::vector<std::uint16_t> lines(state_extent<C> / update_line::size, update_line::still);
  for (parameter_entry const& e : parameter_table<C>) {
    if (e.kind != entry_kind::parameter) continue;
    std::size_t const count = (e.size + update_line::size - 1) / update_line::size;
    std::uint16_t code = update_line::moved;
    if (shared_pairs && dm2::detail::closes_pair(e.name)) code = update_line::second;
    if (shared_pairs && dm2::detail::opens_pair(e.name)) {
      // the second is the next entry
      if (count > 0xffffu - update_line::pair) throw std::length_error{"dm2::cuda::update_lines: too many heads"};
      code = std::uint16_t(update_line::pair + count);
    }
    for (std::size_t i = 0; i < count; ++i) lines[e.offset / update_line::size + i] = code;
  }
  return lines;
}

}  // namespace dm2::cuda
