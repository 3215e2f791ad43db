/// @file
/// Where a torch file keeps running averages apart from the weights.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/pickle/value.hpp>
#include <dm2/io/tensor.hpp>
#include <dm2/io/tensor_names.hpp>
#include <dm2/io/torch_file.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

namespace dm2::detail {

/// A value that may be averages: a dict or a list of tensors, or something that only its key calls so.
struct averages_source {
  std::string where;  ///< "callbacks/EMA/ema_weights"
  pickle_value value;
  std::optional<std::int64_t> steps;  ///< how often was averaged, where the file says it
  std::string problem;                ///< why it cannot be read; empty where it can
};

/// Whether a dict, list or tuple has a tensor among its elements.
[[nodiscard]] inline bool holds_tensor(pickle_value v) {
  bool const dict = v.is(pickle_kind::dict);
  if (!dict && !v.is_sequence()) return false;
  for (std::size_t i = 0; i < v.size(); ++i)
    if (torch_file::is_tensor(dict ? v.item(i).second : v[i])) return true;
  return false;
}

/// An integer, or a tensor of one, as a count.
[[nodiscard]] inline std::optional<std::int64_t> as_count(torch_file const& file, pickle_value v) {
  if (auto const plain = v.as_integer()) return plain;
  if (!torch_file::is_tensor(v)) return std::nullopt;
  stored_tensor const t = file.tensor(v, "n_averaged");
  if (t.size() != 1 || is_floating(t.type)) return std::nullopt;
  return to_vector<std::int64_t>(t)[0];
}

/// The beginning of a key, for words and messages: many keys may share one long text.
[[nodiscard]] inline std::string_view short_key(pickle_value key) noexcept { return key.raw().substr(0, 200); }

/// How often a container's averages were updated: its `n_averaged`, of which 0 says that they mean nothing yet.
[[nodiscard]] inline std::optional<std::int64_t> steps_in(torch_file const& file, pickle_value container) {
  auto const count = container.find("n_averaged");
  return count ? as_count(file, *count) : std::nullopt;
}

/// Looks through a checkpoint's dict for averages. Each value is looked at once, however often it is referred to.
class averages_finder {
 public:
  /// `weights` are what the averages would be of: a dict in `root`, or `root` itself.
  averages_finder(torch_file const& file, pickle_value root, pickle_value weights)
      : file_{file}, root_{root}, weights_{weights} {
    for (std::size_t i = 0; i < weights_.size(); ++i)
      if (auto const [key, value] = weights_.item(i); key.as_text() && torch_file::is_tensor(value))
        names_.insert(core_name(short_key(key)));
    seen_.insert(weights_.number());
  }

  std::vector<averages_source> operator()() {
    look_through(root_, "");
    return std::move(found_);
  }

 private:
  bool first_look(pickle_value v) { return seen_.insert(v.number()).second; }
  /// Adds to a list, which has an end: a set takes 15 bytes of a file, and where it is said to be up to 600.
  void add(averages_source source, std::vector<averages_source>& to) const {
    if (to.size() == most_sources)
      throw file_error{file_.path(), "holds more than " + std::to_string(most_sources) + " sets that may be averages"};
    to.push_back(std::move(source));
  }

  /// The entries of a dict, `front` before their keys; of the dict in it that the weights are in, too.
  void look_through(pickle_value dict, std::string const& front) {
    for (std::size_t i = 0; i < dict.size(); ++i) {
      auto const [key, value] = dict.item(i);
      if (!key.as_text() || is_other_state(short_key(key))) continue;
      std::string const where = front + std::string{short_key(key)};
      if (key.raw() == "callbacks")
        look_through_callbacks(value);
      else if (speaks_of_average(short_key(key)) && !torch_file::is_tensor(value))
        look_at(value, where);
      else if (!first_look(value))
        continue;
      else if (is_twin(value))
        add({where, value, std::nullopt, "what it holds is not known"}, found_);
      else if (front.empty() && holds_weights_dict(value))
        look_through(value, where + "/");
    }
  }
  [[nodiscard]] bool holds_weights_dict(pickle_value v) const {
    for (std::size_t i = 0; v.is(pickle_kind::dict) && i < v.size(); ++i)
      if (v.item(i).second.number() == weights_.number()) return true;
    return false;
  }

  void look_through_callbacks(pickle_value callbacks) {
    if (!callbacks.is(pickle_kind::dict)) return;
    for (std::size_t i = 0; i < callbacks.size(); ++i) {
      auto const [key, state] = callbacks.item(i);
      if (!key.as_text() || !first_look(state)) continue;
      std::string const where = "callbacks/" + std::string{short_key(key)};
      if (speaks_of_average(short_key(key)) && holds_weights(state))
        add({where, state, steps_in(file_, state), {}}, found_);
      else
        look_inside(state, where, speaks_of_average(short_key(key)));
    }
  }

  /// A value under a key that speaks of averages.
  void look_at(pickle_value v, std::string const& where) {
    if (!first_look(v)) return;
    if (holds_weights(v))
      add({where, v, steps_in(file_, v), {}}, found_);
    else if (v.is(pickle_kind::refused) && !is_plain_object(v))
      add({where, v, std::nullopt, "it is " + v.describe()}, found_);
    else
      look_inside(v, where, true);
  }

  /// A dict of anything: those of its entries that hold tensors and speak of averages, or where `all` is set and none
  /// speaks of them, those that hold tensors.
  void look_inside(pickle_value container, std::string const& where, bool all) {
    if (!container.is(pickle_kind::dict)) return;
    std::vector<averages_source> speaking, others;
    for (std::size_t i = 0; i < container.size(); ++i) {
      auto const [key, value] = container.item(i);
      if (!key.as_text() || torch_file::is_tensor(value)) continue;
      bool const speaks = speaks_of_average(short_key(key));
      std::string const inner = where + "/" + std::string{short_key(key)};
      if (speaks && value.is(pickle_kind::refused) && !is_plain_object(value))
        add({inner, value, std::nullopt, "it is " + value.describe()}, speaking);
      else if ((speaks || all) && first_look(value) && (is_list_of_weights(key, value) || holds_weights(value)))
        add({inner, value, steps_in(file_, container), {}}, speaks ? speaking : others);
    }
    auto& chosen = speaking.empty() ? others : speaking;
    for (averages_source& s : chosen) add(std::move(s), found_);
  }

  /// Whether a dict or list has a tensor of a weight's name, or one that is more than a single number: scores and
  /// counts are none.
  [[nodiscard]] bool holds_weights(pickle_value v) const {
    bool const dict = v.is(pickle_kind::dict);
    for (std::size_t i = 0; i < v.size(); ++i) {
      pickle_value const value = dict ? v.item(i).second : v.is_sequence() ? v[i] : v;
      if (!torch_file::is_tensor(value)) continue;
      bool const named = dict && v.item(i).first.as_text() && names_.contains(core_name(short_key(v.item(i).first)));
      if (named || (!dict && v.size() == weights_.size()) || file_.tensor(value, "0").size() > 1) return true;
    }
    return false;
  }

  /// Whether a list has the name that is given to averages in the order of the weights.
  [[nodiscard]] static bool is_list_of_weights(pickle_value key, pickle_value value) {
    return value.is_sequence() && (key.raw() == "ema_weights" || key.raw() == "shadow_params") && holds_tensor(value);
  }

  /// Whether an object that is not read is of a kind that holds no weights: a path, a date, a number.
  [[nodiscard]] static bool is_plain_object(pickle_value v) {
    constexpr std::array<std::string_view, 6> modules{"pathlib",  "numpy",       "datetime",
                                                      "builtins", "__builtin__", "collections"};
    std::string const name = v.global_name();
    return is_one_of(std::string_view{name}.substr(0, name.find_first_of(". ")), modules);
  }

  /// Whether a dict has a tensor under every name of the weights.
  [[nodiscard]] bool is_twin(pickle_value other) const {
    if (!other.is(pickle_kind::dict) || names_.empty() || other.size() < names_.size()) return false;
    std::size_t same = 0;
    for (std::size_t i = 0; i < other.size(); ++i)
      if (auto const [key, value] = other.item(i); key.as_text() && torch_file::is_tensor(value))
        same += names_.contains(core_name(short_key(key))) ? 1 : 0;
    return same >= names_.size();
  }

  static constexpr std::size_t most_sources = 1000;

  torch_file const& file_;
  pickle_value root_, weights_;
  std::unordered_set<std::string> names_;  // of the weights
  std::unordered_set<std::uint32_t> seen_;
  std::vector<averages_source> found_;
};

}  // namespace dm2::detail
