/// @file
/// A configuration's rules at run time: the first that a value breaks.
#pragma once

#include <dm2/model/config.hpp>
#include <dm2/model/config_rule_list.hpp>

#include <algorithm>
#include <cstddef>
#include <string_view>

namespace dm2 {

/// A rule that every configuration keeps: the sentence that the compiler says too, and the fields that it is about.
struct config_rule {
  std::string_view sentence;  ///< "dm2::config: eps must be positive"
  std::string_view fields;    ///< their names as in a file (config_json.hpp), a blank between two: "dim expand headdim"

  /// Whether the rule is about the field of that name.
  [[nodiscard]] constexpr bool is_about(std::string_view field) const {
    for (std::string_view rest = fields; !rest.empty();) {
      std::size_t const end = std::min(rest.find(' '), rest.size());
      if (rest.substr(0, end) == field) return true;
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    return false;
  }
};

namespace detail {
/// A rule as a row of the table.
#define DM2_RULE_ROW(condition, sentence, fields) config_rule{sentence, fields},
/// Every rule, in the order in which they are looked at.
inline constexpr config_rule config_rules[] = {DM2_CONFIG_RULES(DM2_RULE_ROW, unused)};
#undef DM2_RULE_ROW
}  // namespace detail

/// A rule at run time.
#define DM2_RULE_CHECK(condition, sentence, fields)       \
  if (!(condition)) return &detail::config_rules[number]; \
  ++number;

/// The first rule that the configuration breaks, null where it keeps them all: then sizes<C> of the same values
/// compiles. The fields may hold anything. The result points to a constant.
///
///     if (auto const* rule = dm2::broken_rule(mine)) throw std::invalid_argument{std::string{rule->sentence}};
[[nodiscard]] constexpr config_rule const* broken_rule(config const& c) {
  std::size_t number = 0;
  DM2_CONFIG_RULES(DM2_RULE_CHECK, c)
  return nullptr;
}
#undef DM2_RULE_CHECK

}  // namespace dm2
