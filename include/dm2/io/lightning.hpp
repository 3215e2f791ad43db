/// @file
/// Which tensors a torch file offers: a checkpoint's weights or their running averages, or whatever tensors were saved.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/bytes.hpp>
#include <dm2/io/pickle/json.hpp>
#include <dm2/io/tensor.hpp>
#include <dm2/io/tensor_names.hpp>
#include <dm2/io/torch_averages.hpp>
#include <dm2/io/torch_file.hpp>
#include <dm2/io/weight_sets.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

namespace dm2 {

/// A torch file's tensors.
struct torch_content {
  std::vector<stored_tensor> tensors;  ///< In the file's order.
  nlohmann::json hyper_parameters;     ///< Lightning's `hyper_parameters`; null where there are none.
  bool lightning = false;              ///< Whether it is a Lightning checkpoint.
  bool averaged = false;               ///< Whether the tensors are the running averages.
  std::vector<std::string> notices;    ///< Parts left out or not understood, a line each.
};

namespace detail {

/// The keys under which programs keep a state dict, the likeliest first.
inline constexpr std::array<std::string_view, 9> state_dict_keys{
    "state_dict", "model", "model_state_dict", "model_state", "module", "net", "network", "weights", "params"};

class torch_content_reader {
 public:
  explicit torch_content_reader(torch_file const& file) : file_{file} {}

  torch_content operator()(weights which) {
    pickle_value const root = file_.root();
    out_.lightning = root.find("state_dict") && root.find("pytorch-lightning_version");
    read_hyper_parameters(root);
    if (!root.is(pickle_kind::dict)) {
      out_.tensors = plain(root);
      choose(split_by_name(std::move(out_.tensors)), "the file", which);
    } else if (auto const raw = root.find("current_model_state"), state = root.find("state_dict"); raw && state) {
      choose_averaging_callback(root, *raw, *state, which);
    } else {
      choose_of_dict(root, which);
    }
    if (out_.tensors.empty()) fail("holds no tensor");
    return std::move(out_);
  }

 private:
  [[noreturn]] void fail(std::string const& reason) const { throw file_error{file_.path(), reason}; }

  void read_hyper_parameters(pickle_value root) {
    auto const found = root.find("hyper_parameters");
    if (!found) return;
    try {
      out_.hyper_parameters = pickle_as_json(*found, file_.path(), 8 * file_.pickle_size() + 4096);
    } catch (file_error const& problem) {  // they only say more of what the tensors say
      std::string const why = problem.what(), front = file_.path().string() + ": ";
      out_.notices.push_back("hyper_parameters are left out: " + why.substr(front.size()));
    }
  }

  // --- which set

  /// Lightning's WeightAveraging: state_dict holds the averages once there are any, current_model_state the weights.
  void choose_averaging_callback(pickle_value root, pickle_value raw, pickle_value state, weights which) {
    auto const averaging = root.find("averaging_state");
    auto const steps = averaging ? steps_in(file_, *averaging) : std::nullopt;
    bool const begun = steps.value_or(1) != 0;
    if (which == weights::ema && !begun) fail("holds no EMA weights: averaging has not begun (n_averaged is 0)");
    if (!begun) out_.notices.push_back("averaging has not begun (n_averaged is 0): the weights are read");
    out_.averaged = which != weights::raw && begun;
    out_.tensors = out_.averaged ? named(state, "state_dict") : named(raw, "current_model_state");
  }

  void choose_of_dict(pickle_value root, weights which) {
    auto const primary = find_primary(root);
    std::string const where = primary ? "'" + primary->where + "'" : "the file's dict";
    weight_sets sets;
    if (primary)
      sets = split_by_name(named(primary->value, primary->where));
    else if (holds_tensor(root))
      sets = split_by_name(named(root, "the file's dict"));
    std::vector<averages_source> sources = averages_finder{file_, root, primary ? primary->value : root}();
    if (sources.empty() && sets.raw.empty() && sets.averages.empty()) fail(no_tensors_text(root));
    if (sources.empty()) return choose(std::move(sets), where, which);
    if (!sets.averages.empty()) sources.push_back({"'" + sets.where + "...' in " + where, root, {}, {}});
    choose_source(std::move(sets), where, std::move(sources), which);
  }

  /// Takes the weights or the averages of one dict.
  void choose(weight_sets sets, std::string const& where, weights which) {
    std::move(sets.notices.begin(), sets.notices.end(), std::back_inserter(out_.notices));
    if (which == weights::raw || sets.averages.empty()) {
      if (which == weights::ema) fail("holds no EMA weights (no averages are found in " + where + " or beside it)");
      if (sets.raw.empty() && !sets.averages.empty()) fail("holds averaged weights only, in " + where);
      if (!sets.problem.empty()) out_.notices.push_back("'" + sets.where + "...' is left out: " + sets.problem);
      out_.tensors = std::move(sets.raw);
      return;
    }
    if (!sets.problem.empty()) fail(not_understood("'" + sets.where + "...' in " + where, sets.problem, where));
    out_.tensors = std::move(sets.averages);
    out_.averaged = true;
  }

  [[nodiscard]] static std::string not_understood(std::string const& what, std::string const& why,
                                                  std::string const& where) {
    return "holds a second set of weights, " + what + ", that cannot be used as averages: " + why +
           "; the raw weights (--raw), in " + where + ", can be read";
  }

  /// Takes the weights, or the averages that are kept apart from them.
  void choose_source(weight_sets sets, std::string const& where, std::vector<averages_source> sources, weights which) {
    prefer_published(sources);
    if (which == weights::raw) {
      if (sets.raw.empty()) fail("holds averaged weights only, in '" + sources.front().where + "'");
      for (averages_source const& s : sources)
        if (!s.problem.empty()) out_.notices.push_back("'" + s.where + "' is left out: " + s.problem);
      out_.tensors = std::move(sets.raw);
      return;
    }
    std::erase_if(sources, [&](averages_source const& s) {
      if (s.steps.value_or(1) != 0) return false;
      out_.notices.push_back("'" + s.where + "' is left out: averaging has not begun (0 steps)");
      return true;
    });
    if (sources.empty()) return choose({std::move(sets.raw), {}, {}, {}, {}}, where, which);
    if (sources.size() > 1) {
      fail("holds several sets that may be averages: " + places(sources) + "; the raw weights (--raw), in " + where +
           ", can be read");
    }
    averages_source const& source = sources.front();
    if (!source.problem.empty()) fail(not_understood("'" + source.where + "'", source.problem, where));
    matched_averages matched = match(sets.raw, source);
    if (!matched.problem.empty()) fail(not_understood("'" + source.where + "'", matched.problem, where));
    std::move(matched.notices.begin(), matched.notices.end(), std::back_inserter(out_.notices));
    out_.tensors = std::move(matched.tensors);
    out_.averaged = true;
  }

  /// "'one', 'another'": where the first ten are, and how many more there are.
  [[nodiscard]] static std::string places(std::vector<averages_source> const& sources) {
    std::size_t const told = std::min<std::size_t>(sources.size(), 10);
    std::string all;
    for (std::size_t i = 0; i < told; ++i) all += (i == 0 ? "'" : ", '") + sources[i].where + "'";
    if (told < sources.size()) all += ", and " + std::to_string(sources.size() - told) + " more";
    return all;
  }

  /// The published callback is called EMA: its list counts where other callbacks have one too.
  static void prefer_published(std::vector<averages_source>& sources) {
    auto const published = [](averages_source const& s) { return s.where == "callbacks/EMA/ema_weights"; };
    if (std::any_of(sources.begin(), sources.end(), published))
      std::erase_if(sources, [&](averages_source const& s) { return !published(s); });
  }

  [[nodiscard]] matched_averages match(std::vector<stored_tensor> const& raw, averages_source const& source) {
    if (source.value.is_sequence()) return in_order(raw, source.value, source.where);
    weight_sets inner = split_by_name(named(source.value, source.where));
    std::vector<stored_tensor> averages = std::move(inner.averages.empty() ? inner.raw : inner.averages);
    if (!raw.empty()) return average_matcher{raw, averages}();
    leave_out_bookkeeping(averages, inner.notices);
    return {std::move(averages), inner.problem, 0, std::move(inner.notices)};
  }

  /// A list of averages under the weights' names. It has one tensor an entry (integer entries too, as the published
  /// callback writes it), or one a floating-point entry, or one a parameter; the weights' own complete it.
  [[nodiscard]] matched_averages in_order(std::vector<stored_tensor> const& raw, pickle_value list,
                                          std::string const& where) {
    std::string const name = where.substr(where.find_last_of('/') + 1);
    auto const all = [](stored_tensor const&) { return true; };
    auto const floating = [](stored_tensor const& t) { return is_floating(t.type); };
    auto const trained = [](stored_tensor const& t) { return is_floating(t.type) && !is_batch_statistic(t.name); };
    auto const count = [&](auto const& of) { return std::size_t(std::count_if(raw.begin(), raw.end(), of)); };
    if (list.size() == raw.size()) return in_order(raw, list, name, all);
    if (list.size() == count(floating)) return in_order(raw, list, name, floating);
    if (list.size() == count(trained)) return in_order(raw, list, name, trained);
    matched_averages out;
    out.problem = name + " has " + std::to_string(list.size()) + " tensors, the state dict has " +
                  std::to_string(raw.size()) + " (" + std::to_string(count(floating)) + " of them floating-point)";
    return out;
  }
  template <class Of>
  [[nodiscard]] matched_averages in_order(std::vector<stored_tensor> const& raw, pickle_value list,
                                          std::string const& name, Of const& of) {
    matched_averages out;
    out.tensors = raw;
    std::size_t next = 0;
    for (stored_tensor& t : out.tensors) {
      if (!of(t)) continue;
      stored_tensor average = take(list[next++], t.name);
      if (average.shape != t.shape || is_floating(average.type) != is_floating(t.type)) {
        out.problem = name + ": '" + t.name + "' has shape " + shape_text(average.shape) + " of " +
                      std::string{name_of(average.type)} + ", the state dict " + shape_text(t.shape) + " of " +
                      std::string{name_of(t.type)};
        return out;
      }
      t = std::move(average);
    }
    return out;
  }

  // --- dicts of tensors

  /// The tensor of a value. Throws file_error where the file names far more tensors than it has room for: a reference
  /// to a tensor takes two bytes, and what is made of it 400.
  [[nodiscard]] stored_tensor take(pickle_value v, std::string name) {
    if (++taken_ > 1000 + file_.pickle_size() / 16)
      fail("names more than " + std::to_string(taken_ - 1) + " tensors, too many for a pickle of " +
           std::to_string(file_.pickle_size()) + " bytes");
    return file_.tensor(v, std::move(name));
  }

  /// The weights: under the first of state_dict_keys that has tensors, else the only dict of tensors in the file's
  /// dict, or in one of its dicts, that is neither an optimizer's nor called after averages.
  [[nodiscard]] std::optional<averages_source> find_primary(pickle_value root) const {
    if (auto const state = root.find("state_dict")) return averages_source{"state_dict", *state, {}, {}};
    for (std::string_view const key : state_dict_keys)
      if (auto const value = root.find(key); value && holds_tensor(*value))
        return averages_source{std::string{key}, *value, {}, {}};
    if (holds_tensor(root)) return std::nullopt;
    std::vector<averages_source> found;
    std::unordered_set<std::uint32_t> seen;
    look_for_weights(root, "", seen, found);
    if (found.size() < 2) return found.empty() ? std::nullopt : std::optional{found.front()};
    fail("holds tensors under " + places(found) + ", and does not say which are the weights");
  }
  static void look_for_weights(pickle_value dict, std::string const& where, std::unordered_set<std::uint32_t>& seen,
                               std::vector<averages_source>& found) {
    for (std::size_t i = 0; i < dict.size() && found.size() < 10; ++i) {
      auto const [key, value] = dict.item(i);
      if (!key.as_text() || !value.is(pickle_kind::dict) || !seen.insert(value.number()).second) continue;
      std::string_view const name = short_key(key);
      if (is_other_state(name) || name == "callbacks" || speaks_of_average(name)) continue;
      if (holds_tensor(value))
        found.push_back({where + std::string{name}, value, {}, {}});
      else if (where.empty())
        look_for_weights(value, std::string{name} + "/", seen, found);
    }
  }

  /// Why a dict without tensors offers none: its contents.
  [[nodiscard]] static std::string no_tensors_text(pickle_value root) {
    std::string text = "holds no tensor";
    bool object = false;
    for (std::size_t i = 0; i < root.size() && i < 4; ++i) {
      auto const [key, value] = root.item(i);
      text += (i == 0 ? ": " : ", ") + (key.as_text() ? "'" + std::string{short_key(key)} + "'" : key.describe()) +
              " is " + value.describe();
      object = object || value.is(pickle_kind::refused);
    }
    if (root.size() > 4) text += ", and " + std::to_string(root.size() - 4) + " more entries";
    return text + (object ? "; objects of programs are not read, a module's state_dict() is" : "");
  }

  /// A dict of tensors by name. Plain values between them, such as a step or a module's extra state, are left out with
  /// a notice; what may be a tensor of an unknown kind is an error.
  std::vector<stored_tensor> named(pickle_value dict, std::string_view what) {
    if (!dict.is(pickle_kind::dict)) fail(std::string{what} + " is " + dict.describe() + ", not a dict of tensors");
    std::unordered_set<std::string_view> seen;
    std::vector<stored_tensor> out;
    out.reserve(dict.size());  // in the file, each entry takes 4 bytes or more
    for (std::size_t i = 0; i < dict.size(); ++i) {
      auto const [key, value] = dict.item(i);
      bool const tensor = torch_file::is_tensor(value);
      if (!tensor && is_aside(key, value)) {
        if (out_.notices.size() < 100) out_.notices.push_back(aside_text(key, value, what));
        continue;
      }
      if (!key.as_text() || key.raw().size() > max_tensor_name || !is_utf8(key.raw()))
        fail(std::string{what} + " has " + key.describe() + " as a name");
      if (!seen.insert(key.raw()).second) fail(std::string{what} + " names '" + std::string{key.raw()} + "' twice");
      if (auto const elements = torch_file::foreign_elements(value); elements && dict.size() > 1) {
        if (out_.notices.size() < 100)
          out_.notices.push_back("'" + std::string{short_key(key)} + "' has elements of " + *elements +
                                 ", and is left out");
        continue;
      }
      out.push_back(take(value, std::string{key.raw()}));
    }
    if (out.empty()) fail(std::string{what} + " holds no tensor");
    return out;
  }
  /// Whether a value that is no tensor may be passed over: a plain one, or a module's extra state, whatever that is.
  [[nodiscard]] bool is_aside(pickle_value key, pickle_value value) {
    if (key.as_text() && key.raw().ends_with("_extra_state")) return true;
    switch (value.kind()) {
      case pickle_kind::call:
      case pickle_kind::storage:
      case pickle_kind::refused:
        return false;
      default:
        return !seen_.insert(value.number()).second || !holds_tensor(value);  // many keys may share one value
    }
  }
  [[nodiscard]] static std::string aside_text(pickle_value key, pickle_value value, std::string_view what) {
    std::string const name =
        key.as_text() && is_utf8(short_key(key)) ? "'" + std::string{short_key(key)} + "'" : key.describe();
    return std::string{what} + ": " + name + " is " + value.describe() + ", not a tensor, and left out";
  }

  /// One tensor ("tensor"), or a tuple or list of them ("0", "1", ...).
  std::vector<stored_tensor> plain(pickle_value root) {
    std::vector<stored_tensor> out;
    if (torch_file::is_tensor(root))
      out.push_back(take(root, "tensor"));
    else if (root.is_sequence())
      for (std::size_t i = 0; i < root.size(); ++i) out.push_back(take(root[i], std::to_string(i)));
    else
      fail("holds " + root.describe() + ", not tensors");
    return out;
  }

  torch_file const& file_;
  torch_content out_;
  std::unordered_set<std::uint32_t> seen_;
  std::size_t taken_ = 0;  // tensors
};

}  // namespace detail

/// The tensors of a torch file:
///
/// * a Lightning checkpoint, or any dict with a dict `state_dict`, `model` or another of state_dict_keys: its entries,
///   under their names;
/// * a dict of tensors: its entries; a list or tuple: "0", "1", ...; a single tensor: "tensor".
///
/// Averages are looked for among the callbacks' states, beside the weights, and between them (docs/files.md has the
/// list); a second set that cannot be used as averages is an error, but for weights::raw. What else lies among the
/// tensors is named in the notices, and so is a name given twice, as an error. A file without a tensor is an error.
[[nodiscard]] inline torch_content read_torch_content(torch_file const& file, weights which = weights::automatic) {
  return detail::torch_content_reader{file}(which);
}

}  // namespace dm2
