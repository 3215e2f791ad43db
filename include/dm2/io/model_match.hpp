/// @file
/// Matches a file's tensors to a model's entries, whatever their prefixes.
#pragma once

#include <dm2/core/parameters.hpp>
#include <dm2/io/tensor.hpp>
#include <dm2/io/tensor_names.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace dm2::detail {

/// A file's tensors as a model's entries.
struct model_match {
  std::vector<stored_tensor const*> entries;  ///< one for each row of the table; null where the file has none
  std::vector<stored_tensor const*> surplus;  ///< those that are no entry, in the file's order
  std::string prefix;                         ///< before most names: "model."
  std::vector<std::string> twice;             ///< a line for each entry that two names mean
  std::size_t found = 0;                      ///< entries that are there
};

/// Matches a file's names with a table's.
///
/// A file's name may have anything before the table's; what most of the names have is the prefix. Names with another
/// one are entries only where it is none, or consists of what programs call a network ("model.", "module."). What
/// torch.compile and other wrappers put in is dropped wherever it stands.
class model_matcher {
 public:
  model_matcher(std::span<parameter_entry const> table, std::span<stored_tensor const> tensors)
      : table_{table}, tensors_{tensors} {
    for (std::size_t i = 0; i < table.size(); ++i) numbers_.emplace(table[i].name, i);
    out_.entries.resize(table.size());
    for (stored_tensor const& t : tensors) places_.push_back(find(unwrapped(t.name)));
  }

  model_match operator()() {
    choose_prefix();
    for (bool const own : {true, false})
      for (std::size_t i = 0; i < tensors_.size(); ++i)
        if (places_[i].entry != none && (places_[i].prefix == out_.prefix) == own) take(i, own);
    for (std::size_t i = 0; i < tensors_.size(); ++i)
      if (places_[i].entry == none) out_.surplus.push_back(&tensors_[i]);
    return std::move(out_);
  }

 private:
  static constexpr std::size_t none = ~std::size_t{0};
  struct place {
    std::string prefix;
    std::size_t entry;
  };

  /// The longest end of the name that is a table's, at the beginning of a component.
  [[nodiscard]] place find(std::string const& name) const {
    for (std::string_view rest = name; !rest.empty(); (void)take_component(rest))
      if (auto const found = numbers_.find(rest); found != numbers_.end())
        return {name.substr(0, name.size() - rest.size()), found->second};
    return {{}, none};
  }

  void choose_prefix() {
    std::map<std::string, std::size_t> counts;
    for (place const& p : places_)
      if (p.entry != none) ++counts[p.prefix];
    std::size_t most = 0, whole = 0;
    for (auto const& [prefix, count] : counts) {
      if (count > most) out_.prefix = prefix;
      most = std::max(most, count);
      whole += count >= numbers_.size() ? 1 : 0;
    }
    if (whole < 2) return;
    std::string all;
    for (auto const& [prefix, count] : counts)
      if (count >= numbers_.size()) all += (all.empty() ? "'" : " and '") + prefix + "'";
    out_.twice.push_back("holds a whole model under each of " + all);
  }

  /// Whether a prefix is none, or has only components that programs call a network.
  [[nodiscard]] static bool is_plain(std::string_view prefix) {
    while (!prefix.empty())
      if (!is_container(take_component(prefix))) return false;
    return true;
  }

  void take(std::size_t i, bool own) {
    auto& [prefix, entry] = places_[i];
    if (!own && !is_plain(prefix)) {
      entry = none;
      return;
    }
    stored_tensor const*& at = out_.entries[entry];
    if (at != nullptr && out_.twice.size() < 100)
      out_.twice.push_back("'" + at->name + "' and '" + tensors_[i].name + "' are both " +
                           std::string{table_[entry].name});
    if (at == nullptr) ++out_.found;
    at = &tensors_[i];
  }

  std::span<parameter_entry const> table_;
  std::span<stored_tensor const> tensors_;
  std::unordered_map<std::string_view, std::size_t> numbers_;
  std::vector<place> places_;
  model_match out_;
};

/// The kind of network that the names are known from, other than DeMansia 2; empty where none is.
[[nodiscard]] inline std::string_view foreign_network(std::span<stored_tensor const> tensors) {
  using row = std::pair<std::string_view, std::string_view>;
  static constexpr std::array<row, 18> known{
      {{"attn.qkv.", "a Vision Transformer (timm's names)"},
       {"encoder_layer_0.", "a Vision Transformer (torchvision's names)"},
       {"vit.embeddings.", "a Vision Transformer (Hugging Face's names)"},
       {"relative_position_bias_table", "a Swin Transformer"},
       {"visual.transformer.", "a CLIP model"},
       {"layer1.0.conv1.", "a ResNet"},
       {"layer1.0.0.", "a ResNet"},
       {"dwconv.", "a ConvNeXt"},
       {"conv_dw.", "a ConvNeXt, MobileNet or EfficientNet"},
       {"features.0.0.", "a MobileNet, EfficientNet or ConvNeXt (torchvision's names)"},
       {"mixer.A_b_log", "a Vision Mamba (Vim)"},
       {"mixer.x_proj.", "a network of Mamba-1 layers"},
       {"embedding.weight", "a language model"},
       {"self_attn.q_proj.", "a language model"},
       {"attn.c_attn.", "a language model (GPT-2)"},
       {"bert.embeddings.", "a language model (BERT)"},
       {"lm_head.weight", "a language model"},
       {"classifier.6.weight", "an AlexNet or VGG"}}};
  for (auto const& [part, kind] : known)
    for (stored_tensor const& t : tensors)
      if (t.name.find(part) != t.name.npos) return kind;
  return {};
}

/// "; all names begin with 'net_', without which they would fit" where that is so, else nothing.
[[nodiscard]] inline std::string common_beginning(std::span<parameter_entry const> table,
                                                  std::span<stored_tensor const> tensors) {
  std::string_view const first = tensors.front().name;
  std::size_t length = first.size();
  for (parameter_entry const& e : table)
    if (first.ends_with(e.name)) length = std::min(length, first.size() - e.name.size());
  std::string_view const front = first.substr(0, length);
  bool const all = length > 0 && length != first.size() &&
                   std::all_of(tensors.begin(), tensors.end(),
                               [front](stored_tensor const& t) { return t.name.starts_with(front); });
  return all ? "all names begin with '" + std::string{front} + "', without which they would be the model's" : "";
}

/// Sizes of a network, as far as names and shapes tell them; 0 where they do not.
struct network_sizes {
  std::int64_t layers = 0, channels = 0, tokens = 0, classes = 0;

  void take(std::string_view name, std::span<std::int64_t const> shape) {
    if (name == "cls_token" && !shape.empty()) channels = shape.back();
    if (name == "pos_embed" && shape.size() == 3) tokens = shape[1];
    if (name == "head.weight" && !shape.empty()) classes = shape[0];
    if (!name.starts_with("layers.")) return;
    std::int64_t number = 0;
    for (char const c : name.substr(7)) {
      if (c < '0' || c > '9' || number > 99'999) break;
      number = 10 * number + (c - '0');
    }
    layers = std::max(layers, number + 1);
  }
};

/// The cause of most of a misfit, in a line; empty where it is not known.
[[nodiscard]] inline std::string misfit_cause(std::span<parameter_entry const> table,
                                              std::span<stored_tensor const> tensors, model_match const& match) {
  if (!match.twice.empty()) return match.twice.front();
  if (2 * match.found < table.size()) {
    if (std::string text = common_beginning(table, tensors); !text.empty()) return text;
    if (std::string_view const kind = foreign_network(tensors); !kind.empty())
      return "it looks like " + std::string{kind} + ", not like a DeMansia 2";
  }
  if (match.found == 0)
    return "none of its " + std::to_string(tensors.size()) + " names, such as '" + tensors.front().name +
           "', is one of the model's";
  network_sizes file, program;
  for (stored_tensor const& t : tensors)
    if (std::string const name = unwrapped(t.name); name.starts_with(match.prefix))
      file.take(std::string_view{name}.substr(match.prefix.size()), t.shape);
  for (parameter_entry const& e : table) {
    std::vector<std::int64_t> const shape(e.shape.begin(), e.shape.begin() + e.rank);
    program.take(e.name, shape);
  }
  std::string out;
  auto const compare = [&out](char const* what, std::int64_t theirs, std::int64_t ours) {
    if (theirs == ours || theirs == 0 || ours == 0) return;
    out += (out.empty() ? "" : ", ") + std::to_string(theirs) + " " + what + " in the file, " + std::to_string(ours) +
           " in the program";
  };
  compare("layers", file.layers, program.layers);
  compare("channels", file.channels, program.channels);
  compare("classes", file.classes, program.classes);
  compare("tokens (patches and one)", file.tokens, program.tokens);
  return out;
}

}  // namespace dm2::detail
