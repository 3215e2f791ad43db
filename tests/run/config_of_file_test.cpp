#include <dm2/io/checkpoint.hpp>
#include <dm2/io/safetensors_write.hpp>
#include <dm2/run/config_of_file.hpp>

#include <doctest/doctest.h>

#include "io/refusal.hpp"
#include "io/scratch.hpp"
#include "support/configurations.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

using namespace dm2;
using namespace dm2::test;
using lines = std::vector<std::string>;

namespace {

/// What a file has that is to be read: names and shapes of a configuration's tensors, all their numbers 0.
struct paper_model {
  std::vector<stored_tensor> tensors;
  std::map<std::string, std::string> metadata;
  std::vector<std::byte> zeros;

  explicit paper_model(config const& c, std::string const& prefix = {}) {
    model_table const table{c};
    for (parameter_entry const& e : table.entries()) {
      stored_tensor t;
      t.name = prefix + std::string{e.name};
      t.type = e.kind == entry_kind::counter ? dtype::i64 : dtype::f16;
      t.shape.assign(e.shape.begin(), e.shape.begin() + e.rank);
      tensors.push_back(t);
    }
  }
  stored_tensor& operator[](std::string const& name) {
    for (stored_tensor& t : tensors)
      if (t.name == name) return t;
    FAIL("no tensor is called " << name);
    return tensors.front();
  }
  void write(std::filesystem::path const& path) {
    std::size_t most = 0;
    for (stored_tensor& t : tensors) {
      t.strides = dm2::detail::contiguous_strides(t.shape);
      most = std::max(most, t.size() * size_of(t.type));
    }
    zeros.resize(most);
    for (stored_tensor& t : tensors) t.data = zeros.data();
    std::filesystem::remove(path);
    write_safetensors(path, tensors, metadata);
  }
};

struct written {
  scratch_folder folder;
  std::filesystem::path path = folder / "model.safetensors";
  explicit written(paper_model model) { model.write(path); }
  [[nodiscard]] told_model told(nlohmann::json const& said = {}) const { return config_of(tensor_file{path}, said); }
  [[nodiscard]] std::string refused(nlohmann::json const& said = {}) const {
    tensor_file const file{path};
    return refusal(path, [&] { (void)config_of(file, said); });
  }
};

config changed(config c, std::function<void(config&)> const& change) {
  change(c);
  return c;
}
bool same(config const& a, config const& b) { return to_json(a) == to_json(b); }

}  // namespace

TEST_CASE("config of file: metadata tell everything, and nothing is assumed") {
  for (config const& c :
       {tiny, published_small, micro, example::quick, wide, bidirectional, slim, small_config, little}) {
    paper_model model{c};
    model.metadata["config"] = to_json(c).dump();
    told_model const told = written{model}.told();
    CHECK(same(told.configuration, c));
    CHECK(told.notices.empty());
    CHECK(told.name == name_of(c));
    CHECK(told.source == "model.safetensors");
  }
}

TEST_CASE("config of file: a Lightning checkpoint's hyper_parameters and shapes are the whole configuration") {
  for (char const* name : {"lightning/epoch=0-step=2.ckpt", "lightning/epoch=0-step=2-EMA.ckpt"}) {
    told_model const told = config_of(tensor_file{golden_file(name)});
    CHECK(same(told.configuration, micro));
    CHECK(told.name == "micro");
    CHECK(told.notices.empty());
  }
}

TEST_CASE("config of file: names and shapes alone give each preset, whatever stands before the names") {
  for (char const* prefix : {"", "model.", "module.net.", "model._orig_mod."})
    for (preset const& p : known_presets) {
      if (*prefix != '\0' && p.configuration.depth > 4) continue;  // files of 66 MB
      CAPTURE(prefix);
      told_model const told = written{paper_model{p.configuration, prefix}}.told();
      CHECK(told.name == p.name);
      CHECK(same(told.configuration, p.configuration));
      CHECK(told.notices.size() >= 3);  // eps, attn_rotary, variant
    }
  told_model const own = config_of(tensor_file{golden_file("lightning/epoch=0-step=2.safetensors")});
  CHECK(own.name == "micro");
  CHECK(config_of(tensor_file{golden_file("../../examples/weights/quick.safetensors")}).name == "quick");
}

TEST_CASE("config of file: shapes tell every size of another model, and each assumption is said") {
  config const mine = changed(tiny, [](config& c) {
    c.classes = 37;
    c.image = {384, 384};
    c.depth = 12;
    c.attn_layers = layers(3, 7);
    c.dim = 144;
    c.headdim = 36;
    c.stem_width = 40;
    c.patch = 12;
    c.mlp_dim = 200;
    c.expand = 3;
    c.d_state = 48;
    c.d_conv = 3;
    c.channels = 4;
    c.attn_d_conv = 2;
  });
  told_model const told = written{paper_model{mine}}.told();
  CHECK(same(told.configuration, mine));
  CHECK(told.notices ==
        lines{"image 384 x 384 is assumed, a square: the number of patches fits, and nothing tells their rows",
              "groups 1 and d_state 48 are assumed: shapes tell their product alone",
              "attn_heads 3 and attn_head_dim 96 are assumed, as in 'tiny': shapes tell their product alone",
              "attn_rotary 48 is assumed, as in 'tiny': neither its metadata nor its shapes tell it",
              "eps 1e-05 is assumed, as in 'tiny': neither its metadata nor its shapes tell it",
              "variant published is assumed, as in 'tiny': neither its metadata nor its shapes tell it"});
}

TEST_CASE("config of file: what cannot be told is what was said, where that fits") {
  // 48 x 32 in patches of 8: 24 patches, no square
  written const file{paper_model{wide}};
  CHECK(contains(file.refused(),
                 "'pos_embed' [1, 25, 48] is of 24 patches and a class token, which is no square: "
                 "--img-size HEIGHT WIDTH has to say the picture's size, in patches of 8"));
  CHECK(contains(file.refused({{"image", {64, 64}}}), "which is no square"));
  nlohmann::json const said{{"image", {48, 32}}, {"groups", 2}, {"attn_heads", 2},
                            {"attn_rotary", 8},  {"eps", 1e-5}, {"variant", "published"}};
  told_model const told = file.told(said);
  CHECK(same(told.configuration, wide));
  CHECK(told.notices.empty());
  CHECK(told.configuration.d_state == 16);
  CHECK_THROWS_AS((void)file.told({{"image", 48}}), std::invalid_argument);
  CHECK_THROWS_AS((void)file.told({{"size", 48}}), std::invalid_argument);
}

TEST_CASE("config of file: what contradicts is named with the tensor and both sizes") {
  paper_model model{tiny};
  config wrong = tiny;
  auto const refused = [&](std::function<void(config&)> const& change) {
    model.metadata["config"] = to_json(changed(wrong, change)).dump();
    return written{model}.refused();
  };
  CHECK(refused([](config& c) { c.classes = 37; }) ==
        "its configuration says classes 37, by 'head.weight' [1000, 192] it is 1000");
  CHECK(refused([](config& c) { c.depth = 23; }).starts_with("its configuration says depth 23, by 'layers.23."));
  CHECK(refused([](config& c) { c.attn_layers = layers(3); }) ==
        "its configuration says attn_layers 3, by the layers' names it is 10, 20");
  CHECK(
      refused([](config& c) {
        c.image = {256, 256};
      }) ==
      "its configuration says image 256 x 256 in patches of 16, but 'pos_embed' [1, 197, 192] is of 196 patches and a "
      "class token");
  CHECK(refused([](config& c) { c.d_state = 64; }) ==
        "its configuration says groups 1, but 'layers.0.mixer.conv1d.weight' [640, 1, 4] has groups * d_state = 128");
  CHECK(refused([](config& c) { c.attn_rotary = 47; }) ==
        "its model breaks a rule: dm2::config: attn_rotary must be even, or 0 for none (attn_rotary 47)");
}

TEST_CASE("config of file: a part of the metadata, a later version's, and another program's key") {
  paper_model model{micro};
  model.metadata["config"] = R"({"depth":4.0,"dim":32,"variant":"bidirectional"})";
  told_model const told = written{model}.told();
  CHECK(told.configuration.variant == mixer_variant::bidirectional);
  CHECK(told.name == "micro with variant bidirectional");
  model.metadata["config"] = R"({"depth":4,"dim":32,"variant":"published","spin":2})";
  CHECK(contains(written{model}.refused(),
                 "its configuration has a field 'spin', which this version of dm2 does not know"));
  model.metadata["config"] = R"({"depth":4,"dim":32,"variant":"sideways"})";
  CHECK(contains(written{model}.refused(), "its configuration cannot be used: config: variant cannot be \"sideways\""));
  model.metadata["config"] = R"({"lr":0.1})";
  CHECK(written{model}.told().name == "micro");
}

TEST_CASE("config of file: attention alone has no mixer's sizes, and mixers alone no attention's") {
  config const mixers = changed(micro, [](config& c) { c.attn_layers = {}; });
  told_model told = written{paper_model{mixers}}.told();
  CHECK(told.configuration.attn_layers.bits == 0);
  CHECK(told.name == "micro with attn_layers none");
  config const attention = changed(micro, [](config& c) {
    c.attn_layers = layers(0, 1, 2, 3);
    c.dim = 37;
  });
  CHECK(broken_rule(attention) != nullptr);  // headdim 16; told without it
  config const kept = changed(attention, [](config& c) { c.headdim = 1; });
  told = written{paper_model{kept}}.told();
  CHECK(broken_rule(told.configuration) == nullptr);
  CHECK(told.configuration.dim == 37);
}

TEST_CASE("config of file: another network, and a model with a part missing, are refused") {
  paper_model model{micro};
  for (stored_tensor& t : model.tensors) t.name = "features.0.0." + std::to_string(&t - model.tensors.data());
  CHECK(contains(written{model}.refused(), "holds no DeMansia 2: it looks like a MobileNet"));
  paper_model part{micro};
  std::erase_if(part.tensors, [](stored_tensor const& t) { return t.name.starts_with("aux_head."); });
  CHECK(contains(written{part}.refused(), "seems to be micro, but it does not fit the model (2 differences)"));
  CHECK(contains(written{part}.refused(), "missing: aux_head.weight [10, 32]"));
}

TEST_CASE("config of file: shapes that no model has are refused by the tensor's name") {
  auto const refused = [](char const* name, std::vector<std::int64_t> shape) {
    paper_model model{micro};
    model[name].shape = std::move(shape);
    return written{model}.refused();
  };
  CHECK(refused("head.weight", {10}) == "'head.weight' [10] has 1 dimensions, a DeMansia 2's has 2");
  CHECK(refused("head.weight", {0, 32}) == "'head.weight' [0, 32] is no model's size");
  CHECK(contains(refused("layers.0.mixer.A_log", {3}),
                 "'layers.0.mixer.A_log' [3] has 3 heads, which do not divide the 64"));
  CHECK(contains(refused("layers.0.mixer.out_proj.weight", {32, 33}), "no multiple of the model's 32"));
  CHECK(contains(refused("layers.0.mixer.conv1d.weight", {65, 1, 4}), "leaves 1 channels for B and C"));
  CHECK(contains(refused("head.weight", {1'000'001, 1}), "is too large: classes 1000001"));
  CHECK(contains(refused("pos_embed", {1, 1, 32}), "image"));
  paper_model deep{micro};
  deep["layers.3.norm.weight"].name = "layers.64.norm.weight";
  CHECK(contains(written{deep}.refused(), "is of layer 64; a model has 64 at most"));
  deep["layers.64.norm.weight"].name = "layers.99999999999999999999.norm.weight";
  CHECK(contains(written{deep}.refused(), "; a model has 64 at most"));
}

TEST_CASE("config of file: any damage to names and shapes ends in a model or in a file_error") {
  std::mt19937 random{3};
  scratch_folder const folder;
  int whole = 0, refused = 0;
  for (int i = 0; i < 200; ++i) {
    paper_model model{i % 2 == 0 ? little : small_config};
    for (int n = 0; n < i / 2 % 4; ++n) {
      stored_tensor& t = model.tensors[random() % model.tensors.size()];
      switch (random() % 4) {
        case 0:
          t.name += "x";
          break;
        case 1:
          if (!t.shape.empty()) t.shape[random() % t.shape.size()] = std::int64_t(random() % 70);
          break;
        case 2:
          t.shape.push_back(1);
          break;
        default:
          std::swap(t.shape, model.tensors[random() % model.tensors.size()].shape);
      }
    }
    if (random() % 4 == 0) model.metadata["config"] = R"({"depth":3,"dim":6,"variant":"published","eps":-1})";
    model.write(folder / "m.safetensors");
    tensor_file const file{folder / "m.safetensors"};
    try {
      config const c = config_of(file).configuration;
      whole += broken_rule(c) == nullptr ? 1 : 0;
    } catch (file_error const&) {
      ++refused;
    }
  }
  CHECK(refused > 70);
  CHECK(whole > 10);
  CHECK(whole + refused == 200);
}
