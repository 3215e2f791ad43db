/// @file
/// The configuration of a model, told by the file that holds it.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/checkpoint.hpp>
#include <dm2/io/config_json.hpp>
#include <dm2/io/model_match.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/io/told_config.hpp>
#include <dm2/model/config.hpp>
#include <dm2/model/config_rules.hpp>
#include <dm2/model/model_table.hpp>
#include <dm2/run/presets.hpp>
#include <dm2/run/shape_facts.hpp>
#include <dm2/run/told_model.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dm2 {
namespace detail {

/// The pieces that a file tells put together, and what is missing assumed, field by field.
class config_finder {
 public:
  config_finder(tensor_file const& file, nlohmann::json const& said) : file_{file}, said_{said} {}

  told_model operator()() {
    if (!said_.is_null()) (void)config_from_json(said_);  // its types are checked once, here
    network_tensors const tensors{file_};
    if (tensors.none()) refuse_other_network();
    shape_facts const facts = shape_reader{tensors}();
    take_told();
    for (auto const& [field, fact] : facts.fields) take_fact(field, fact);
    base_ = &choose_base(facts);
    find_image(facts);
    // groups = 1 always divides the heads; d_state = 128 would not always divide the product
    split("groups", "d_state", facts.states, [](std::int64_t) { return std::int64_t{1}; });
    split("attn_heads", "attn_head_dim", facts.width, [this](std::int64_t width) {
      int const size = base_->configuration.attn_head_dim;
      return width % size == 0 ? width / size : std::int64_t{1};
    });
    find_rotary();
    fill_rest(facts);
    return finish();
  }

 private:
  [[noreturn]] void fail(std::string const& reason) const { throw file_error{file_.path(), reason}; }

  [[noreturn]] void refuse_other_network() const {
    model_table const table{tiny};
    model_match const match = model_matcher{table.entries(), file_.tensors()}();
    std::string const cause = misfit_cause(table.entries(), file_.tensors(), match);
    fail("holds no DeMansia 2" +
         (cause.empty() ? ": of its names none is a class token, a stem or a head" : ": " + cause));
  }

  /// What metadata and hyper-parameters say, each value of its field's type.
  void take_told() {
    nlohmann::json const told = told_config(file_, out_.notices), fields = to_json(config{});
    for (auto const& [field, value] : told.items()) {
      if (!fields.contains(field))
        fail("its configuration has a field '" + field.substr(0, 100) +
             "', which this version of dm2 does not know: it was written by a later one");
      known_[field] = field == "eps" ? value : whole_numbers(value);
    }
    bool const own = file_.metadata().contains("config") && known_.contains("variant");
    // Lightning's checkpoints are the published code's, which has no other variant
    if (!own && !config_of_hyper_parameters(file_.hyper_parameters()).empty()) known_["variant"] = "published";
    if (known_.contains("attn_layers")) std::sort(known_["attn_layers"].begin(), known_["attn_layers"].end());
    try {
      (void)config_from_json(known_);
    } catch (std::invalid_argument const& problem) {
      fail("its configuration cannot be used: " + std::string{problem.what()}.substr(0, 200));
    }
    told_ = known_;
  }
  /// 4.0 as 4, in lists too: Python's programs write either.
  static nlohmann::json whole_numbers(nlohmann::json value) {
    if (value.is_array())
      for (nlohmann::json& one : value) one = whole_numbers(one);
    if (value.is_number_float() && std::abs(value.get<double>()) < 1e9 &&
        value.get<double>() == std::floor(value.get<double>()))
      value = std::int64_t(value.get<double>());
    return value;
  }

  void take_fact(std::string const& field, shape_fact const& fact) {
    if (told_.contains(field) && !same_value(told_[field], fact.value))
      fail("its configuration says " + field + " " + field_text(field, told_[field]) + ", by " + fact.tensor +
           " it is " + field_text(field, fact.value));
    known_[field] = fact.value;
  }

  /// The preset that agrees with the file in most of what is known, of several the first.
  [[nodiscard]] preset const& choose_base(shape_facts const& facts) const {
    preset const* best = nullptr;
    std::size_t fewest = 0;
    for (preset const& p : known_presets) {
      config const& c = p.configuration;
      std::size_t count = differing_fields(c, known_).size();
      auto const compare = [&count](std::optional<shape_fact> const& fact, int ours) {
        count += fact && fact->value != ours ? 1 : 0;
      };
      compare(facts.patches, stem_of(c).tokens());
      compare(facts.states, c.groups * c.d_state);
      compare(facts.width, attention_of(c).width());
      if (best == nullptr || count < fewest) {
        best = &p;
        fewest = count;
      }
    }
    return *best;
  }

  /// Takes a value that nothing in the file tells: the one that was said, where there is one, else `fallback`, with a
  /// notice of where that is from.
  void assume(std::string const& field, nlohmann::json const& fallback, std::string const& why) {
    if (known_.contains(field)) return;
    bool const said = said_.is_object() && said_.contains(field);
    known_[field] = said ? said_[field] : fallback;
    if (!said)
      out_.notices.push_back(field + " " + field_text(field, fallback) + " is assumed" + why +
                             ": neither its metadata nor its shapes tell it");
  }
  [[nodiscard]] std::string as_base() const { return ", as in '" + std::string{base_->name} + "'"; }

  /// The picture's size from the number of patches: the base's, or a square's.
  void find_image(shape_facts const& facts) {
    if (!facts.patches) return;
    std::int64_t const patches = facts.patches->value;
    std::int64_t const patch = known_.contains("patch") ? known_["patch"].get<std::int64_t>() : 0;
    if (patch < 1) return;
    auto const fits = [&](nlohmann::json const& image) {
      std::int64_t const h = image[0], w = image[1];
      return h > 0 && w > 0 && h % patch == 0 && w % patch == 0 && h / patch <= patches &&
             (h / patch) * (w / patch) == patches;
    };
    if (told_.contains("image")) {
      if (!fits(told_["image"]))
        fail("its configuration says image " + field_text("image", told_["image"]) + " in patches of " +
             std::to_string(patch) + ", but " + facts.patches->tensor + " is of " + std::to_string(patches) +
             " patches and a class token");
      return;
    }
    image_extent const usual = base_->configuration.image;
    auto const side = std::int64_t(std::lround(std::sqrt(double(patches))));
    if (said_.is_object() && said_.contains("image") && fits(said_["image"]))
      known_["image"] = said_["image"];
    else if (fits({usual.height, usual.width}))
      assume_image(usual.height, usual.width, as_base());
    else if (side * side == patches)
      assume_image(side * patch, side * patch, ", a square");
    else
      fail(facts.patches->tensor + " is of " + std::to_string(patches) +
           " patches and a class token, which is no square: --img-size HEIGHT WIDTH has to say the picture's size, in "
           "patches of " +
           std::to_string(patch));
  }
  void assume_image(std::int64_t height, std::int64_t width, std::string const& why) {
    known_["image"] = {height, width};
    out_.notices.push_back("image " + field_text("image", known_["image"]) + " is assumed" + why +
                           ": the number of patches fits, and nothing tells their rows");
  }

  /// Two fields of which only the product is known, told, said, as in the base, or `fallback(product)` of the first.
  template <class Fallback>
  void split(char const* first, char const* second, std::optional<shape_fact> const& product,
             Fallback const& fallback) {
    if (!product) return;
    std::int64_t const n = product->value;
    auto const take = [&](nlohmann::json const& from, char const* one, char const* other) {
      if (!from.is_object() || !from.contains(one) || !from[one].is_number_integer()) return false;
      std::int64_t const value = from[one];
      if (value < 1 || n % value != 0) return false;
      if (from.contains(other) && from[other] != n / value) return false;
      known_[one] = value;
      known_[other] = n / value;
      return true;
    };
    if (take(told_, first, second) || take(told_, second, first)) return;
    for (char const* const field : {first, second})
      if (told_.contains(field))
        fail("its configuration says " + std::string{field} + " " + told_[field].dump() + ", but " + product->tensor +
             " has " + first + " * " + second + " = " + std::to_string(n));
    if (take(said_, first, second) || take(said_, second, first)) return;
    nlohmann::json const base = to_json(base_->configuration);
    bool const as_in_base = take(base, first, second);
    if (!as_in_base) {
      known_[first] = fallback(n);
      known_[second] = n / known_[first].get<std::int64_t>();
    }
    out_.notices.push_back(std::string{first} + " " + known_[first].dump() + " and " + second + " " +
                           known_[second].dump() + " are assumed" + (as_in_base ? as_base() : std::string{}) +
                           ": shapes tell their product alone");
  }

  /// Half of an attention head turns, where the base's does not fit the head.
  void find_rotary() {
    config const& base = base_->configuration;
    std::int64_t const size =
        known_.contains("attn_head_dim") ? known_["attn_head_dim"].get<std::int64_t>() : base.attn_head_dim;
    if (!has_attention()) return;
    if (size == base.attn_head_dim)
      assume("attn_rotary", base.attn_rotary, as_base());
    else
      assume("attn_rotary", size / 4 * 2, ", half of a head");
  }
  [[nodiscard]] bool has_attention() const { return !known_.contains("attn_layers") || !known_["attn_layers"].empty(); }

  /// The rest as in the base. What only layers have that the file has none of makes no difference, and is taken so that
  /// every rule is kept.
  void fill_rest(shape_facts const& facts) {
    nlohmann::ordered_json const base = to_json(base_->configuration);
    if (!has_attention() && !facts.width)
      for (char const* const field : {"attn_heads", "attn_head_dim", "attn_rotary", "attn_d_conv"})
        if (!known_.contains(field)) known_[field] = base[field];
    if (!facts.states && facts.fields.contains("attn_layers")) {  // attention alone
      nlohmann::json const idle{{"expand", 1}, {"headdim", 1}, {"groups", 1}, {"d_state", 1}, {"d_conv", 1}};
      for (auto const& [field, value] : idle.items())
        if (!known_.contains(field)) known_[field] = value;
      if (!known_.contains("variant")) known_["variant"] = base["variant"];
    }
    for (auto const& [field, value] : base.items()) assume(field, value, as_base());
  }

  told_model finish() {
    try {
      out_.configuration = config_from_json(known_);
    } catch (std::invalid_argument const& problem) {
      fail(std::string{"its configuration cannot be used: "} + problem.what());
    }
    out_.name = name_of(out_.configuration);
    out_.source = file_.path().filename().string();
    if (config_rule const* const rule = broken_rule(out_.configuration)) {
      std::string fields;
      nlohmann::ordered_json const all = to_json(out_.configuration);
      for (auto const& [field, value] : all.items())
        if (rule->is_about(field)) fields += (fields.empty() ? "" : ", ") + field + " " + field_text(field, value);
      fail("its model breaks a rule: " + std::string{rule->sentence} + " (" + fields + ")");
    }
    model_table const table{out_.configuration};
    model_fit const fit = fit_model(out_.configuration, table.entries(), file_);
    if (!fit.differences.empty())
      fail("seems to be " + out_.name + ", but it " + misfit_text(table.entries(), file_, fit.match, fit.differences));
    return std::move(out_);
  }

  tensor_file const& file_;
  nlohmann::json const& said_;
  nlohmann::json told_ = nlohmann::json::object(), known_ = nlohmann::json::object();
  preset const* base_ = nullptr;
  told_model out_;
};

}  // namespace detail

/// The configuration of the model in an opened file.
///
/// It is that of the metadata (key "config") or of a Lightning checkpoint's hyper_parameters; what they leave out comes
/// from the tensors' names and shapes; and what those do not tell either (eps, attn_rotary, the variant, how a product
/// splits into heads or groups, which rectangle the patches are of) from `said`, fields under their names in a file
/// (config_json.hpp) that the user gives, else from the preset that agrees with the file in most. Each such assumption
/// is a line of `notices`. A preset whose names and shapes the file has is what comes out.
///
/// Throws file_error where the file holds no DeMansia 2; where metadata and a tensor contradict each other, naming the
/// field, the tensor and both sizes; where the number of patches is no square and nothing says the picture's size;
/// where the model would break a rule, with its sentence; and where the tensors are not all of the model's. Work and
/// memory are bounded by the file's own number of tensors. Throws std::invalid_argument where `said` has a field that
/// no configuration has, or one of another type.
///
///     dm2::tensor_file const file{"model.safetensors"};
///     dm2::told_model const told = dm2::config_of(file);
[[nodiscard]] inline told_model config_of(tensor_file const& file, nlohmann::json const& said = {}) {
  return detail::config_finder{file, said}();
}

}  // namespace dm2
