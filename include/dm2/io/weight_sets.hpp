/// @file
/// Two sets of weights in one file, trained and averaged: told apart and matched by name.
#pragma once

#include <dm2/io/tensor.hpp>
#include <dm2/io/tensor_names.hpp>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

namespace dm2 {

/// Which of a file's weights to read.
///
/// A file may hold two sets: the weights as the optimizer left them, and their running averages, which validation is
/// run on. docs/files.md lists where averages are looked for.
enum class weights {
  automatic,  ///< the averages where the file holds them, else the weights
  raw,        ///< the weights; an error where the file holds averages only
  ema         ///< the averages; an error where the file holds none
};

namespace detail {

/// Averages under the names of the weights that they are of.
struct matched_averages {
  std::vector<stored_tensor> tensors;  ///< one for each of the weights, in their order
  std::string problem;                 ///< why they are not that; empty where they are
  std::size_t matched = 0;             ///< averages that have the name of a weight
  std::vector<std::string> notices;
};

/// Finds each average's weight by name, less what wrappers put before it.
class average_matcher {
 public:
  average_matcher(std::vector<stored_tensor> const& raw, std::vector<stored_tensor> const& averages)
      : raw_{raw}, averages_{averages} {
    // Stable Diffusion's LitEma takes the dots out of names, MMCV makes them underscores: no buffer's name may have one
    auto const dotted = [](stored_tensor const& t) { return core_name(t.name).find('.') != std::string::npos; };
    flat_ = std::none_of(averages.begin(), averages.end(), dotted) && std::any_of(raw.begin(), raw.end(), dotted);
    if (!index(true)) index(false);
  }

  matched_averages operator()() const {
    matched_averages out;
    out.tensors = raw_;
    std::vector<bool> covered(raw_.size());
    std::string stranger, twice;
    for (stored_tensor const& average : averages_) {
      auto const found = by_key_.find(key(average.name, cores_));
      if (found == by_key_.end()) {
        bool const number = average.size() == 1, top = core_name(average.name).find('.') == std::string::npos;
        if (number && (is_average_bookkeeping(average.name) || (top && average.shape.empty()))) continue;
        if (stranger.empty()) stranger = average.name;
        continue;
      }
      ++out.matched;
      stored_tensor const& weight = raw_[found->second];
      if (covered[found->second]) twice = average.name;
      covered[found->second] = true;
      if (out.problem.empty()) out.problem = difference(weight, average);
      out.tensors[found->second] = average;
      out.tensors[found->second].name = weight.name;
    }
    if (out.problem.empty() && !twice.empty()) out.problem = "two of them are called '" + core_name(twice) + "'";
    if (out.problem.empty() && !stranger.empty()) out.problem = "'" + stranger + "' is no name of a weight";
    if (out.problem.empty()) out.problem = hole(covered, out.notices);
    return out;
  }

 private:
  [[nodiscard]] std::string key(std::string_view name, bool cores) const {
    std::string out = cores ? core_name(name) : unwrapped(name);
    if (flat_) std::erase_if(out, [](char c) { return c == '.' || c == '_'; });
    return out;
  }
  /// False where two weights have one key.
  bool index(bool cores) {
    cores_ = cores;
    by_key_.clear();
    by_key_.reserve(raw_.size());
    bool unique = true;
    for (std::size_t i = 0; i < raw_.size(); ++i)
      unique = by_key_.emplace(key(raw_[i].name, cores), i).second && unique;
    return unique;
  }
  [[nodiscard]] static std::string difference(stored_tensor const& weight, stored_tensor const& average) {
    if (average.shape == weight.shape && is_floating(average.type) == is_floating(weight.type)) return {};
    return "'" + weight.name + "' has shape " + shape_text(average.shape) + " of " +
           std::string{name_of(average.type)} + ", the weights have " + shape_text(weight.shape) + " of " +
           std::string{name_of(weight.type)};
  }
  /// Weights that lack an average, though others of their part of the program have one; integers and BatchNorm's do not
  /// count.
  [[nodiscard]] std::string hole(std::vector<bool> const& covered, std::vector<std::string>& notices) const {
    auto const part = [](std::string_view name) { return take_component(name); };
    std::unordered_set<std::string_view> parts;
    for (std::size_t i = 0; i < raw_.size(); ++i)
      if (covered[i]) parts.insert(part(raw_[i].name));
    for (std::size_t i = 0; i < raw_.size(); ++i) {
      if (covered[i] || !is_floating(raw_[i].type) || is_batch_statistic(raw_[i].name)) continue;
      if (parts.contains(part(raw_[i].name))) return "there is none of '" + raw_[i].name + "'";
      notices.push_back("'" + raw_[i].name + "' has no average: it is taken from the weights");
    }
    return {};
  }

  std::vector<stored_tensor> const &raw_, &averages_;
  std::unordered_map<std::string, std::size_t> by_key_;
  bool flat_ = false, cores_ = true;
};

/// One dict of tensors, taken apart.
struct weight_sets {
  std::vector<stored_tensor> raw;       ///< empty where only averages are there
  std::vector<stored_tensor> averages;  ///< under the weights' names where there are weights; empty: there are none
  std::string where;                    ///< prefix of the averages' names
  std::string problem;                  ///< why what the names call averages cannot be used; empty where it can
  std::vector<std::string> notices;
};

/// Whether the tensors are torch.optim.swa_utils.AveragedModel's: everything under "module.", but the count of updates.
[[nodiscard]] inline bool is_averaged_model(std::vector<stored_tensor> const& tensors) {
  bool counted = false, others = false;
  for (stored_tensor const& t : tensors) {
    if (t.name == "n_averaged")
      counted = true;
    else if (!t.name.starts_with("module."))
      return false;
    else
      others = true;
  }
  return counted && others;
}

/// Takes the bookkeeping of averages ("step", "initted": single numbers at the top) out of the tensors, with a notice.
inline void leave_out_bookkeeping(std::vector<stored_tensor>& tensors, std::vector<std::string>& notices) {
  auto const bookkeeping = [](stored_tensor const& t) {
    return t.name.find_first_of("./") == t.name.npos && is_average_bookkeeping(t.name) && t.size() == 1;
  };
  for (stored_tensor const& t : tensors)
    if (bookkeeping(t)) notices.push_back("'" + t.name + "' is the averages' bookkeeping and left out");
  std::erase_if(tensors, bookkeeping);
}

/// Takes the averages out of `tensors`: those whose names have a word for averages among their first components.
[[nodiscard]] inline std::vector<stored_tensor> take_averages(std::vector<stored_tensor>& tensors) {
  std::vector<stored_tensor> out;
  std::erase_if(tensors, [&](stored_tensor const& t) {
    if (after_average(t.name).empty()) return false;
    out.push_back(t);
    return true;
  });
  // ema-pytorch keeps both below one word: ema.online_model. and ema.ema_model.
  auto const inner = [](stored_tensor const& t) { return after_average(t.name).starts_with("ema_model."); };
  if (std::any_of(out.begin(), out.end(), inner)) std::erase_if(out, [&](stored_tensor const& t) { return !inner(t); });
  return out;
}

/// Takes a dict apart that holds averages beside the weights, under names such as "ema.head.weight" or
/// "model_ema.module.head.weight", or that holds averages only. A dict in which no such name has a weight's behind it
/// is left alone: layers may be called so.
[[nodiscard]] inline weight_sets split_by_name(std::vector<stored_tensor> tensors) {
  weight_sets out;
  auto const speaks = [](stored_tensor const& t) { return !after_average(t.name).empty(); };
  if (is_averaged_model(tensors)) {
    leave_out_bookkeeping(tensors, out.notices);
    for (stored_tensor& t : tensors) t.name.erase(0, std::string_view{"module."}.size());
    out.averages = std::move(tensors);
    out.where = "module.";
    return out;
  }
  if (std::none_of(tensors.begin(), tensors.end(), speaks)) {
    out.raw = std::move(tensors);
    return out;
  }
  std::vector<stored_tensor> weights = tensors, averages = take_averages(weights);
  leave_out_bookkeeping(weights, out.notices);
  std::string_view const first = averages.front().name;
  out.where = std::string{first.substr(0, first.size() - after_average(first).size())};
  if (weights.empty()) {
    for (stored_tensor& t : averages) t.name.erase(0, t.name.size() - after_average(t.name).size());
    out.averages = std::move(averages);
    return out;
  }
  matched_averages matched = average_matcher{weights, averages}();
  if (matched.matched == 0) return {std::move(tensors), {}, {}, {}, {}};
  out.raw = std::move(weights);
  out.averages = std::move(matched.tensors);
  out.problem = std::move(matched.problem);
  std::move(matched.notices.begin(), matched.notices.end(), std::back_inserter(out.notices));
  return out;
}

}  // namespace detail
}  // namespace dm2
