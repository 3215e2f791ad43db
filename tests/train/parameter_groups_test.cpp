// Parameter groups: the rules, and steps of the optimizers against PyTorch's with the same groups.
#include <dm2/train/optimizer.hpp>
#include <dm2/train/parameter_groups.hpp>

#include "support/configurations.hpp"
#include "support/golden.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

using backend = cpu::context<double>;

/// The options of the golden file's cases (tests/reference/parameter_groups.py).
std::vector<std::pair<std::string, optimizer_options>> golden_cases() {
  std::vector<std::string> const timm{"1d", "cls_token", "pos_embed"};
  auto const adamw = optimizer_kind::adamw;
  return {
      {"adamw_layer_decay", {.kind = adamw, .weight_decay = 0.05, .tuning = {.layer_decay = 0.75, .no_decay = timm}}},
      {"lion_head_scale", {.weight_decay = 0.5, .tuning = {.head_scale = 10, .no_decay = {"norm", "bias"}}}},
      {"adamw_backbone", {.kind = adamw, .weight_decay = 0.1, .tuning = {.frozen = 4, .no_decay = {"1d"}}}},
      {"lion_frozen",
       {.weight_decay = 0.3,
        .clip_norm = 0.5,
        .tuning = {.frozen = 2, .layer_decay = 0.6, .head_scale = 2, .no_decay = {"scan"}}}}};
}

/// The golden file's tensors of that beginning, as a buffer laid out as a state; NaN in what the file lacks.
std::vector<double> state_of(golden const& file, std::string const& beginning) {
  std::vector<double> out(state_extent<little>, std::nan(""));
  for (parameter_entry const& e : parameter_table<little>) {
    std::string const name = beginning + std::string{e.name};
    if (!file.has(name)) continue;
    auto const values = file.get(name);
    REQUIRE(values.size() == e.size);
    std::copy(values.begin(), values.end(), out.begin() + std::ptrdiff_t(e.offset));
  }
  return out;
}

template <class T>
std::vector<double> part(std::span<T> of, parameter_entry const& e) {
  auto const values = of.subspan(e.offset, e.size);
  return {values.begin(), values.end()};
}

std::string refusal(tuning_options const& o) {
  try {
    static_cast<void>(parameter_groups{parameter_table<little>, {.tuning = o}});
  } catch (std::invalid_argument const& problem) {
    return problem.what();
  }
  return {};
}

/// The names of a table's parameters that a word means.
template <config C>
std::vector<std::string> meant(std::string_view word) {
  std::vector<std::string> out;
  for (parameter_entry const& e : parameter_table<C>)
    if (e.kind == entry_kind::parameter && detail::is_meant(word, e)) out.emplace_back(e.name);
  return out;
}

}  // namespace

TEST_CASE("parameter_groups: each step equals PyTorch's optimiser with parameter groups") {
  golden const file{"parameter_groups.safetensors"};
  for (auto const& one : golden_cases()) {
    std::string const& tag = one.first;
    CAPTURE(tag);
    model<little, backend> net{1, backend{2}};
    auto const begin = state_of(file, tag + "/init/");
    for (std::size_t i = 0; i < begin.size(); ++i)
      if (!std::isnan(begin[i])) net.state()[i] = begin[i];
    optimizer<little, backend> rule{one.second};
    for (int s = 0; s < 3; ++s) {
      std::string const step = tag + "/step" + std::to_string(s);
      auto gradients = state_of(file, step + "/grad/");
      for (double& g : gradients) g = std::isnan(g) ? 0 : g;
      double const norm = rule.step(net, gradients, 1e-2 / (s + 1));
      if (file.has(step + "/norm")) CHECK(norm == doctest::Approx(file.get(step + "/norm")[0]).epsilon(1e-12));
      for (parameter_entry const& e : net.table()) {
        if (e.kind != entry_kind::parameter && e.kind != entry_kind::unused) continue;
        CAPTURE(e.name);
        CHECK(relative_error(part(net.state(), e), file.get(step + "/param/" + std::string{e.name})) < 1e-13);
      }
    }
    for (parameter_entry const& e : net.table()) {
      if (e.kind != entry_kind::parameter) continue;
      auto const momentum = part(rule.momentum(), e);
      if (std::string const name = tag + "/first/" + std::string{e.name}; file.has(name))
        CHECK(relative_error(momentum, file.get(name)) < 1e-13);
      else
        CHECK(std::count(momentum.begin(), momentum.end(), 0.0) == std::ptrdiff_t(e.size));
    }
  }
}

TEST_CASE("parameter_table: layers are timm's: the stem, the trunk with the norm behind it, the heads") {
  std::map<std::string, int> const some{{"cls_token", 0},
                                        {"pos_embed", 0},
                                        {"patch_embed.bn2.running_var", 0},
                                        {"patch_embed.proj.bias", 0},
                                        {"layers.0.norm.weight", 1},
                                        {"layers.1.mlp.fc2.weight", 2},
                                        {"layers.2.mixer.D_b", 3},
                                        {"norm_f.weight", 3},
                                        {"head.weight", 4},
                                        {"aux_head.bias", 4}};
  std::size_t seen = 0;
  for (parameter_entry const& e : parameter_table<wide>)
    if (auto const want = some.find(std::string{e.name}); want != some.end()) {
      CHECK(e.layer == want->second);
      ++seen;
    }
  CHECK(seen == some.size());
}

TEST_CASE("no_decay: words are roles, dimensions, and whole components of names") {
  using names = std::vector<std::string>;
  CHECK(meant<little>("embedding") == names{"cls_token", "pos_embed"});
  CHECK(meant<little>("head") == names{"head.weight", "aux_head.weight"});
  CHECK(meant<little>("scan") == names{"layers.0.mixer.dt_bias", "layers.0.mixer.dt_bias_b", "layers.0.mixer.A_log",
                                       "layers.0.mixer.A_log_b", "layers.0.mixer.D", "layers.2.mixer.dt_bias",
                                       "layers.2.mixer.dt_bias_b", "layers.2.mixer.A_log", "layers.2.mixer.A_log_b",
                                       "layers.2.mixer.D"});
  CHECK(meant<little>("norm") == names{"patch_embed.bn1.weight", "patch_embed.bn2.weight", "patch_embed.bn3.weight",
                                       "layers.0.norm.weight", "layers.0.mixer.norm.weight",
                                       "layers.0.mixer.norm_b.weight", "layers.1.norm.weight", "layers.2.norm.weight",
                                       "layers.2.mixer.norm.weight", "layers.2.mixer.norm_b.weight", "norm_f.weight"});
  CHECK(meant<little>("bias") ==
        names{"patch_embed.bn1.bias", "patch_embed.bn2.bias", "patch_embed.bn3.bias", "patch_embed.proj.bias",
              "head.bias", "aux_head.bias", "layers.0.mixer.conv1d.bias", "layers.0.mixer.conv1d_b.bias",
              "layers.1.mixer.in_proj.bias", "layers.1.mixer.conv1d.bias", "layers.1.mixer.out_proj.bias",
              "layers.2.mixer.conv1d.bias", "layers.2.mixer.conv1d_b.bias"});
  CHECK(meant<wide>("norm2") == names{"layers.0.norm2.weight", "layers.1.norm2.weight", "layers.2.norm2.weight"});
  CHECK(meant<little>("mixer.D") == names{"layers.0.mixer.D", "layers.2.mixer.D"});
  CHECK(meant<little>("layers.1").size() == 7);
  CHECK(meant<little>("proj").size() == 2);  // of the stem: in_proj is another component
  CHECK(meant<little>("").empty());
  CHECK(meant<bidirectional>("scan").size() == 3 * 6);
  for (parameter_entry const& e : parameter_table<wide>)
    if (e.kind == entry_kind::parameter) {
      bool const of_one =
          e.role == parameter_role::norm || e.role == parameter_role::bias || e.role == parameter_role::scan;
      CHECK(detail::is_meant("1d", e) == of_one);
    }
}

TEST_CASE("parameter_groups: by default there is one group, of everything that training moves") {
  optimizer_options const o{.weight_decay = 0.25};
  parameter_groups const groups{parameter_table<little>, o};
  CHECK(groups.uniform(o));
  for (std::size_t i = 0; i < parameter_table<little>.size(); ++i)
    CHECK(groups.moves(i) == (parameter_table<little>[i].kind == entry_kind::parameter));
  // two mixers' D_b and three BatchNorms' statistics part the table
  CHECK(groups.runs([](parameter_entry const&) { return false; }).size() == 6);
}

TEST_CASE("parameter_groups: options out of range and words that mean nothing are refused by name") {
  CHECK(refusal({.frozen = -1}).starts_with("optimizer: tuning.frozen"));
  CHECK(refusal({.frozen = 5}).find("0 to 4") != std::string::npos);
  CHECK(refusal({.frozen = 4}).empty());
  CHECK(refusal({.layer_decay = 0}).starts_with("optimizer: tuning.layer_decay"));
  CHECK(refusal({.layer_decay = 1.5}).starts_with("optimizer: tuning.layer_decay"));
  CHECK(refusal({.layer_decay = std::nan("")}).starts_with("optimizer: tuning.layer_decay"));
  CHECK(refusal({.head_scale = 0}).starts_with("optimizer: tuning.head_scale"));
  CHECK(refusal({.no_decay = {"norm", "nrom"}}).find("'nrom'") != std::string::npos);
  CHECK(refusal({.no_decay = {"norm2"}}).find("'norm2'") != std::string::npos);
}
