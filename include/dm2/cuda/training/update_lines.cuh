/// @file
/// Lines of 64 numbers that an optimizer moves, or leaves still.
#pragma once

#include <dm2/core/parameters.hpp>
#include <dm2/cuda/optimizer_step.cuh>
#include <dm2/model/parameter_table.hpp>
#include <dm2/train/optimizer.hpp>
#include <dm2/train/parameter_groups.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace dm2::cuda {

/// A code for each line of a model's state; it goes to the device once.
template <config C>
[[nodiscard]] std::vector<std::uint16_t> update_lines(optimizer_options const& rule) {
  static_assert(state_extent<C> % update_line::size == 0);
  std::vector<std::uint16_t> lines(state_extent<C> / update_line::size, update_line::still);
  parameter_groups const groups{parameter_table<C>, rule};
  for (std::size_t n = 0; n < parameter_table<C>.size(); ++n) {
    parameter_entry const& e = parameter_table<C>[n];
    if (!groups.moves(n)) continue;
    std::size_t const count = (e.size + update_line::size - 1) / update_line::size;
    std::uint16_t code = update_line::moved;
    if (rule.shared_pairs && dm2::detail::closes_pair(e.name)) code = update_line::second;
    if (rule.shared_pairs && dm2::detail::opens_pair(e.name)) {
      // the second is the next entry
      if (count > 0xffffu - update_line::pair) throw std::length_error{"dm2::cuda::update_lines: too many heads"};
      code = std::uint16_t(update_line::pair + count);
    }
    for (std::size_t i = 0; i < count; ++i) lines[e.offset / update_line::size + i] = code;
  }
  return lines;
}

/// The group of each line, 0 for what is not moved; empty where the groups are uniform, so that no line needs one.
template <config C>
[[nodiscard]] std::vector<std::uint8_t> line_groups(parameter_groups const& groups, optimizer_options const& rule) {
  static_assert(2 * (C.depth + 2) <= 256, "dm2::cuda::line_groups: a layer has at most two groups");
  std::vector<std::uint8_t> of;
  if (groups.uniform(rule)) return of;
  of.resize(state_extent<C> / update_line::size);
  for (std::size_t n = 0; n < parameter_table<C>.size(); ++n) {
    parameter_entry const& e = parameter_table<C>[n];
    std::size_t const first = e.offset / update_line::size;
    std::size_t const end = (e.offset + e.size + update_line::size - 1) / update_line::size;
    if (groups.moves(n))
      std::fill(of.begin() + std::ptrdiff_t(first), of.begin() + std::ptrdiff_t(end), std::uint8_t(groups.of(n)));
  }
  return of;
}

}  // namespace dm2::cuda
