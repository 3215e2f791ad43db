/// @file
/// The parameter table of a configuration known only at run time.
#pragma once

#include <dm2/core/parameters.hpp>
#include <dm2/model/config.hpp>
#include <dm2/model/config_rules.hpp>
#include <dm2/model/layers.hpp>
#include <dm2/model/parameter_table.hpp>

#include <cstddef>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dm2 {
namespace detail {

/// Calls visit(number, layer, rows) for each layer, in the order of for_each_layer<C>; `layer` is parameter_entry's.
template <class Visit>
void for_each_layer_rows(config const& c, Visit const& visit) {
  mixer_shape const mixer = mixer_of(c);
  attention_shape const attention = attention_of(c);
  auto const outside = [&](int layer, auto const& rows) { visit(-1, layer, std::span<parameter_info const>{rows}); };
  auto const layer = [&](int i, auto const& rows) { visit(i, i + 1, std::span<parameter_info const>{rows}); };
  outside(0, token_rows(c, stem_of(c)));
  outside(0, stem_rows(c));
  outside(c.depth + 1, head_rows(c));
  for (int i = 0; i < c.depth; ++i) {
    if (!c.attn_layers.contains(i))
      layer(i, mixer_rows(c, mixer));
    else if (c.attn_d_conv == 0)
      layer(i, attention_rows<5>(c, attention));
    else
      layer(i, attention_rows<7>(c, attention));
    if (c.mlp_dim != 0) layer(i, mlp_rows(c));
  }
  outside(c.depth, final_rows(c));
}

}  // namespace detail

/// Every entry of a network's state, as parameter_table<C> has them for a constant C: names, shapes, kinds and places
/// are the same, in the same order.
///
///     dm2::model_table const table{told.configuration};
///     std::vector<float> state(table.state_extent());
///
/// The entries' names are the table's own, and live as long as it, wherever it is moved. Move-only; one that was moved
/// from has no entry.
class model_table {
 public:
  /// Throws std::invalid_argument with the sentence of the rule that the configuration breaks.
  explicit model_table(config const& c) : configuration_{c} {
    if (config_rule const* const rule = broken_rule(c)) throw std::invalid_argument{std::string{rule->sentence}};
    std::size_t count = 0;
    detail::for_each_layer_rows(c, [&](int, int, std::span<parameter_info const> rows) { count += rows.size(); });
    names_.reserve(count);  // the entries point into it
    entries_.reserve(count);
    detail::entry_placer place;
    detail::for_each_layer_rows(c, [&](int number, int layer, std::span<parameter_info const> rows) {
      for (parameter_info const& row : rows) {
        names_.push_back(detail::entry_name(number, row.name));
        entries_.push_back(place(names_.back().view(), row, layer));
      }
    });
    state_extent_ = place.extent();
  }
  model_table(model_table const&) = delete;
  model_table& operator=(model_table const&) = delete;
  /// The entries keep their places in memory.
  model_table(model_table&&) noexcept = default;
  /// As the constructor.
  model_table& operator=(model_table&&) noexcept = default;

  /// What the table is of.
  [[nodiscard]] config const& configuration() const noexcept { return configuration_; }
  /// As parameter_table<C>.
  [[nodiscard]] std::span<parameter_entry const> entries() const noexcept { return entries_; }
  /// As state_extent<C>: elements of a flat buffer for the state.
  [[nodiscard]] std::size_t state_extent() const noexcept { return state_extent_; }
  /// As parameter_count<C>: numbers that the published code counts as parameters.
  [[nodiscard]] std::size_t parameter_count() const noexcept { return detail::count_parameters(entries_); }
  /// As counter_count<C>.
  [[nodiscard]] std::size_t counter_count() const noexcept { return detail::count_counters(entries_); }

 private:
  config configuration_;
  std::vector<detail::name_buffer> names_;
  std::vector<parameter_entry> entries_;
  std::size_t state_extent_ = 0;
};

}  // namespace dm2
