/// @file
/// Groups of parameters that share a rate and a weight decay.
///
/// As PyTorch's parameter groups, made by timm's rules (timm.optim's param_groups_layer_decay), which have them from
/// BEiT (Bao et al. 2021, arXiv 2106.08254): deep layers learn more than early ones, and the heads most.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/optimizer_options.hpp>
#include <dm2/core/parameters.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dm2 {

/// What the parameters of a group have in common.
struct parameter_group {
  double scale = 1;  ///< of the learning rate
  double decay = 0;  ///< weight decay

  /// Of all members.
  [[nodiscard]] bool operator==(parameter_group const&) const = default;
};

namespace detail {

/// The roles by the words that name them.
inline constexpr std::array role_names{std::pair{std::string_view{"weight"}, parameter_role::weight},
                                       std::pair{std::string_view{"norm"}, parameter_role::norm},
                                       std::pair{std::string_view{"bias"}, parameter_role::bias},
                                       std::pair{std::string_view{"embedding"}, parameter_role::embedding},
                                       std::pair{std::string_view{"head"}, parameter_role::head},
                                       std::pair{std::string_view{"scan"}, parameter_role::scan}};

/// Whether `part` is one or more whole components of the name: "mixer.D" of "layers.3.mixer.D", not of "...mixer.D_b".
[[nodiscard]] inline bool has_components(std::string_view name, std::string_view part) {
  for (std::size_t at = name.find(part); at != name.npos && !part.empty(); at = name.find(part, at + 1)) {
    std::size_t const end = at + part.size();
    if ((at == 0 || name[at - 1] == '.') && (end == name.size() || name[end] == '.')) return true;
  }
  return false;
}

/// Whether a word of tuning_options::no_decay means this parameter.
[[nodiscard]] inline bool is_meant(std::string_view word, parameter_entry const& e) {
  if (word == "1d") return e.rank <= 1;
  for (auto const& [name, role] : role_names)
    if (word == name) return e.role == role;
  return has_components(e.name, word);
}

/// Consecutive parameters of one group.
struct update_run {
  std::size_t offset = 0, size = 0, group = 0;
};

}  // namespace detail

/// Which parameters of a model's table are moved, and in which groups.
class parameter_groups {
 public:
  /// The group of what is not moved.
  static constexpr std::size_t still = ~std::size_t{0};

  /// `table` is the model's, static. Throws std::invalid_argument naming the option that is out of range, or the word
  /// of no_decay that means no parameter.
  parameter_groups(std::span<parameter_entry const> table, optimizer_options const& options)
      : table_{table}, of_(table.size(), still) {
    int heads = 0;
    for (parameter_entry const& e : table) heads = std::max(heads, e.layer);
    require(options.tuning, heads);
    for (std::size_t i = 0; i < table.size(); ++i) {
      parameter_entry const& e = table[i];
      if (e.kind == entry_kind::parameter && e.layer >= options.tuning.frozen)
        of_[i] = number_of(group_for(e, options, heads));
    }
  }

  /// The groups, in the order of their first parameters.
  [[nodiscard]] std::span<parameter_group const> groups() const { return groups_; }
  /// The group of the table's entry number i, or still.
  [[nodiscard]] std::size_t of(std::size_t i) const { return of_[i]; }
  /// Whether the table's entry number i is moved.
  [[nodiscard]] bool moves(std::size_t i) const { return of_[i] != still; }
  /// Whether all that is moved is moved with the rate and the decay of the options.
  [[nodiscard]] bool uniform(optimizer_options const& options) const {
    return groups_.size() == 1 && groups_.front() == parameter_group{1, options.weight_decay};
  }

  /// Runs of parameters that lie together in one group, as long as possible, without those for which `left_out` is
  /// true. Padding inside a run is zero in every buffer and stays zero.
  template <class F>
  [[nodiscard]] std::vector<detail::update_run> runs(F const& left_out) const {
    std::vector<detail::update_run> out;
    bool open = false;
    for (std::size_t i = 0; i < table_.size(); ++i) {
      parameter_entry const& e = table_[i];
      if (e.kind == entry_kind::counter) continue;
      bool const wanted = moves(i) && !left_out(e);
      if (wanted && (!open || out.back().group != of_[i])) out.push_back({e.offset, 0, of_[i]});
      if (wanted) out.back().size = e.offset + e.size - out.back().offset;
      open = wanted;
    }
    return out;
  }

 private:
  void require(tuning_options const& o, int heads) const {
    using detail::require_option;
    require_option(o.frozen >= 0 && o.frozen <= heads, "optimizer: tuning.frozen", o.frozen,
                   ("0 to " + std::to_string(heads) + ", the heads' layer").c_str());
    require_option(o.layer_decay > 0 && o.layer_decay <= 1, "optimizer: tuning.layer_decay", o.layer_decay,
                   "above 0 and at most 1");
    require_option(o.head_scale > 0 && o.head_scale < HUGE_VAL, "optimizer: tuning.head_scale", o.head_scale,
                   "a number above 0");
    for (std::string const& word : o.no_decay)
      if (std::none_of(table_.begin(), table_.end(), [&](parameter_entry const& e) {
            return e.kind == entry_kind::parameter && detail::is_meant(word, e);
          }))
        throw std::invalid_argument{"optimizer: tuning.no_decay: '" + word +
                                    "' is neither 1d, norm, bias, embedding, head, scan or weight, nor (a part of) a "
                                    "parameter's name"};
  }
  static parameter_group group_for(parameter_entry const& e, optimizer_options const& o, int heads) {
    double scale = std::pow(o.tuning.layer_decay, double(heads - e.layer));
    if (e.layer == heads) scale *= o.tuning.head_scale;
    auto const& words = o.tuning.no_decay;
    bool const spared = std::any_of(words.begin(), words.end(), [&](auto const& w) { return detail::is_meant(w, e); });
    return {scale, spared ? 0 : o.weight_decay};
  }
  std::size_t number_of(parameter_group const& group) {
    auto const found = std::find(groups_.begin(), groups_.end(), group);
    if (found != groups_.end()) return std::size_t(found - groups_.begin());
    groups_.push_back(group);
    return groups_.size() - 1;
  }

  std::span<parameter_entry const> table_;
  std::vector<parameter_group> groups_;
  std::vector<std::size_t> of_;
};

}  // namespace dm2
