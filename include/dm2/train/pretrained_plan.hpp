/// @file
/// Which parts of a file's network another configuration shares: what is taken, resized, or begins anew.
#pragma once

#include <dm2/core/parameters.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/io/config_json.hpp>
#include <dm2/io/model_match.hpp>
#include <dm2/io/tensor.hpp>
#include <dm2/model/config.hpp>

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dm2::detail {

/// The treatment of one entry.
enum class pretrained_use : unsigned char { load, keep, resize };

/// What becomes of each entry of a model.
struct pretrained_plan {
  std::vector<pretrained_use> uses;  ///< of each row of the table
  std::vector<std::string> lines;    ///< one for each part that is resized or begins anew, and why
  std::vector<std::string> wrong;    ///< why nothing can be taken; none where something can
  std::optional<image_extent> grid;  ///< of the file's position embedding, where that is resized
};

/// The patch grid of a position embedding of `patches`: by the file's picture and patch size, or the square.
/// Nothing where neither fits.
[[nodiscard]] inline std::optional<image_extent> stored_grid(nlohmann::json const& told, std::int64_t patches) {
  try {
    config const c = config_from_json(told);
    if (told.contains("image") && told.contains("patch") && c.patch > 0) {
      image_extent const grid{c.image.height / c.patch, c.image.width / c.patch};
      if (grid.height > 0 && grid.width > 0 && std::int64_t{grid.height} * grid.width == patches) return grid;
    }
  } catch (std::invalid_argument const&) {  // a field that does not matter here
  }
  auto const side = std::int64_t(std::llround(std::sqrt(double(patches))));
  if (side < 1 || side > 46340 || side * side != patches) return std::nullopt;
  return image_extent{int(side), int(side)};
}

/// What an entry is taken with, or begins anew with: "layers.3", "layers.3.mlp", "patch_embed.conv1", "head".
[[nodiscard]] inline std::string pretrained_part(std::string_view name) {
  std::size_t const dot = name.find('.'), next = dot == name.npos ? dot : name.find('.', dot + 1);
  std::string_view const first = name.substr(0, dot);
  if (first == "layers") {
    std::string_view const inside = name.substr(next + 1);
    bool const mlp = inside.starts_with("norm2.") || inside.starts_with("mlp.");
    return std::string{name.substr(0, next)} + (mlp ? ".mlp" : "");
  }
  if (first != "patch_embed") return std::string{first};
  std::string_view const unit = name.substr(dot + 1, next - dot - 1);  // a convolution has its BatchNorm with it
  return "patch_embed." + (unit.starts_with("bn") ? "conv" + std::string{unit.substr(2)} : std::string{unit});
}

/// Makes the plan. A part is taken where the file has all its tensors in the program's shapes; it begins anew where the
/// file has none of them, or another shape. A file that has some of a part's tensors and lacks others is refused, and
/// so is one without a layer that can be taken.
class pretrained_planner {
 public:
  /// `program` and `table` are the model's, `told` what the file says of its configuration.
  pretrained_planner(config const& program, std::span<parameter_entry const> table, model_match const& match,
                     nlohmann::json told)
      : program_{program}, table_{table}, match_{match}, told_(std::move(told)) {}  // braces would make a list of it

  pretrained_plan operator()() {
    out_.uses.assign(table_.size(), pretrained_use::load);
    for (std::string const& line : match_.twice) out_.wrong.push_back("twice: " + line);
    compare_configurations();
    for (std::size_t first = 0, end = 0; first < table_.size(); first = end) {
      std::string const part = pretrained_part(table_[first].name);
      while (end < table_.size() && pretrained_part(table_[end].name) == part) ++end;
      decide(part, first, end);
    }
    if (taken_ == 0) out_.wrong.insert(out_.wrong.end(), differences_.begin(), differences_.end());
    for (anew const& a : anew_) out_.lines.push_back(a.text());
    return std::move(out_);
  }

 private:
  /// A part that begins anew, or layers one after another with the same reason.
  struct anew {
    std::string part, kind, reason;
    int first = -1, last = -1;

    [[nodiscard]] std::string text() const {
      auto const name = [&](int i) { return first < 0 ? part : "layers." + std::to_string(i) + kind; };
      return name(first) + (last > first ? " to " + name(last) + " begin" : " begins") + " anew: " + reason;
    }
  };

  /// Fields that no tensor's shape tells: what they concern is another thing where they differ.
  void compare_configurations() {
    for (char const* free : {"image", "classes"}) told_.erase(free);
    nlohmann::json const ours = to_json(program_);
    for (auto const& [name, value] : told_.items()) {
      auto const lines = config_differences(program_, nlohmann::json::object({{name, value}}));
      if (lines.empty()) continue;
      if (!ours.contains(name)) out_.wrong.push_back("configuration: " + lines.front());
      differences_.push_back("configuration: " + lines.front());
      if (name == "attn_heads" || name == "attn_head_dim" || name == "attn_rotary") attention_ = lines.front();
      if (name == "variant" || name == "headdim" || name == "groups") mixer_ = lines.front();
      if (name == "eps") out_.lines.push_back("weights of another configuration: " + lines.front());
    }
  }

  void decide(std::string const& part, std::size_t first, std::size_t end) {
    std::size_t missing = 0;
    std::string odd, lacks;
    for (std::size_t i = first; i < end; ++i) {
      parameter_entry const& e = table_[i];
      stored_tensor const* const t = match_.entries[i];
      std::vector<std::int64_t> const shape(e.shape.begin(), e.shape.begin() + e.rank);
      if (t == nullptr) {
        if (missing++ == 0) lacks = "missing: " + std::string{e.name} + " " + shape_text(shape);
      } else if (t->shape != shape) {
        std::string const shapes =
            " is " + shape_text(t->shape) + " in the file, " + shape_text(shape) + " in the program";
        differences_.push_back("shape: " + t->name + shapes);
        if (odd.empty()) odd = std::string{relative(e.name)} + shapes;
      } else if (e.kind == entry_kind::counter && is_floating(t->type)) {
        out_.wrong.push_back("type: " + t->name + " is " + std::string{name_of(t->type)} + ", an integer is expected");
      }
    }
    if (!lacks.empty()) differences_.push_back(lacks);
    bool const head = part == "head" || part == "aux_head";
    if (part == "pos_embed" && !odd.empty() && can_resize(first)) {
      out_.uses[first] = pretrained_use::resize;
    } else if (!odd.empty()) {
      begin_anew(part, first, end, odd);
    } else if (missing == end - first) {
      begin_anew(part, first, end, "the file has none");
    } else if (missing > 0 && !head) {
      out_.wrong.push_back(lacks);
    } else if (missing > 0) {
      begin_anew(part, first, end, "the file has a part of it alone");
    } else if (std::string const& other = other_meaning(part); !other.empty()) {
      begin_anew(part, first, end, other);
    } else if (part.starts_with("layers.") && !part.ends_with(".mlp")) {
      ++taken_;
    }
  }

  /// Why the numbers of a layer mean something else in the file; empty where they do not.
  [[nodiscard]] std::string const& other_meaning(std::string const& part) const {
    static std::string const none;
    if (!part.starts_with("layers.") || part.ends_with(".mlp")) return none;
    return program_.attn_layers.contains(number_of(part)) ? attention_ : mixer_;
  }

  [[nodiscard]] bool can_resize(std::size_t entry) {
    stored_tensor const& t = *match_.entries[entry];
    if (t.shape.size() != 3 || t.shape[0] != 1 || t.shape[2] != program_.dim) return false;
    out_.grid = stored_grid(told_with_image_, t.shape[1] - 1);
    if (!out_.grid) return false;
    auto const text = [](image_extent g) { return std::to_string(g.height) + " x " + std::to_string(g.width); };
    out_.lines.push_back("pos_embed is resized: " + text(*out_.grid) + " patches in the file, " +
                         text({program_.image.height / program_.patch, program_.image.width / program_.patch}) +
                         " in the program");
    return true;
  }

  void begin_anew(std::string const& part, std::size_t first, std::size_t end, std::string const& reason) {
    for (std::size_t i = first; i < end; ++i) out_.uses[i] = pretrained_use::keep;
    anew now{part, part.ends_with(".mlp") ? ".mlp" : "", reason};
    if (part.starts_with("layers.")) now.first = now.last = number_of(part);
    for (anew& before : anew_)
      if (now.first >= 0 && before.kind == now.kind && before.reason == reason && before.last + 1 == now.first) {
        before.last = now.last;
        return;
      }
    anew_.push_back(std::move(now));
  }

  /// The name without its layer: "mixer.in_proj.weight".
  [[nodiscard]] static std::string_view relative(std::string_view name) {
    return name.starts_with("layers.") ? name.substr(name.find('.', 7) + 1) : name;
  }
  [[nodiscard]] static int number_of(std::string_view part) {
    int n = 0;
    for (char const c : part.substr(7)) {
      if (c < '0' || c > '9') break;
      n = 10 * n + (c - '0');
    }
    return n;
  }

  config program_;
  std::span<parameter_entry const> table_;
  model_match const& match_;
  nlohmann::json told_, told_with_image_ = told_;
  std::string attention_, mixer_;  ///< how the layers of a kind differ, where they do
  std::vector<std::string> differences_;
  std::vector<anew> anew_;
  std::size_t taken_ = 0;  ///< mixers and attentions
  pretrained_plan out_;
};

}  // namespace dm2::detail
