/// @file
/// Facts about a configuration, from names and shapes of tensors.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/model_match.hpp>
#include <dm2/io/tensor.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/io/tensor_names.hpp>
#include <dm2/model/config_rules.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace dm2::detail {

/// A size, and the tensor that tells it: "'head.weight' [10, 192]".
struct shape_fact {
  nlohmann::json value;
  std::string tensor;
};

/// Everything that shapes tell: fields under their names in config_json.hpp, and products of two fields.
struct shape_facts {
  std::map<std::string, shape_fact, std::less<>> fields;
  std::optional<shape_fact> patches;  ///< (image.height / patch) * (image.width / patch)
  std::optional<shape_fact> states;   ///< groups * d_state
  std::optional<shape_fact> width;    ///< attn_heads * attn_head_dim
};

/// The network's tensors in a file, under the state dict's names, whatever stands before them.
class network_tensors {
 public:
  explicit network_tensors(tensor_file const& file) : file_{file} {
    std::string const prefix = choose_prefix();
    for (bool const own : {true, false})
      for (stored_tensor const& t : file.tensors()) {
        std::string name = unwrapped(t.name);
        if (name.starts_with(prefix) != own) continue;
        if (own)
          name.erase(0, prefix.size());
        else
          name = without_containers(name);
        by_name_.emplace(std::move(name), &t);  // the first of a name counts; that there are two, load says
      }
  }

  /// The tensor of that name; null where there is none. Throws file_error where it has another number of dimensions, or
  /// none in one of them.
  [[nodiscard]] stored_tensor const* find(std::string_view name, std::size_t rank) const {
    auto const at = by_name_.find(name);
    if (at == by_name_.end()) return nullptr;
    if (at->second->shape.size() != rank)
      fail(*at->second, "has " + std::to_string(at->second->shape.size()) + " dimensions, a DeMansia 2's has " +
                            std::to_string(rank));
    for (std::int64_t const extent : at->second->shape)
      if (extent < 1 || extent > 0x7FFFFFFF) fail(*at->second, "is no model's size");
    return at->second;
  }
  /// Whether there is a tensor of that name, of any shape.
  [[nodiscard]] bool holds(std::string_view name) const { return by_name_.contains(name); }
  /// Whether the file has any of a network's first names.
  [[nodiscard]] bool none() const {
    return std::none_of(anchors.begin(), anchors.end(), [this](std::string_view name) { return holds(name); });
  }
  /// How many layers the names number. Throws file_error above 64.
  [[nodiscard]] int depth(std::string& last) const {
    int depth = 0;
    for (auto at = by_name_.lower_bound("layers."); at != by_name_.end() && at->first.starts_with("layers."); ++at) {
      int number = 0;
      std::string_view digits = std::string_view{at->first}.substr(7);
      digits = digits.substr(0, digits.find_first_not_of("0123456789"));
      for (char const c : digits.substr(0, 4)) number = 10 * number + (c - '0');
      if (digits.empty() || number < depth) continue;
      if (number > 63)
        fail(*at->second, "is of layer " + std::string{digits.substr(0, 12)} + "; a model has 64 at most");
      depth = number + 1;
      last = told_by(*at->second);
    }
    return depth;
  }

  /// "'head.weight' [10, 192]"
  [[nodiscard]] static std::string told_by(stored_tensor const& t) { return "'" + t.name + "' " + shape_text(t.shape); }
  /// Throws file_error about a tensor.
  [[noreturn]] void fail(stored_tensor const& t, std::string const& what) const {
    throw file_error{file_.path(), told_by(t) + " " + what};
  }

 private:
  static constexpr std::array<std::string_view, 5> anchors{"cls_token", "pos_embed", "patch_embed.conv1.weight",
                                                           "head.weight", "norm_f.weight"};

  /// What stands before most of the anchors; of several the first in the alphabet, as model_matcher chooses.
  [[nodiscard]] std::string choose_prefix() const {
    std::map<std::string, int> counts;
    for (stored_tensor const& t : file_.tensors()) {
      std::string const name = unwrapped(t.name);
      for (std::string_view const anchor : anchors) {
        if (!name.ends_with(anchor)) continue;
        std::string const front = name.substr(0, name.size() - anchor.size());
        if (front.empty() || front.back() == '.' || front.back() == '/') ++counts[front];
      }
    }
    std::string prefix;
    int most = 0;
    for (auto const& [front, count] : counts)
      if (count > most) {
        prefix = front;
        most = count;
      }
    return prefix;
  }
  [[nodiscard]] static std::string without_containers(std::string_view name) {
    for (std::string_view rest = name;;) {
      name = rest;
      if (!is_container(take_component(rest)) || rest.empty()) return std::string{name};
    }
  }

  tensor_file const& file_;
  std::map<std::string, stored_tensor const*, std::less<>> by_name_;
};

/// Reads the facts out of the tensors, a part of the network at a time.
class shape_reader {
 public:
  explicit shape_reader(network_tensors const& tensors) : tensors_{tensors} {}

  shape_facts operator()() {
    take("channels", "patch_embed.conv1.weight", 4, 1);
    take("stem_width", "patch_embed.conv1.weight", 4, 0);
    take("dim", "cls_token", 3, 2);
    take("classes", "head.weight", 2, 0);
    if (auto const* const t = tensors_.find("patch_embed.proj.weight", 4)) set("patch", 2 * t->shape[2], *t);
    if (auto const* const t = tensors_.find("pos_embed", 3)) out_.patches = fact(t->shape[1] - 1, *t);
    std::string last;
    int const depth = tensors_.depth(last);
    if (depth == 0) return std::move(out_);
    out_.fields["depth"] = {depth, last};
    read_layers(depth);
    return std::move(out_);
  }

 private:
  [[nodiscard]] static shape_fact fact(std::int64_t value, stored_tensor const& t) {
    return {value, network_tensors::told_by(t)};
  }
  void set(char const* field, std::int64_t value, stored_tensor const& t) {
    if (value > max_config_field) tensors_.fail(t, "is too large: " + std::string{field} + " " + std::to_string(value));
    out_.fields[field] = fact(value, t);
  }
  void take(char const* field, std::string_view name, std::size_t rank, std::size_t axis) {
    if (auto const* const t = tensors_.find(name, rank)) set(field, t->shape[axis], *t);
  }
  /// Which layers are attention, and the first of each kind.
  void read_layers(int depth) {
    nlohmann::json attention = nlohmann::json::array();
    int mixer = -1, known = 0;
    for (int i = 0; i < depth; ++i) {
      std::string const front = "layers." + std::to_string(i) + ".mixer.";
      bool const is_mixer = tensors_.holds(front + "A_log"), is_attention = tensors_.holds(front + "in_proj.bias");
      known += is_mixer != is_attention ? 1 : 0;
      if (is_mixer && mixer < 0) mixer = i;
      if (is_attention && !is_mixer) attention.push_back(i);
    }
    if (known == depth) out_.fields["attn_layers"] = {attention, "the layers' names"};
    if (mixer >= 0) read_mixer("layers." + std::to_string(mixer) + ".mixer.");
    if (!attention.empty()) read_attention("layers." + attention[0].dump() + ".mixer.");
    out_.fields["mlp_dim"] = {0, "the layers' names"};
    for (int i = depth - 1; i >= 0; --i) take("mlp_dim", "layers." + std::to_string(i) + ".mlp.fc2.weight", 2, 1);
  }
  void read_mixer(std::string const& front) {
    auto const* const out = tensors_.find(front + "out_proj.weight", 2);
    auto const* const heads = tensors_.find(front + "A_log", 1);
    auto const* const conv = tensors_.find(front + "conv1d.weight", 3);
    if (conv != nullptr) set("d_conv", conv->shape[2], *conv);
    if (out == nullptr) return;
    std::int64_t const dim = out->shape[0], inner = out->shape[1];
    if (inner % dim != 0)
      tensors_.fail(*out, "has " + std::to_string(inner) + " channels inside the mixer, no multiple of the model's " +
                              std::to_string(dim));
    set("expand", inner / dim, *out);
    if (heads != nullptr) {
      if (inner % heads->shape[0] != 0)
        tensors_.fail(*heads, "has " + std::to_string(heads->shape[0]) + " heads, which do not divide the " +
                                  std::to_string(inner) + " channels of " + network_tensors::told_by(*out));
      set("headdim", inner / heads->shape[0], *heads);
    }
    if (conv == nullptr) return;
    std::int64_t const states = conv->shape[0] - inner;
    if (states < 2 || states % 2 != 0)
      tensors_.fail(*conv, "leaves " + std::to_string(states) + " channels for B and C beside the " +
                               std::to_string(inner) + " of " + network_tensors::told_by(*out));
    out_.states = fact(states / 2, *conv);
  }
  void read_attention(std::string const& front) {
    if (auto const* const out = tensors_.find(front + "out_proj.weight", 2)) out_.width = fact(out->shape[1], *out);
    if (auto const* const conv = tensors_.find(front + "conv1d.weight", 3))
      set("attn_d_conv", conv->shape[2], *conv);
    else
      out_.fields["attn_d_conv"] = {0, "the layers' names"};
  }

  network_tensors const& tensors_;
  shape_facts out_;
};

}  // namespace dm2::detail
