// What the programs answer to weights that are odd, and to files that are something else.
#include <dm2/data/encode_png.hpp>
#include <dm2/io/safetensors_write.hpp>
#include <dm2/io/tensor_file.hpp>

#include <nlohmann/json.hpp>

#include "examples/run_program.hpp"
#include "io/make_torch.hpp"
#include "io/refusal.hpp"

#include <doctest/doctest.h>

#include <cstddef>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

using namespace dm2::test;

namespace {

outcome convert(std::vector<std::string> const& arguments) { return run_program(DM2_CONVERT, arguments); }
outcome classify(std::string const& weights, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"--device", "cpu", "--weights", weights});
  return run_program(DM2_CLASSIFY, arguments);
}

/// The golden model's averaged weights, to be changed and written under another name.
struct golden_weights {
  dm2::tensor_file file{golden_file(ema_checkpoint)};
  std::vector<dm2::stored_tensor> tensors{file.tensors().begin(), file.tensors().end()};
  std::vector<float> changed;

  void rename(std::function<std::string(std::string)> const& change) {
    for (dm2::stored_tensor& t : tensors) t.name = change(t.name);
  }
  /// Puts `value` at the end of a tensor.
  void spoil(std::string const& name, float value) {
    for (dm2::stored_tensor& t : tensors) {
      if (t.name != name) continue;
      changed = dm2::to_vector<float>(t);
      changed.back() = value;
      t.data = reinterpret_cast<std::byte const*>(changed.data());
      t.strides = dm2::detail::contiguous_strides(t.shape);
    }
  }
  [[nodiscard]] std::string write(std::filesystem::path const& path,
                                  std::map<std::string, std::string> const& metadata = {}) const {
    dm2::write_safetensors(path, tensors, metadata);
    return path.string();
  }
};

float const not_a_number = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();

/// A set of two pictures in as many of the ten classes' folders.
void write_set(std::filesystem::path const& root) {
  for (int c = 0; c < 10; ++c) std::filesystem::create_directories(root / ("class" + std::to_string(c)));
  for (char const* name : {"class0/a.jpg", "class3/b.jpg"})
    std::filesystem::copy_file(golden_file("images/photo.jpg"), root / name);
}

}  // namespace

TEST_CASE("answers: another program's key 'training' hides nothing, and is kept") {
  scratch_folder const folder;
  float const three[]{1, 2, 3};
  dm2::write_safetensors(
      folder / "f",
      std::vector{dm2::stored_tensor{"a", dm2::dtype::f32, {3}, {1}, reinterpret_cast<std::byte const*>(three)}},
      {{"training", "lr 0.1"}});
  CHECK(contains(convert({(folder / "f").string(), "--list"}).out, "1 tensor, 3 numbers, 12 bytes; safetensors\n"));
  CHECK(convert({(folder / "f").string(), (folder / "g").string()}).code == 0);
  dm2::tensor_file const copy{folder / "g"};
  CHECK(dm2::to_vector<float>(copy.at("a")) == std::vector<float>{1, 2, 3});
  CHECK(copy.metadata().at("training") == "lr 0.1");
}

TEST_CASE("answers: nothing to list or to convert is an error") {
  scratch_folder const folder;
  std::string const empty = make_torch_zip(dict(text("state_dict") + dict("")), {}), file = (folder / "f").string();
  write_raw(file, empty);
  for (std::vector<std::string> const& arguments :
       {std::vector{file, std::string{"--list"}}, {file, (folder / "o").string()}}) {
    auto const got = convert(arguments);
    CHECK(got.code == 3);
    CHECK(contains(got.err, "f: state_dict holds no tensor"));
    CHECK(got.out.empty());
  }
  CHECK(folder.files() == 1);
}

TEST_CASE("answers: averages that Lightning's own callback keeps are told from the weights") {
  scratch_folder const folder;
  std::string const file = (folder / "c.ckpt").string(), out = (folder / "o").string();
  auto const state = [](char const* storage) {
    return dict(text("a") + tensor("FloatStorage", storage, 1, 0, {1}, {1}));
  };
  write_raw(file, make_torch_zip(dict(text("pytorch-lightning_version") + text("2.6.6") + text("state_dict") +
                                      state("0") + text("current_model_state") + state("1") + text("averaging_state") +
                                      dict(text("n_averaged") + integer(3))),
                                 {raw(1.0f), raw(0.0f)}));
  auto const value = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"--force", file, out});
    CHECK(convert(more).code == 0);
    return dm2::to_vector<float>(dm2::tensor_file{out}.at("a"))[0];
  };
  CHECK(value({"--raw"}) == 0);
  CHECK(value({"--ema"}) == 1);
  CHECK(value({}) == 1);
  CHECK(nlohmann::json::parse(convert({file, "--metadata"}).out)["averaged"] == true);
  CHECK(nlohmann::json::parse(convert({file, "--metadata", "--raw"}).out)["averaged"] == false);
}

TEST_CASE("answers: what wrappers put into names, one tensor too many and foreign metadata change nothing") {
  scratch_folder const folder;
  std::vector<std::string> const see{"images/photo.jpg", "--csv", "--top", "2"};
  std::string const expected = classify(ema_checkpoint, see).out;
  REQUIRE(!expected.empty());
  golden_weights compiled;
  compiled.rename([](std::string const& name) {
    return name.starts_with("patch_embed.") ? "patch_embed._orig_mod." + name.substr(12) : "module.model." + name;
  });
  auto const got = classify(compiled.write(folder / "c"), see);
  CHECK(got.out == expected);
  CHECK(lines_of(got.err).size() == 1);
  CHECK(contains(got.err, "c: its names and shapes are those of 'micro'"));
  golden_weights more;
  float const one = 1;
  more.tensors.push_back({"loss\x1B[2J.weight", dm2::dtype::f32, {1}, {1}, reinterpret_cast<std::byte const*>(&one)});
  auto const noted = classify(more.write(folder / "m", {{"config", "resnet"}, {"class_names", "cat,dog"}}), see);
  CHECK(noted.code == 0);
  CHECK(noted.out == expected);
  CHECK(contains(noted.err, "m: 'loss?[2J.weight' [1] is no part of the model and left out\n"));
  CHECK(contains(noted.err, "m: metadata 'config' is not a configuration of dm2's"));
  CHECK(contains(noted.err, "m: metadata 'class_names' is not a JSON array of strings"));
  CHECK(lines_of(noted.err).size() == 4);
}

TEST_CASE("answers: a file of another network is called that, in few lines") {
  scratch_folder const folder;
  golden_weights vit;
  int n = 0;
  vit.rename([&](std::string const&) { return "blocks." + std::to_string(n++) + ".attn.qkv.weight"; });
  std::string const file = vit.write(folder / "v");
  for (std::vector<std::string> const& asked : {std::vector<std::string>{}, {"--model", "micro"}}) {
    std::vector<std::string> all{"images/photo.jpg"};
    all.insert(all.end(), asked.begin(), asked.end());
    auto const got = classify(file, all);
    CHECK(got.code == 3);
    CHECK(contains(got.err, "it looks like a Vision Transformer"));
    CHECK(lines_of(got.err).size() <= 10);
  }
  auto const tiny = classify(ema_checkpoint, {"images/photo.jpg", "--model", "tiny"});
  CHECK(tiny.code == 2);
  CHECK(contains(tiny.err, "--model tiny (depth 24) contradicts epoch=0-step=2-EMA.ckpt, whose model has depth 4"));
  CHECK(lines_of(tiny.err).size() <= 10);
}

TEST_CASE("answers: weights that are not finite are named, by every program, and no class is made of them") {
  scratch_folder const folder;
  write_set(folder / "set");
  std::vector<std::pair<float, std::string>> const cases{
      {not_a_number, "nan"}, {-not_a_number, "nan"}, {inf, "inf"}, {-inf, "-inf"}};
  for (auto const& [value, word] : cases) {
    golden_weights spoiled;
    spoiled.spoil("head.weight", value);
    std::string const file = spoiled.write(folder / "n");
    std::string const line = "'head.weight': 1 of 320 numbers is not finite, the first " + word + " at [9, 31]";
    for (std::vector<std::string> const& form : {std::vector<std::string>{"--csv"}, {"--json"}, {}}) {
      std::vector<std::string> all{"images/photo.jpg"};
      all.insert(all.end(), form.begin(), form.end());
      auto const got = classify(file, all);
      CHECK(got.code == 3);
      CHECK(got.out.empty());
      CHECK(contains(got.err, line));
    }
    auto const counted = run_program(DM2_EVALUATE, {(folder / "set").string(), "-w", file, "--device", "cpu"});
    CHECK(counted.code == 3);
    CHECK(counted.out.empty());
    CHECK(contains(counted.err, line));
    auto const copied = convert({file, (folder / "o").string(), "--force"});
    CHECK(copied.code == 0);
    CHECK(contains(copied.err, "convert: note: "));
    CHECK(contains(copied.err, line));
  }
}

TEST_CASE("answers: weights that are finite and results that are not: no picture gets a class") {
  scratch_folder const folder;
  write_set(folder / "set");
  golden_weights huge;
  huge.spoil("head.bias", 3e38f);
  for (dm2::stored_tensor& t : huge.tensors)  // the patches' best, halved, is added to it
    if (t.name == "aux_head.bias") t.data = reinterpret_cast<std::byte const*>(huge.changed.data());
  std::string const file = huge.write(folder / "h");
  auto const got = classify(file, {"images/photo.jpg", "images/rgb.png", "--json"});
  CHECK(got.code == 1);
  CHECK(contains(got.err, "images/photo.jpg: the model's logits are not finite numbers"));
  for (auto const& one : nlohmann::json::parse(got.out)) CHECK(one.contains("error"));
  auto const table = classify(file, {"images/photo.jpg", "--csv"});
  CHECK(table.code == 1);
  CHECK(lines_of(table.out).size() == 1);  // the titles
  auto const counted = run_program(DM2_EVALUATE, {(folder / "set").string(), "-w", file, "--device", "cpu"});
  CHECK(counted.code == 3);
  CHECK(counted.out.empty());
  CHECK(contains(counted.err, "a.jpg: the model's logits are not finite numbers"));
}

TEST_CASE("answers: names with controls in them reach no terminal raw, in any form of output") {
  scratch_folder const folder;
  std::filesystem::create_directories(folder / "p");
  for (char const* name : {"p/a\x1B[31m.png", "p/b\x7F\xC2\x9B.png", "p/c\r.png"})
    std::filesystem::copy_file(golden_file("images/rgb.png"), folder / name);
  write_raw(folder / "p/d\x1B.png", "no picture");
  auto const safe = [](std::string const& all) {
    for (std::size_t i = 0; i < all.size(); ++i) {
      auto const byte = static_cast<unsigned char>(all[i]);
      if ((byte < 0x20 && byte != '\n') || byte == 0x7F) return false;
      if (byte == 0xC2 && i + 1 < all.size() && static_cast<unsigned char>(all[i + 1]) < 0xA0) return false;
    }
    return true;
  };
  for (std::vector<std::string> const& form : {std::vector<std::string>{"--csv"}, {"--json"}, {}}) {
    std::vector<std::string> all{(folder / "p").string(), "--top", "1"};
    all.insert(all.end(), form.begin(), form.end());
    auto const got = classify(ema_checkpoint, all);
    CHECK(got.code == 1);
    CHECK(safe(got.out));
    CHECK(safe(got.err));
  }
  CHECK(safe(classify("gone\x1B[2J", {"images/rgb.png"}).err));
  CHECK(safe(convert({"gone", "--list", "--names", "\x1B[2J"}).err));
  CHECK(safe(run_program(DM2_MAKE_SHAPES, {"-o", (folder / "s\x1B").string(), "--train", "1", "--val", "1"}).out));
  golden_weights odd;
  auto const metadata = convert({odd.write(folder / "w", {{"k\x7F",
                                                           "v\xC2\x9B"
                                                           "\x1B"}}),
                                 "--metadata"});
  CHECK(safe(metadata.out));
  CHECK(nlohmann::json::parse(metadata.out)["metadata"]["k\x7F"] ==
        "v\xC2\x9B"
        "\x1B");
}

TEST_CASE("answers: a table that cannot be written does not take the result away") {
  scratch_folder const folder;
  write_set(folder / "set");
  auto const got = run_program(DM2_EVALUATE, {(folder / "set").string(), "-w", ema_checkpoint, "--device", "cpu",
                                              "--per-class", (folder / "no/such/t.csv").string()});
  CHECK(got.code == 1);
  CHECK(contains(got.err, "t.csv: cannot be created"));
  CHECK(contains(got.out, "2 pictures"));
}

TEST_CASE("answers: a folder in place of a file is called a folder") {
  CHECK(contains(classify("lightning", {"images/rgb.png"}).err, "lightning: is a folder, not a file"));
  CHECK(contains(convert({"lightning", "--list"}).err, "lightning: is a folder, not a file"));
}
