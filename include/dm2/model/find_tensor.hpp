/// @file
/// One tensor of the state, a gradient or an average, by name.
#pragma once

#include <dm2/core/parameters.hpp>

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dm2 {

/// A tensor inside a flat buffer, under its name in the published state dict.
template <class T>
struct named_tensor {
  std::string_view name;       ///< for example "layers.3.mixer.in_proj.weight"
  std::span<int const> shape;  ///< extents, the slowest axis first; none for a scalar
  std::span<T> values;         ///< in row-major order
};

namespace detail {

/// Letters to put in, take out or change until one is the other (Levenshtein); 0 where b holds a.
[[nodiscard]] inline std::size_t name_distance(std::string_view a, std::string_view b) {
  if (b.find(a) != b.npos) return 0;
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t corner = std::exchange(row[0], i + 1);
    for (std::size_t j = 0; j < b.size(); ++j) {
      std::size_t const changed = corner + (a[i] == b[j] ? 0 : 1);
      corner = row[j + 1];
      row[j + 1] = std::min({changed, corner + 1, row[j] + 1});
    }
  }
  return row.back();
}

/// The three entries whose names are nearest to a name that there is not.
[[nodiscard]] inline std::string near_names(std::span<parameter_entry const> table, std::string_view name) {
  std::vector<std::pair<std::size_t, std::string_view>> order;
  for (parameter_entry const& e : table) order.emplace_back(name_distance(name, e.name), e.name);
  auto const shown = order.begin() + std::ptrdiff_t(std::min<std::size_t>(3, order.size()));
  std::partial_sort(order.begin(), shown, order.end());
  std::string text;
  for (auto it = order.begin(); it != shown; ++it) text += (text.empty() ? "" : ", ") + std::string{it->second};
  return text;
}

}  // namespace detail

/// The tensor `name` of a buffer that is laid out as a model's state: find_tensor(net.table(), rule.momentum(),
/// "head.bias").
///
/// Returns  a view into the buffer, valid as long as it.
/// Throws   std::out_of_range, with the names that are nearest, where there is none; also for BatchNorm's step counts,
///          which are in model::counters().
template <class T>
[[nodiscard]] named_tensor<T> find_tensor(std::span<parameter_entry const> table, std::span<T> state,
                                          std::string_view name) {
  auto const found = std::find_if(table.begin(), table.end(), [&](parameter_entry const& e) { return e.name == name; });
  if (found == table.end())
    throw std::out_of_range{"no tensor is named \"" + std::string{name} +
                            "\"; near it: " + detail::near_names(table, name)};
  if (found->kind == entry_kind::counter)
    throw std::out_of_range{"\"" + std::string{name} + "\" is a step count: counters()[" +
                            std::to_string(found->offset) + "]"};
  return {found->name, std::span{found->shape}.first(std::size_t(found->rank)),
          state.subspan(found->offset, found->size)};
}

namespace detail {

/// The same among gradients, which only trained parameters have.
template <class T>
[[nodiscard]] named_tensor<T> find_gradient(std::span<parameter_entry const> table, std::span<T> gradients,
                                            std::string_view name) {
  for (parameter_entry const& e : table)
    if (e.name == name && e.kind != entry_kind::parameter)
      throw std::out_of_range{"\"" + std::string{name} + "\" is not trained, and has no gradient"};
  return find_tensor(table, gradients, name);
}

}  // namespace detail
}  // namespace dm2
