// A model told from flags, a file and a checkpoint: what comes out, and what is said of what cannot be.
#include <dm2/io/config_json.hpp>

#include "../examples/support/model_flags.hpp"

#include <doctest/doctest.h>

#include "io/refusal.hpp"
#include "io/scratch.hpp"
#include "support/configurations.hpp"

#include <functional>
#include <optional>
#include <string>
#include <vector>

using namespace dm2;
using namespace dm2::example;
using test::contains;
using test::scratch_folder;
using words = std::vector<std::string>;

namespace {

model_flags parsed(words line) {
  model_flags f;
  CLI::App app;
  app.option_defaults()->always_capture_default()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  add_model_flags(app, f);
  app.set_config("-c,--config");
  std::string folder;
  app.add_option("DIR", folder);
  line = with_joined_image_size(line);
  app.parse(words{line.rbegin(), line.rend()});
  return f;
}
told_model settled(words const& line, std::optional<int> classes = {}, std::optional<told_model> const& from = {}) {
  return settle(parsed(line), from, classes);
}
std::string refused(words const& line, std::optional<told_model> const& from = {}) {
  try {
    (void)settled(line, {}, from);
  } catch (usage_error const& problem) {
    return problem.what();
  } catch (CLI::ParseError const& problem) {
    return problem.what();
  }
  FAIL_CHECK("nothing was refused");
  return {};
}
told_model checkpoint(config const& c) { return {c, name_of(c), "run/last.safetensors", {}}; }
bool same(config const& a, config const& b) { return to_json(a) == to_json(b); }
config changed(config c, std::function<void(config&)> const& change) {
  change(c);
  return c;
}

}  // namespace

TEST_CASE("model flags: none are tiny, with as many classes as the data has") {
  CHECK(settled({}).name == "tiny");
  CHECK(settled({}).source == "--model tiny");
  CHECK(settled({}, 7).name == "tiny with classes 7");
  CHECK(settled({"--model", "quick"}, 7).name == "quick with classes 7");
  CHECK(settled({"--num-classes", "9"}, 7).configuration.classes == 9);
}

TEST_CASE("model flags: every field has one, under dm2's name and timm's") {
  config const every{.image = {48, 32},
                     .patch = 8,
                     .channels = 3,
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
                     .attn_layers = layers(0, 2),
                     .attn_heads = 2,
                     .attn_head_dim = 24,
                     .attn_rotary = 8,
                     .attn_d_conv = 0,
                     .eps = 1e-6,
                     .variant = mixer_variant::bidirectional};
  words line;
  nlohmann::ordered_json const fields = to_json(every);
  for (auto const& [field, value] : fields.items()) {
    std::string const text = example::detail::flag_text(field, value);
    line.push_back(text.substr(0, text.find(' ')));
    line.push_back(text.substr(text.find(' ') + 1));
  }
  CHECK(line.size() == 40);
  CHECK(same(settled(line).configuration, every));
  CHECK(parsed({"--patch-size", "8", "--embed-dim", "96"}).given == parsed({"--patch", "8", "--dim", "96"}).given);
  CHECK(parsed(line).given == nlohmann::json(fields));
  CHECK(is_model_flag("img-size"));
  CHECK(is_model_flag("patch"));
  CHECK_FALSE(is_model_flag("batch-size"));
}

TEST_CASE("model flags: the picture's size is one number, two, or with a cross between, and a folder stays a folder") {
  nlohmann::json const square{{"image", {384, 384}}}, wide{{"image", {384, 320}}};
  CHECK(parsed({"--img-size", "384"}).given == square);
  CHECK(parsed({"--img-size", "384x320"}).given == wide);
  CHECK(parsed({"--img-size", "384", "320"}).given == wide);
  CHECK(parsed({"--img-size", "384", "320", "pictures"}).given == wide);
  CHECK(parsed({"--img-size", "384", "pictures"}).given == square);
  CHECK(contains(refused({"--img-size", "big"}), "big is neither pixels a side, as 384, nor HEIGHTxWIDTH, as 384x320"));
  CHECK(contains(refused({"--img-size", "384x"}), "384x is neither"));
  CHECK(contains(refused({"--depth", "99999999999"}), "99999999999 is no whole number up to 2147483647"));
  CHECK(contains(refused({"--attn-layers", "4,64"}), "4,64 is no list of layers from 0 to 63, as 4,8, nor none"));
  CHECK(contains(refused({"--eps", "nan"}), "nan is no number"));
  CHECK(contains(refused({"--variant", "both"}), "both"));
  CHECK(settled({"--attn-layers", "none"}).configuration.attn_layers.bits == 0);
  CHECK(settled({"--attn-layers", "8,4"}).configuration.attn_layers.bits == layers(4, 8).bits);
}

TEST_CASE("model flags: a list in a file of flags is a list") {
  scratch_folder const folder;
  test::write_raw(folder / "flags.toml", "img-size = [384, 320]\nattn-layers = [4, 8]\ndepth = 12\n");
  told_model const told = settled({"-c", (folder / "flags.toml").string()});
  CHECK(told.name == "tiny with image 384 x 320, depth 12, attn_layers 4, 8");
}

TEST_CASE("model flags: a broken rule is said with its sentence, the flags, the rest of it, and what would fit") {
  CHECK(
      refused({"--dim", "256"}) ==
      "dm2::config: expand * dim must be a multiple of headdim: --dim 256, with expand 2, headdim 48 of --model tiny; "
      "--headdim 32 or 64 would fit");
  CHECK(refused({"--dim", "256", "--headdim", "48"})
            .starts_with(
                "dm2::config: expand * dim must be a multiple of headdim: --dim 256, --headdim 48, with expand 2 of"));
  CHECK(refused({"--depth", "12"}) ==
        "dm2::config: every layer number of attn_layers must be below depth: --depth 12, with attn_layers 10, 20 of "
        "--model tiny; --attn-layers 5,10 would fit, and so would --attn-layers none");
  CHECK(contains(refused({"--img-size", "230"}),
                 ": --img-size 230, with patch 16 of --model tiny; --img-size 224 or 240 "
                 "would fit"));
  CHECK(contains(refused({"--img-size", "224x230"}), "--img-size 224 or 224x240 would fit"));
  CHECK(contains(refused({"--groups", "3"}), "; --groups 2 or 4 would fit"));
  CHECK(contains(refused({"--attn-head-dim", "40"}), "; --attn-rotary 20 would fit"));
  CHECK(contains(refused({"--patch", "7"}), "; --patch 6 or 8 would fit"));
  CHECK(contains(refused({"--depth", "65"}), "dm2::config: depth must be 1..64: --depth 65"));
  CHECK(refused({"--num-classes", "2000000000"}) ==
        "dm2::config: no field may be over 1000000: --num-classes 2000000000");
  CHECK(contains(refused({"--in-chans", "1"}),
                 "the programs read pictures of 3 channels, and the model of --model tiny "
                 "takes 1"));
  CHECK_FALSE(refused({"--dim", "2147483647", "--expand", "2147483647", "--headdim", "48"}).empty());
}

TEST_CASE("model flags: what a hint says fits does fit") {
  CHECK(settled({"--dim", "256", "--headdim", "32"}).configuration.headdim == 32);
  CHECK(settled({"--dim", "256", "--headdim", "64"}).configuration.headdim == 64);
  CHECK(settled({"--depth", "12", "--attn-layers", "5,10"}).configuration.depth == 12);
  CHECK(settled({"--attn-head-dim", "40", "--attn-rotary", "20"}).configuration.attn_rotary == 20);
  CHECK(settled({"--groups", "4"}).configuration.groups == 4);
}

TEST_CASE("model flags: a checkpoint is what is run, and flags that agree with it are no matter") {
  config const mine = changed(tiny, [](config& c) {
    c.classes = 37;
    c.image = {384, 384};
  });
  for (words const& line :
       std::vector<words>{{}, {"--model", "tiny"}, {"--num-classes", "37"}, {"--img-size", "384"}}) {
    told_model const told = settled(line, 12, checkpoint(mine));
    CHECK(same(told.configuration, mine));
    CHECK(told.name == "tiny with image 384 x 384, classes 37");
    CHECK(told.source == "run/last.safetensors");
  }
  CHECK(refused({"--num-classes", "12"}, checkpoint(mine)) ==
        "--num-classes 12 contradicts run/last.safetensors, whose model has classes 37");
  CHECK(refused({"--img-size", "224"}, checkpoint(mine)) ==
        "--img-size 224 contradicts run/last.safetensors, whose model has image 384 x 384");
  CHECK(refused({"--model", "small"}, checkpoint(mine)) ==
        "--model small (dim 384) contradicts run/last.safetensors, whose model has dim 192");
}

TEST_CASE("model file: TOML and JSON are a preset and fields over it") {
  scratch_folder const folder;
  auto const toml = folder / "mine.toml", json = folder / "mine.json";
  test::write_raw(toml,
                  "# ours\nbase = \"quick\"\nimage = [96, 64]\nclasses = 37\nattn_layers = [0, 3]\neps = 1e-6\n"
                  "variant = \"published\"\n");
  test::write_raw(
      json, R"({"base":"quick","image":[96,64],"classes":37,"attn_layers":[0,3],"eps":1e-6,"variant":"published"})");
  config const want = changed(presets::quick, [](config& c) {
    c.image = {96, 64};
    c.classes = 37;
    c.attn_layers = layers(0, 3);
    c.eps = 1e-6;
    c.variant = mixer_variant::published;
  });
  for (auto const& path : {toml, json}) {
    told_model const told = settled({"--model", path.string()}, 5);
    CHECK(same(told.configuration, want));
    CHECK(told.source == path.string());
  }
  CHECK(settled({"-m", toml.string(), "--num-classes", "3"}).configuration.classes == 3);
  test::write_raw(toml, "image = 64\nattn_layers = []\n");
  CHECK(settled({"--model", toml.string()}, 5).name == "tiny with image 64 x 64, classes 5, attn_layers none");
  test::write_raw(toml, "# don't mind [this\nimage = [64, 64]  # nor \"this\nattn_layers = [3]\n");
  CHECK(settled({"--model", toml.string()}).configuration.attn_layers.bits == layers(3).bits);
  test::write_raw(toml, "attn_layers = 4\n");
  CHECK(settled({"--model", toml.string()}).configuration.attn_layers.bits == layers(4).bits);
}

TEST_CASE("model file: what no model has is refused by file and field") {
  scratch_folder const folder;
  auto const why = [&](char const* name, std::string const& text) {
    auto const path = folder / name;
    test::write_raw(path, text);
    return test::refusal(path, [&] { (void)read_model_file(path); });
  };
  CHECK(why("m.toml", "dept = 3\n") == "has a field 'dept', which no model has; the nearest is 'depth'");
  CHECK(why("m.json", R"({"dims":3})") == "has a field 'dims', which no model has; the nearest is 'dim'");
  CHECK(why("m.toml", "depth = \"deep\"\n") == "config: depth is \"deep\", not a number of pixels, channels or layers");
  CHECK(why("m.toml", "depth = 3\ndim = 8\ndepth = 4\n") == "has the field 'depth' twice");
  CHECK(why("m.toml", "[model]\ndepth = 3\n") == "has a table [model]: a model's fields stand by themselves");
  for (char const* text : {"base = \"\xff\"\n", "dim = \"\xff\"\n", "\xff = 1\n"})
    CHECK(why("m.toml", text) == "is not UTF-8 text");
  for (char const* text :
       {"attn_layers = [5,", "attn_layers = [5, 7\n", "base = \"qui", "variant = 'published\n", "]\n"})
    CHECK(why("m.toml", text) == "ends inside a list or a quoted word");
  CHECK(why("m.json", "{\"dim\": \"\xff\"}") == "is not UTF-8 text");
  CHECK(why("m.toml", "#" + std::string(1 << 20, ' ')) == "is over 1 MiB, which no description of a model is");
  CHECK(why("m.toml", "[a]\nb = 1\n#" + std::string((1 << 20) - 11, ' ')) ==  // 1 MiB is read
        "has a table [a]: a model's fields stand by themselves");
  CHECK(why("m.toml", "base = \"big\"\n") == "base \"big\" is none of tiny, small, quick, micro");
  CHECK(why("m.json", "[1]") == "is not a JSON object of a model's fields");
  CHECK(why("m.json", "{") == "is not a JSON object of a model's fields");
  CHECK(why("m.json", R"({"attn_layers":[64]})") == "config: attn_layers cannot be [64]");
  CHECK(why("m.json", std::string(std::size_t{1} << 20, ' ') + "{}") ==
        "is over 1 MiB, which no description of a model is");
  auto const none = folder / "none.toml";
  CHECK(test::refusal(none, [&] { (void)read_model_file(none); }) == "cannot be opened: No such file or directory");
  test::write_raw(folder / "odd.toml", "headdim = 50\n");
  CHECK(contains(test::refusal(folder / "odd.toml",
                               [&] {
                                 (void)settled({"--model", (folder / "odd.toml").string()});
                               }),
                 "dm2::config: expand * dim must be a multiple of headdim"));
  CHECK(refused({"--model", "tinny"}) ==
        "--model tinny is none of tiny, small, quick, micro, nor a file that ends in .toml or .json; the nearest is "
        "tiny");
}
