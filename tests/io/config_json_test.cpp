#include <dm2/io/config_json.hpp>
#include <dm2/io/tensor_file.hpp>

#include "io/scratch.hpp"
#include "support/configurations.hpp"

#include <doctest/doctest.h>

#include <string>
#include <vector>

using namespace dm2::test;
using lines = std::vector<std::string>;

namespace {
// every field away from its default
constexpr dm2::config odd{.image = {48, 32},
                          .patch = 8,
                          .channels = 1,
                          .stem_width = 16,
                          .depth = 3,
                          .dim = 48,
                          .mlp_dim = 128,
                          .classes = 7,
                          .expand = 3,
                          .headdim = 24,
                          .d_state = 16,
                          .d_conv = 3,
                          .groups = 2,
                          .attn_layers = dm2::layers(0, 2),
                          .attn_heads = 2,
                          .attn_head_dim = 24,
                          .attn_rotary = 8,
                          .attn_d_conv = 0,
                          .eps = 1e-6,
                          .variant = dm2::mixer_variant::bidirectional};
nlohmann::json hyper() { return dm2::tensor_file{golden_file("lightning/epoch=0-step=2.ckpt")}.hyper_parameters(); }
}  // namespace

TEST_CASE("config json: the golden files' configurations, key by key and in order") {
  dm2::tensor_file const file{golden_file("lightning/logits.safetensors")};
  auto const text = file.metadata().at("config");
  CHECK(dm2::to_json(micro) == nlohmann::ordered_json::parse(text));
  CHECK(dm2::config_differences(micro, nlohmann::json::parse(text)).empty());
  CHECK(dm2::config_differences(micro, dm2::config_of_hyper_parameters(hyper())).empty());
}

TEST_CASE("config json: every field survives the way there and back") {
  auto const there = dm2::to_json(odd);
  CHECK(there.size() == 20);
  CHECK(dm2::to_json(dm2::config_from_json(there)) == there);
  auto const usual = dm2::to_json(dm2::tiny);
  for (auto const& item : there.items()) CHECK_MESSAGE(item.value() != usual[item.key()], item.key());
  CHECK(dm2::to_json(dm2::config_from_json(nlohmann::json::object())) == usual);
}

TEST_CASE("config json: unknown fields and wrong types are refused by name") {
  auto const refused = [](char const* text, char const* message) {
    CHECK_THROWS_WITH_AS((void)dm2::config_from_json(nlohmann::json::parse(text)), message, std::invalid_argument);
  };
  refused(R"({"size":3})", "config: no field is called size");
  refused(R"({"depth":"3"})", "config: depth is \"3\", not a number of pixels, channels or layers");
  refused(R"({"depth":3.5})", "config: depth is 3.5, not a number of pixels, channels or layers");
  refused(R"({"depth":99999999999})", "config: depth is 99999999999, not a number of pixels, channels or layers");
  refused(R"({"image":[1]})", "config: image cannot be [1]");
  refused(R"({"attn_layers":[64]})", "config: attn_layers cannot be [64]");
  refused(R"({"variant":"other"})", "config: variant cannot be \"other\"");
  refused(R"({"eps":null})", "config: eps cannot be null");
  refused("[]", "config: not a JSON object");
}

TEST_CASE("config json: a disagreement names the field and both values") {
  nlohmann::json file = dm2::to_json(dm2::tiny);
  CHECK(dm2::config_differences(dm2::tiny, file).empty());
  file["attn_layers"] = {20, 10};            // the same set
  file["eps"] = static_cast<double>(1e-5f);  // the same number, once kept as a float
  CHECK(dm2::config_differences(dm2::tiny, file).empty());
  file["depth"] = 12;
  file["image"] = {128, 224};
  file["later"] = 1;
  CHECK(dm2::config_differences(dm2::tiny, file) == lines{"depth: 12 in the file, 24 in the program",
                                                          "image: [128,224] in the file, [224,224] in the program",
                                                          "later: 1 in the file, unknown to the program"});
  CHECK(dm2::config_differences(dm2::tiny, nlohmann::json{{"depth", "24"}}).size() == 1);
  CHECK(dm2::config_differences(dm2::tiny, nlohmann::json::array()).size() == 1);
}

TEST_CASE("config json: hyper_parameters in the published names") {
  CHECK(dm2::config_of_hyper_parameters(hyper()) ==
        nlohmann::json::parse(
            R"({"image":[64,64],"patch":16,"channels":3,"depth":4,"dim":32,"mlp_dim":0,"classes":10,"headdim":16,
          "d_state":16,"groups":1,"attn_layers":[2],"attn_heads":2,"attn_head_dim":24,"attn_rotary":16,
          "attn_d_conv":4,"eps":1e-5})"));
  CHECK(dm2::config_of_hyper_parameters(
            {{"img_size", 64}, {"patch_size", 16}, {"ssm_cfg", nullptr}, {"d_model", nullptr}}) ==
        nlohmann::json{{"image", {64, 64}}, {"patch", 16}});
  CHECK(dm2::config_of_hyper_parameters({{"patch_size", {16, 8}}, {"attn_cfg", 5}}) ==
        nlohmann::json{{"patch", {16, 8}}});
  CHECK(dm2::config_of_hyper_parameters(nullptr).empty());
}
