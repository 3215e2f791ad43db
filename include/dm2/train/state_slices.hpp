/// @file
/// Which process moves which numbers of a model's state.
#pragma once

#include <dm2/core/parameters.hpp>
#include <dm2/model/parameter_table.hpp>

#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace dm2 {
namespace detail {

/// Whether an entry is the first of a pair that the published run keeps in one memory; its partner is the next entry.
constexpr bool opens_pair(std::string_view name) { return name.ends_with(".dt_bias") || name.ends_with(".A_log"); }
constexpr bool closes_pair(std::string_view name) { return name.ends_with(".dt_bias_b") || name.ends_with(".A_log_b"); }

}  // namespace detail

/// Consecutive numbers of a flat buffer that is laid out as a model's state.
struct state_slice {
  std::size_t first = 0;  ///< element
  std::size_t end = 0;    ///< one beyond the last element

  /// Elements.
  [[nodiscard]] constexpr std::size_t size() const { return end - first; }
  /// Whether an entry of the table lies in it. Entries lie in one slice as a whole.
  [[nodiscard]] constexpr bool holds(parameter_entry const& e) const {
    return e.kind != entry_kind::counter && e.offset >= first && e.offset < end;
  }
};

/// The slice of a process alone.
template <config C>
inline constexpr state_slice whole_state{0, state_extent<C>};

/// The whole state as one slice for each of `processes`, in order, of about equal sizes.
///
/// A slice begins with a tensor, and never with the second of a pair that the optimizer may move together
/// (optimizer_options::shared_pairs). With more processes than tensors some slices are empty.
/// Throws std::invalid_argument where `processes` is below 1.
template <config C>
[[nodiscard]] std::vector<state_slice> cut_state(int processes) {
  if (processes < 1)
    throw std::invalid_argument{"cut_state: got " + std::to_string(processes) + " processes, expected at least 1"};
  std::size_t const count = std::size_t(processes);
  std::vector<state_slice> slices(count);
  std::size_t next = 0;  // the slice that the next boundary ends
  auto const wanted = [&](std::size_t slice) { return state_extent<C> / count * (slice + 1); };
  for (parameter_entry const& e : parameter_table<C>) {
    if (e.kind == entry_kind::counter || detail::closes_pair(e.name)) continue;
    for (; next + 1 < count && e.offset >= wanted(next); ++next) slices[next].end = slices[next + 1].first = e.offset;
  }
  for (; next + 1 < count; ++next) slices[next].end = slices[next + 1].first = state_extent<C>;
  slices.back().end = state_extent<C>;
  return slices;
}

}  // namespace dm2
