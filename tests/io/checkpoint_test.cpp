#include <dm2/io/checkpoint.hpp>
#include <dm2/io/class_names.hpp>

#include "io/make_torch.hpp"
#include "io/refusal.hpp"
#include "io/scratch.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <vector>

using dm2::entry_kind;
using namespace dm2::test;

namespace {
constexpr dm2::config small_config{.depth = 2, .dim = 32, .attn_layers = dm2::layers(1)};

/// The least that load and save ask of a model; entries lie apart and out of order.
template <class T>
struct small_model {
  static constexpr dm2::config configuration = small_config;
  static constexpr std::array<dm2::parameter_entry, 4> entries{
      {{"w", {2, 3, 1, 1}, 2, 8, 6, entry_kind::parameter},
       {"layers.0.w", {3, 1, 1, 1}, 1, 0, 3, entry_kind::parameter},
       {"bn.mean", {2, 1, 1, 1}, 1, 4, 2, entry_kind::statistic},
       {"bn.count", {1, 1, 1, 1}, 0, 1, 1, entry_kind::counter}}};
  std::vector<T> values = std::vector<T>(16, T(-1));
  std::vector<std::int64_t> counts{-1, -1};

  std::span<dm2::parameter_entry const> table() const { return entries; }
  std::span<T> state() { return values; }
  std::span<T const> state() const { return values; }
  std::span<std::int64_t> counters() { return counts; }
  std::span<std::int64_t const> counters() const { return counts; }
};

struct other_model : small_model<float> {
  static constexpr dm2::config configuration{.depth = 2, .dim = 64, .attn_layers = dm2::layers(1)};
};

template <class T>
small_model<T> filled() {
  small_model<T> net;
  for (auto const& e : net.table())
    for (std::size_t i = 0; e.kind != entry_kind::counter && i < e.size; ++i)
      net.values[e.offset + i] = T(0.1) * T(e.offset + i + 1) * (i % 2 == 0 ? T(1) : T(-1e-30));
  net.counts[1] = (std::int64_t{1} << 60) + 1;
  return net;
}
std::string floats(std::size_t count) {
  std::string out;
  for (std::size_t i = 0; i < count; ++i) out += raw(static_cast<float>(i));
  return out;
}
/// A state dict for small_model, `prefix` before each name; `more` are further items.
std::string state_dict(std::string const& prefix, std::string const& more = "",
                       std::string const& class_of_count = "LongStorage") {
  return dict(text(prefix + "w") + tensor("FloatStorage", "0", 6, 0, {2, 3}, {1, 2}) + text(prefix + "layers.0.w") +
              tensor("FloatStorage", "0", 6, 0, {3}, {1}) + text(prefix + "bn.mean") +
              tensor("FloatStorage", "0", 6, 4, {2}, {1}) + text(prefix + "bn.count") +
              tensor(class_of_count, "1", 1, 0, {}, {}) + more);
}
std::string torch_file_of(std::string const& pickle) {
  return make_torch_zip(pickle, {floats(6), raw<std::int64_t>(5)});
}

std::string load_refused(std::string const& bytes) {
  scratch_folder const folder;
  write_raw(folder / "f", bytes);
  auto net = filled<float>();
  auto const before = net;
  std::string const why = refusal(folder / "f", [&] { dm2::load(net, folder / "f"); });
  CHECK(net.values == before.values);
  CHECK(net.counts == before.counts);
  return why;
}
}  // namespace

TEST_CASE_TEMPLATE("checkpoint: saving and loading gives every bit back, and nothing between the entries", T, float,
                   double) {
  scratch_folder const folder;
  auto const saved = filled<T>();
  dm2::save(saved, folder / "f", {{"note", "kept"}});
  small_model<T> loaded;
  dm2::load(loaded, folder / "f");
  CHECK(std::memcmp(loaded.values.data(), saved.values.data(), sizeof(T) * saved.values.size()) == 0);
  CHECK(loaded.counts == saved.counts);
  dm2::tensor_file const file{folder / "f"};
  CHECK(file.metadata().at("format") == "pt");
  CHECK(file.metadata().at("note") == "kept");
  CHECK(dm2::config_differences(small_config, nlohmann::json::parse(file.metadata().at("config"))).empty());
  CHECK(file.tensors()[0].name == "w");
  CHECK(file.at("w").type == (sizeof(T) == 4 ? dm2::dtype::f32 : dm2::dtype::f64));
}

TEST_CASE("checkpoint: saves in one precision load in the other") {
  scratch_folder const folder;
  auto const wide = filled<double>();
  dm2::save(wide, folder / "f");
  small_model<float> narrow;
  dm2::load(narrow, folder / "f");
  for (std::size_t i : {0u, 1u, 2u, 4u, 5u, 8u, 13u}) CHECK(narrow.values[i] == static_cast<float>(wide.values[i]));
}

TEST_CASE("checkpoint: strided torch tensors land row-major, under names with or without a common prefix") {
  scratch_folder const folder;
  for (char const* prefix : {"", "model.", "_orig_mod.", "model._orig_mod.", "module.model.", "student/net."}) {
    CAPTURE(std::string{prefix});
    write_raw(folder / "f", torch_file_of(dict(text("state_dict") + state_dict(prefix))));
    small_model<float> net;
    dm2::load(net, folder / "f");
    CHECK(net.values == std::vector<float>{0, 1, 2, -1, 4, 5, -1, -1, 0, 2, 4, 1, 3, 5, -1, -1});
    CHECK(net.counts == std::vector<std::int64_t>{-1, 5});
  }
}

TEST_CASE("checkpoint: every missing, surplus and mis-shaped tensor is named, and the model stays as it was") {
  std::string const vector = tensor("FloatStorage", "0", 6, 0, {6}, {1});
  std::string const why = load_refused(torch_file_of(
      dict(text("w") + vector + text("bn.mean") + vector + text("extra") + vector + text("more") + vector)));
  CHECK(why ==
        "does not fit the model (6 differences)"
        "\n  shape: w is [6] in the file, [2, 3] in the program"
        "\n  missing: layers.0.w [3]"
        "\n  shape: bn.mean is [6] in the file, [2] in the program"
        "\n  missing: bn.count []"
        "\n  surplus: extra [6]"
        "\n  surplus: more [6]");
  CHECK(contains(load_refused(torch_file_of(state_dict("", "", "DoubleStorage"))),
                 "type: bn.count is F64, an integer is expected"));
}

TEST_CASE("checkpoint: tensors beside a whole model are named and left out, one more of the model's own is refused") {
  scratch_folder const folder;
  std::string const vector = tensor("FloatStorage", "0", 6, 0, {6}, {1});
  write_raw(folder / "f", torch_file_of(state_dict("model.", text("criterion.weight") + vector +
                                                                 text("model.layers.0.total_ops") + vector)));
  small_model<float> net;
  CHECK(dm2::load(net, folder / "f") ==
        std::vector<std::string>{"'criterion.weight' [6] is no part of the model and left out",
                                 "'model.layers.0.total_ops' [6] is no part of the model and left out"});
  CHECK(net.values == std::vector<float>{0, 1, 2, -1, 4, 5, -1, -1, 0, 2, 4, 1, 3, 5, -1, -1});
  for (char const* own : {"model.layers.0.extra", "model.bn.var"})
    CHECK(contains(load_refused(torch_file_of(state_dict("model.", text(own) + vector))),
                   "(1 difference)\n  surplus: " + std::string{own} + " [6]"));
  CHECK(contains(load_refused(torch_file_of(state_dict("model.", text("model.layers.1.w") + vector))),
                 "(1 difference): 2 layers in the file, 1 in the program\n  surplus: model.layers.1.w [6]"));
}

TEST_CASE("checkpoint: _orig_mod is dropped wherever it stands") {
  scratch_folder const folder;
  std::string const storage = "FloatStorage";
  write_raw(folder / "f", torch_file_of(dict(text("w") + tensor(storage, "0", 6, 0, {2, 3}, {1, 2}) +
                                             text("layers._orig_mod.0.w") + tensor(storage, "0", 6, 0, {3}, {1}) +
                                             text("bn._orig_mod.mean") + tensor(storage, "0", 6, 4, {2}, {1}) +
                                             text("_orig_mod.bn.count") + tensor("LongStorage", "1", 1, 0, {}, {}))));
  small_model<float> net;
  CHECK(dm2::load(net, folder / "f").empty());
  CHECK(net.values == std::vector<float>{0, 1, 2, -1, 4, 5, -1, -1, 0, 2, 4, 1, 3, 5, -1, -1});
  CHECK(net.counts == std::vector<std::int64_t>{-1, 5});
}

TEST_CASE("checkpoint: a prefix that some names have and others lack, the names being the model's either way") {
  scratch_folder const folder;
  std::string const storage = "FloatStorage";
  write_raw(folder / "f", torch_file_of(dict(text("backbone.w") + tensor(storage, "0", 6, 0, {2, 3}, {1, 2}) +
                                             text("backbone.layers.0.w") + tensor(storage, "0", 6, 0, {3}, {1}) +
                                             text("module.bn.mean") + tensor(storage, "0", 6, 4, {2}, {1}) +
                                             text("bn.count") + tensor("LongStorage", "1", 1, 0, {}, {}))));
  small_model<float> net;
  CHECK(dm2::load(net, folder / "f").empty());
  CHECK(net.counts == std::vector<std::int64_t>{-1, 5});
}

TEST_CASE("checkpoint: two names that mean one entry are refused, and both are named") {
  std::string const vector = tensor("FloatStorage", "0", 6, 0, {6}, {1});
  CHECK(
      contains(load_refused(torch_file_of(state_dict("", text("model.w") + vector))), "'w' and 'model.w' are both w"));
  CHECK(contains(load_refused(torch_file_of(state_dict("", text("layers.0._orig_mod.w") + vector))),
                 "'layers.0.w' and 'layers.0._orig_mod.w' are both layers.0.w"));
  std::string twice = state_dict("student.");
  twice.insert(twice.size() - 1, state_dict("teacher.").substr(2, state_dict("teacher.").size() - 3));
  CHECK(contains(load_refused(torch_file_of(twice)), "holds a whole model under each of 'student.' and 'teacher.'"));
}

TEST_CASE("checkpoint: a misfit is said in ten lines, its cause first") {
  std::string const vector = tensor("FloatStorage", "0", 6, 0, {6}, {1});
  std::string vit, glued;
  for (int i = 0; i < 40; ++i) vit += text("blocks." + std::to_string(i) + ".attn.qkv.weight") + vector;
  std::string const why = load_refused(torch_file_of(dict(vit)));
  CHECK(contains(why,
                 "does not fit the model (44 differences): it looks like a Vision Transformer (timm's names), not "
                 "like a DeMansia 2\n  missing: w [2, 3]\n"));
  CHECK(contains(why, "\n  ... and 36 more"));
  CHECK(std::count(why.begin(), why.end(), '\n') == 9);
  for (char const* name : {"w", "layers.0.w", "bn.mean", "bn.count"})
    glued += text("net_" + std::string{name}) + vector;
  CHECK(contains(load_refused(torch_file_of(dict(glued))),
                 "all names begin with 'net_', without which they would be the model's"));
  CHECK(contains(load_refused(torch_file_of(dict(text("a.b") + vector))),
                 "none of its 1 names, such as 'a.b', is one of the model's"));
}

TEST_CASE("checkpoint: hyper-parameters and metadata that are no configuration do not stand in the way") {
  scratch_folder const folder;
  std::string const object = global("numpy.core.multiarray", "scalar") + ")R";
  write_raw(folder / "f", torch_file_of(dict(text("state_dict") + state_dict("") + text("hyper_parameters") +
                                             dict(text("depth") + object + text("d_model") + text("wide") +
                                                  text("img_size") + object + "N" + "K\1"))));
  small_model<float> net;
  auto const notices = dm2::load(net, folder / "f");
  REQUIRE(notices.size() == 3);
  for (char const* field : {"depth", "dim", "image"})
    CHECK(std::any_of(notices.begin(), notices.end(), [&](std::string const& line) {
      return line.starts_with("hyper_parameters: " + std::string{field} + " is ") &&
             line.ends_with("which cannot be compared");
    }));
  CHECK(net.counts == std::vector<std::int64_t>{-1, 5});
  auto const saved = filled<float>();
  dm2::save(saved, folder / "s");
  dm2::tensor_file const file{folder / "s"};
  for (char const* config : {"resnet50", "{\"depth\":\"two\"}", "{\"hidden_size\":3}", "[1]", "null"}) {
    dm2::write_safetensors(folder / "g", file.tensors(), {{"config", config}});
    CHECK(dm2::load(net, folder / "g") ==
          std::vector<std::string>{"metadata 'config' is not a configuration of dm2's, and is not compared"});
  }
  dm2::write_safetensors(folder / "g", file.tensors(), {{"config", R"({"depth":9})"}});
  CHECK(contains(refusal(folder / "g", [&] { dm2::load(net, folder / "g"); }), "configuration: depth: 9 in the file"));
}

TEST_CASE("checkpoint: numbers that are not finite are named when they are loaded, with their place") {
  scratch_folder const folder;
  auto wide = filled<double>();
  wide.values[2] = 1e300;  // layers.0.w [2]
  wide.values[9] = -std::numeric_limits<double>::infinity();
  wide.values[12] = std::numeric_limits<double>::quiet_NaN();
  dm2::save(wide, folder / "f");
  small_model<float> narrow;
  auto const lines = dm2::load(narrow, folder / "f");
  REQUIRE(lines.size() == 2);
  CHECK(lines[0] == "'w': 2 of 6 numbers are not finite, the first -inf at [0, 1]");
  CHECK(contains(lines[1], "'layers.0.w': 1 of 3 numbers is not finite, the first 1"));
  CHECK(contains(lines[1], "beyond the type's range, at [2]"));
  small_model<double> same;
  CHECK(dm2::load(same, folder / "f").size() == 1);
}

TEST_CASE("checkpoint: a configuration other than the program's is refused, field by field") {
  auto const lightning =
      torch_file_of(dict(text("state_dict") + state_dict("") + text("hyper_parameters") +
                         dict(text("depth") + "K\3" + text("d_model") + "K\x20" + text("num_classes") + "K\5")));
  CHECK(load_refused(lightning) ==
        "does not fit the model (2 differences)"
        "\n  configuration: classes: 5 in the file, 1000 in the program"
        "\n  configuration: depth: 3 in the file, 2 in the program");
  scratch_folder const folder;
  dm2::save(other_model{}, folder / "f");
  small_model<float> net;
  CHECK(contains(refusal(folder / "f", [&] { dm2::load(net, folder / "f"); }),
                 "configuration: dim: 64 in the file, 32 in the program"));
  CHECK(net.values == small_model<float>{}.values);
}

TEST_CASE("checkpoint: a save that fails leaves the old file whole; the reserved metadata keys are refused") {
  scratch_folder const folder;
  auto const net = filled<float>();
  dm2::save(net, folder / "f");
  auto const before = read_raw(folder / "f");
  CHECK_THROWS_AS(dm2::save(net, folder / "f", {{"text", "\xFF"}}), dm2::file_error);
  CHECK_THROWS_AS(dm2::save(net, folder / "f", {{"config", "{}"}}), std::invalid_argument);
  CHECK_THROWS_AS(dm2::save(net, folder / "none/f"), dm2::file_error);
  CHECK(read_raw(folder / "f") == before);
  CHECK(folder.files() == 1);
}

TEST_CASE("class names: kept in the metadata, in order; anything else than strings is refused") {
  scratch_folder const folder;
  std::vector<std::string> const names{"tench, Tinca tinca", "class10", "class2", "caf\xC3\xA9 \"x\""};
  auto const net = filled<float>();
  dm2::save(net, folder / "f", {{dm2::class_names_key, dm2::class_names_text(names)}});
  CHECK(dm2::read_class_names(dm2::tensor_file{folder / "f"}) == names);
  dm2::save(net, folder / "f");
  CHECK(dm2::read_class_names(dm2::tensor_file{folder / "f"}).empty());
  for (char const* bad : {"{}", "[1]", "[\"a\"", "null"}) {
    dm2::save(net, folder / "f", {{dm2::class_names_key, bad}});
    CHECK(contains(refusal(folder / "f", [&] { (void)dm2::read_class_names(dm2::tensor_file{folder / "f"}); }),
                   "not a JSON array of strings"));
  }
}
