#include <dm2/io/tensor_file.hpp>

#include "io/make_torch.hpp"
#include "io/refusal.hpp"
#include "io/scratch.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

using dm2::weights;
using namespace dm2::test;

namespace {
bool same_bits(dm2::tensor_file const& got, dm2::tensor_file const& want) {
  if (got.tensors().size() != want.tensors().size()) return false;
  for (auto const& w : want.tensors()) {
    dm2::stored_tensor const* const g = got.find(w.name);
    if (g == nullptr || g->type != w.type || g->shape != w.shape || !g->contiguous()) return false;
    if (std::memcmp(g->data, w.data, w.size() * dm2::size_of(w.type)) != 0) return false;
  }
  return true;
}
std::string floats(std::vector<float> const& values) {
  std::string out;
  for (float v : values) out += raw(v);
  return out;
}
std::string scalar(std::string const& storage_class, char const* key) {
  return tensor(storage_class, key, 1, 0, {}, {});
}

// a checkpoint of a weight "w", a counter "n" and the averages given, as Lightning lays it out
std::string checkpoint(std::string const& averages, std::string const& more = "") {
  return make_torch_zip(dict(text("pytorch-lightning_version") + text("2.0") + text("state_dict") +
                             dict(text("w") + scalar("FloatStorage", "0") + text("n") + scalar("LongStorage", "1")) +
                             text("callbacks") + dict(averages) + more),
                        {floats({1}), raw<std::int64_t>(7), floats({0.5f}), raw<std::int64_t>(3)});
}
std::string const all = list(scalar("FloatStorage", "2") + scalar("LongStorage", "3")),
                  floating = list(scalar("FloatStorage", "2"));
std::string state(std::string const& weights) { return dict(text("ema_weights") + weights); }
}  // namespace

TEST_CASE("lightning: raw weights and averages of the golden checkpoints are the tensors beside them, bit for bit") {
  dm2::tensor_file const raw{golden_file("lightning/epoch=0-step=2.safetensors")};
  dm2::tensor_file const ema{golden_file("lightning/epoch=0-step=2-EMA.safetensors")};
  CHECK_FALSE(same_bits(raw, ema));
  auto const path = golden_file("lightning/epoch=0-step=2.ckpt"),
             ema_path = golden_file("lightning/epoch=0-step=2-EMA.ckpt");
  dm2::tensor_file const chosen{path};
  CHECK(chosen.format() == dm2::file_format::lightning);
  CHECK(chosen.averaged());
  CHECK(same_bits(chosen, ema));
  CHECK(same_bits(dm2::tensor_file{path, weights::ema}, ema));
  dm2::tensor_file const untouched{path, weights::raw};
  CHECK_FALSE(untouched.averaged());
  CHECK(same_bits(untouched, raw));
  for (weights which : {weights::automatic, weights::raw, weights::ema})
    CHECK(same_bits(dm2::tensor_file{ema_path, which}, ema));
  CHECK(chosen.tensors()[0].name == "cls_token");
  CHECK(chosen.tensors()[81].name == "norm_f.weight");
}

TEST_CASE("lightning: hyper_parameters are plain JSON") {
  auto const hyper = dm2::tensor_file{golden_file("lightning/epoch=0-step=2.ckpt")}.hyper_parameters();
  CHECK(hyper["img_size"] == nlohmann::json{64, 64});
  CHECK(hyper["attn_layer_idx"] == nlohmann::json::array({2}));
  CHECK(hyper["ssm_cfg"] == nlohmann::json{{"headdim", 16}, {"d_state", 16}, {"ngroups", 1}});
  CHECK(hyper["learning_rate"] == 0.0001);
  CHECK(hyper["initializer_cfg"] == nullptr);
  CHECK(hyper["dtype"] == "torch.float32");
  CHECK(hyper["rms_norm"] == true);
}

TEST_CASE("lightning: averages with and without the integer entries, under any callback's name") {
  scratch_folder const folder;
  auto const counter = [&](std::string const& callbacks) {
    write_raw(folder / "f", checkpoint(callbacks));
    dm2::tensor_file const file{folder / "f"};
    CHECK(file.averaged());
    CHECK(dm2::to_vector<float>(file.at("w")) == std::vector<float>{0.5f});
    return dm2::to_vector<int>(file.at("n"))[0];
  };
  CHECK(counter(text("EMA") + state(all)) == 3);
  CHECK(counter(text("EMA") + state(floating)) == 7);  // completed from the state dict
  CHECK(counter(text("AverageCallback{}") + state(all)) == 3);
  CHECK(counter(text("Other") + state(floating) + text("EMA") + state(all)) == 3);
}

TEST_CASE("lightning: without averages the state dict is read, and asking for averages is an error") {
  scratch_folder const folder;
  for (std::string const& callbacks : {text("EMA") + state("N"), text("EMAModelCheckpoint") + "}"}) {
    write_raw(folder / "f", checkpoint(callbacks));
    dm2::tensor_file const file{folder / "f"};
    CHECK_FALSE(file.averaged());
    CHECK(dm2::to_vector<float>(file.at("w")) == std::vector<float>{1});
    CHECK(
        contains(refusal(folder / "f", [&] { dm2::tensor_file(folder / "f", weights::ema); }), "holds no EMA weights"));
  }
  auto const plain = golden_file("lightning/epoch=0-step=2.safetensors");
  CHECK(contains(refusal(plain, [&] { dm2::tensor_file(plain, weights::ema); }), "holds one set of weights"));
}

TEST_CASE("lightning: averages that do not fit the state dict are refused") {
  scratch_folder const folder;
  auto const refused = [&](std::string const& callbacks) {
    write_raw(folder / "f", checkpoint(callbacks));
    return refusal(folder / "f", [&] { dm2::tensor_file{folder / "f"}; });
  };
  CHECK(contains(refused(text("EMA") + state(list(scalar("FloatStorage", "2") + scalar("LongStorage", "3") +
                                                  scalar("LongStorage", "3")))),
                 "ema_weights has 3 tensors, the state dict has 2 (1 of them floating-point)"));
  CHECK(contains(
      refused(text("EMA") + state(list(tensor("FloatStorage", "2", 1, 0, {1}, {1}) + scalar("LongStorage", "3")))),
      "ema_weights: 'w' has shape [1] of F32, the state dict [] of F32"));
  CHECK(contains(refused(text("EMA") + state(list(scalar("LongStorage", "3") + scalar("FloatStorage", "2")))),
                 "'w' has shape [] of I64"));
  CHECK(contains(refused(text("A") + state(all) + text("B") + state(all)),
                 "several sets that may be averages: "
                 "'callbacks/A/ema_weights', 'callbacks/B/ema_weights'"));
}

TEST_CASE("lightning: unknown objects matter only where they are needed") {
  scratch_folder const folder;
  std::string const object = global("pathlib", "PosixPath") + text("/tmp") + "\x85R";
  write_raw(folder / "f", checkpoint(text("EMA") + state(all) + text("other") + object,
                                     text("hyper_parameters") + dict(text("depth") + "K\3" + text("data") + object)));
  dm2::tensor_file const file{folder / "f"};
  CHECK(dm2::to_vector<float>(file.at("w")) == std::vector<float>{0.5f});
  CHECK(file.hyper_parameters() == nlohmann::json{{"depth", 3}, {"data", {{"refused", "pathlib PosixPath"}}}});
  write_raw(folder / "f", checkpoint(text("EMA") + state(list(object + scalar("LongStorage", "3")))));
  CHECK(contains(refusal(folder / "f", [&] { dm2::tensor_file{folder / "f"}; }),
                 "'w' is an object of the refused global pathlib PosixPath, not a tensor"));
}

TEST_CASE("lightning: names that are no text are shown as text, in errors and in notices") {
  scratch_folder const folder;
  auto const file = folder.path() / "names.ckpt";
  auto const weight = text("w") + scalar("FloatStorage", "0");
  write_raw(file,
            make_torch_zip(dict(text(std::string{"\0name", 5}) + dict(weight + "K\7" + scalar("FloatStorage", "0"))),
                           {floats({1})}));
  CHECK(refusal(file, [&] { dm2::tensor_file{file}; }) == "?name has an integer as a name");
  write_raw(file, make_torch_zip(dict(text("state_dict") + dict(weight + text("st\x1B_extra_state") + "K\1")),
                                 {floats({1})}));
  dm2::tensor_file const opened{file};
  REQUIRE(opened.notices().size() == 1);
  CHECK(opened.notices()[0] == "state_dict: 'st?_extra_state' is an integer, not a tensor, and left out");
}
