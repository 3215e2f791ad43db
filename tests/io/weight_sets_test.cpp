// Files with two sets of weights, as other programs write them: which is read, and what is refused by name.
#include <dm2/io/safetensors_write.hpp>
#include <dm2/io/tensor_file.hpp>

#include "io/make_torch.hpp"
#include "io/refusal.hpp"
#include "io/scratch.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

using dm2::weights;
using namespace dm2::test;

namespace {

/// Tensors of two numbers, but for the counter "n": storage 0 has the raw weights' 1, storage 1 the averages' 2.
std::string one(char const* storage) { return tensor("FloatStorage", storage, 2, 0, {2}, {1}); }
std::string number(std::int64_t n) { return tensor("LongStorage", n == 0 ? "2" : "3", 1, 0, {}, {}); }
std::vector<std::string> const storages{raw(1.0f) + raw(1.0f), raw(2.0f) + raw(2.0f), raw<std::int64_t>(0),
                                        raw<std::int64_t>(5)};
/// The items of a state dict, `front` before each name.
std::string items(char const* storage, std::string const& front = "") {
  return text(front + "head.weight") + one(storage) + text(front + "bn.running_mean") + one(storage) +
         text(front + "bn.num_batches_tracked") + number(5);
}
std::string const raw_state = dict(items("0")), averages = dict(items("1"));

struct checkpoint {
  scratch_folder folder;
  std::filesystem::path path = folder / "c";
  explicit checkpoint(std::string const& pickle) { write_raw(path, make_torch_zip(dict(pickle), storages)); }

  /// The first number of head.weight.
  [[nodiscard]] float read(weights which) const {
    dm2::tensor_file const file{path, which};
    CHECK(file.tensors().size() == 3);
    dm2::stored_tensor const* const t = file.find("head.weight");
    REQUIRE(t != nullptr);
    CHECK(file.averaged() == (dm2::to_vector<float>(*t)[0] == 2));
    return dm2::to_vector<float>(*t)[0];
  }
  [[nodiscard]] std::string refused(weights which) const {
    return refusal(path, [&] { dm2::tensor_file(path, which); });
  }
  [[nodiscard]] std::string notices(weights which) const {
    std::string all;
    dm2::tensor_file const file{path, which};
    for (std::string const& line : file.notices()) all += line + "\n";
    return all;
  }
};

/// Checks that both sets are read, each where it is asked for.
void check_both(std::string const& pickle) {
  checkpoint const file{pickle};
  CHECK(file.read(weights::raw) == 1);
  CHECK(file.read(weights::ema) == 2);
  CHECK(file.read(weights::automatic) == 2);
}
/// Checks that the averages are refused with `why`, and that the raw weights can be read.
void check_not_understood(std::string const& pickle, std::string const& why) {
  checkpoint const file{pickle};
  CHECK(file.read(weights::raw) == 1);
  for (weights which : {weights::automatic, weights::ema}) CHECK(contains(file.refused(which), why));
}
std::string const state_dict = text("state_dict") + raw_state;
std::string callback(std::string const& name, std::string const& state) {
  return text("pytorch-lightning_version") + text("2.6") + state_dict + text("callbacks") +
         dict(text(name) + dict(state));
}

}  // namespace

TEST_CASE("two sets: Lightning's WeightAveraging keeps the averages as state_dict and the weights beside it") {
  for (std::string const& steps : {text("n_averaged") + number(5), text("n_averaged") + "K\3", std::string{}})
    check_both(text("pytorch-lightning_version") + text("2.6.6") + text("state_dict") + averages +
               text("current_model_state") + raw_state + text("averaging_state") + dict(steps) + text("callbacks") +
               dict(text("EMAWeightAveraging") + dict("")));
}

TEST_CASE("two sets: averaging that has not begun gives the weights, and says so") {
  checkpoint const weight_averaging{text("state_dict") + averages + text("current_model_state") + raw_state +
                                    text("averaging_state") + dict(text("n_averaged") + number(0))};
  checkpoint const stochastic{
      callback("StochasticWeightAveraging", text("n_averaged") + integer(0) + text("average_model_state") + averages)};
  for (checkpoint const* const file : {&weight_averaging, &stochastic}) {
    CHECK(file->read(weights::automatic) == 1);
    CHECK(contains(file->notices(weights::automatic), "averaging has not begun"));
    CHECK(contains(file->refused(weights::ema), "holds no EMA weights"));
  }
}

TEST_CASE("two sets: averages among the callbacks, as dict or list, under any name that speaks of them") {
  check_both(
      callback("StochasticWeightAveraging", text("n_averaged") + "K\5" + text("average_model_state") + averages));
  check_both(callback("EMA", text("ema_weights") + list(one("1") + one("1") + number(5))));
  check_both(callback("EMA", text("ema_weights") + list(one("1"))));  // of what is trained: the rest is the weights'
  check_both(callback("EMACallback", text("ema_state_dict") + averages));
  check_both(callback("ModelEma", text("decay") + "K\1" + text("state_dict") + dict(items("1", "module."))));
  check_both(callback("PolyakAverage", items("1")));
}

TEST_CASE("two sets: scores and paths of a callback whose name speaks of averages are no weights") {
  checkpoint const file{
      callback("EMAModelCheckpoint", text("best_model_score") + tensor("FloatStorage", "0", 2, 0, {}, {}) +
                                         text("best_k_models") +
                                         dict(text("a.ckpt") + tensor("FloatStorage", "0", 2, 0, {}, {})))};
  CHECK(file.read(weights::automatic) == 1);
  CHECK(contains(file.refused(weights::ema), "holds no EMA weights"));
}

TEST_CASE("two sets: timm's, DeiT's and torchvision's keys, and others that speak of averages") {
  for (char const* key :
       {"state_dict_ema", "model_ema", "ema", "ema_state_dict", "averaged_model", "swa_state_dict", "shadow", "EMA"}) {
    CAPTURE(std::string{key});
    for (char const* primary : {"state_dict", "model", "model_state_dict", "net"})
      check_both(text("epoch") + "K\1" + text(primary) + raw_state + text(key) + averages);
  }
  check_both(text("model") + raw_state + text("model_ema") +
             dict(text("n_averaged") + number(5) + items("1", "module.")));
  check_both(text("model") + raw_state + text("model_ema") + dict(items("1", "_orig_mod.")));
  check_both(state_dict + text("ema") + dict(text("decay") + "K\1" + text("shadow_params") + list(one("1"))));
  check_both(text("model") + raw_state + text("ema") +
             dict(text("initted") + number(5) + text("step") + number(5) + items("0", "online_model.") +
                  items("1", "ema_model.")));
}

TEST_CASE("two sets: one dict whose names tell them apart, in torch files and in safetensors") {
  for (char const* front : {"ema.", "model_ema.", "ema_model.module.", "averaged_model.", "swa_model.module."}) {
    CAPTURE(std::string{front});
    check_both(items("0") + items("1", front));
    check_both(text("state_dict") + dict(items("0") + items("1", front)));
    checkpoint const file{items("0") + items("1", front)};
    auto const copy = file.folder / "s";
    auto const all = [&] {  // both sets, under their names
      std::vector<dm2::stored_tensor> out;
      dm2::tensor_file const raw_file{file.path, weights::raw}, ema_file{file.path, weights::ema};
      for (auto const& t : raw_file.tensors()) out.push_back(t);
      for (auto t : ema_file.tensors()) t.name.insert(0, front), out.push_back(t);
      dm2::write_safetensors(copy, out);
    };
    all();
    auto const read = [&](weights which) {
      return dm2::to_vector<float>(dm2::tensor_file{copy, which}.at("head.weight"))[0];
    };
    CHECK(read(weights::raw) == 1);
    CHECK(read(weights::ema) == 2);
    CHECK(read(weights::automatic) == 2);
    CHECK(dm2::tensor_file{copy}.averaged());
  }
  // MMCV makes them underscores
  std::string const flat = text("ema_head_weight") + one("1") + text("ema_bn_running_mean") + one("1");
  check_both(text("state_dict") + dict(items("0") + flat));
  // LitEma takes the dots out, and leaves the buffers out
  check_both(text("state_dict") +
             dict(items("0") + text("model_ema.decay") + tensor("FloatStorage", "0", 2, 0, {}, {}) +
                  text("model_ema.num_updates") + number(5) + text("model_ema.headweight") + one("1")));
}

TEST_CASE("two sets: an averaged model alone is averages, not the weights") {
  for (std::string const& pickle : {text("n_averaged") + number(5) + items("1", "module."), items("1", "ema_model."),
                                    text("model_ema") + averages + text("epoch") + "K\1"}) {
    checkpoint const file{pickle};
    CHECK(file.read(weights::automatic) == 2);
    CHECK(file.read(weights::ema) == 2);
    CHECK(contains(file.refused(weights::raw), "holds averaged weights only"));
  }
}

TEST_CASE("two sets: what may be averages and cannot be used as such is refused by name; --raw reads the weights") {
  std::string const object = global("timm.utils.model_ema", "ModelEmaV2") + ")R";
  check_not_understood(
      state_dict + text("state_dict_ema") + dict(text("head.weight") + one("1") + text("other") + one("1")),
      "holds a second set of weights, 'state_dict_ema', that cannot be used as averages: 'other' is no name");
  check_not_understood(state_dict + text("model_ema") + object, "refused global timm.utils.model_ema ModelEmaV2");
  check_not_understood(
      state_dict + text("model_ema") + dict(text("bn.running_mean") + one("1") + text("head.bias") + one("1")),
      "'model_ema'");
  check_not_understood(state_dict + text("teacher") + averages, "'teacher'");
  check_not_understood(state_dict + text("model_ema") + averages + text("state_dict_ema") + dict(items("1")),
                       "several sets that may be averages: 'model_ema', 'state_dict_ema'");
  check_not_understood(
      text("state_dict") + dict(items("0") + text("ema.head.weight") + tensor("FloatStorage", "1", 2, 0, {1}, {1})),
      "'head.weight' has shape [1] of F32");
  check_not_understood(callback("MyEma", text("params") + list(one("1") + one("1") + one("1") + one("1"))),
                       "params has 4 tensors, the state dict has 3 (2 of them floating-point)");
}

TEST_CASE("two sets: layers that are called after averages, and values beside the weights, are neither") {
  checkpoint const mega{text("layers.0.ema_gate.weight") + one("0") + text("head.weight") + one("0") +
                        text("avg_pool.scale") + one("0")};
  CHECK(mega.read(weights::automatic) == 1);
  checkpoint const aside{state_dict + text("ema_decay") + "K\1" + text("ema_path") + global("pathlib", "PosixPath") +
                         ")R" + text("train_loss_avg") + one("1") + text("optimizer") +
                         dict(text("exp_avg") + list(one("1")))};
  CHECK(aside.read(weights::automatic) == 1);
}

TEST_CASE("weights: the only dict of tensors is them, under whatever key; of several none is guessed") {
  for (std::string const& pickle :
       {text("epoch") + "K\1" + text("classifier") + raw_state, text("model") + dict(text("state_dict") + raw_state),
        text("state") + dict(text("rng") + list("") + text("model") + raw_state) + text("optimizer") + averages}) {
    checkpoint const file{pickle};
    CHECK(file.read(weights::automatic) == 1);
    CHECK(file.read(weights::raw) == 1);
  }
  check_both(text("classifier") + raw_state + text("ema_model") + averages);
  check_both(text("model") + dict(text("state_dict") + raw_state + text("state_dict_ema") + averages));
  checkpoint const several{text("student") + raw_state + text("teacher") + averages};
  for (weights which : {weights::automatic, weights::raw, weights::ema})
    CHECK(contains(several.refused(which), "holds tensors under 'student', 'teacher', and does not say which"));
  checkpoint const module{text("model") + global("__main__", "Net") + ")R"};
  CHECK(contains(module.refused(weights::automatic),
                 "'model' is an object of the refused global __main__ Net; objects of "
                 "programs are not read, a module's state_dict() is"));
}

TEST_CASE("two sets: nothing is an error, wherever it is found") {
  for (std::string const& pickle : {std::string{}, text("state_dict") + dict(""), text("model") + dict("")}) {
    checkpoint const file{pickle};
    CHECK(contains(file.refused(weights::automatic), "holds no tensor"));
  }
  scratch_folder const folder;
  for (std::string const& header : {std::string{"{}"}, std::string{R"({"__metadata__":{"training":"x"}})"}}) {
    write_raw(folder / "f", raw<std::uint64_t>(header.size()) + header);
    CHECK(refusal(folder / "f", [&] { dm2::tensor_file{folder / "f"}; }) == "holds no tensor");
  }
  write_raw(folder / "l", make_torch_zip("]", {}));
  CHECK(contains(refusal(folder / "l", [&] { dm2::tensor_file{folder / "l"}; }), "holds no tensor"));
}

TEST_CASE("two sets: plain values in a state dict are left out with a notice, what may be a tensor is not") {
  checkpoint const file{text("state_dict") + dict(items("0") + text("epoch") + "K\3" + text("note") + text("x") +
                                                  text("attn._extra_state") + global("io", "BytesIO") + ")R")};
  CHECK(file.read(weights::automatic) == 1);
  for (char const* part : {"'epoch' is an integer, not a tensor, and left out", "'note' is a string",
                           "'attn._extra_state' is an object of the refused global io BytesIO"})
    CHECK(contains(file.notices(weights::automatic), part));
  checkpoint const rotary{text("state_dict") +
                          dict(items("0") + text("freqs") + tensor("ComplexFloatStorage", "0", 1, 0, {1}, {1}))};
  CHECK(rotary.read(weights::automatic) == 1);
  CHECK(contains(rotary.notices(weights::automatic),
                 "'freqs' has elements of an object of the refused global torch ComplexFloatStorage, and is left out"));
  checkpoint const sparse{text("state_dict") +
                          dict(items("0") + text("s") + global("torch._utils", "_rebuild_sparse_tensor") + ")R")};
  CHECK(contains(sparse.refused(weights::automatic), "'s' is an object of the refused global"));
}

/// So many callbacks, each of which keeps a dict of averages under one long key.
std::string many_callbacks(int count) {
  std::string const key = text("ema" + std::string(197, ' '));
  std::string all;
  for (int i = 0; i < count; ++i) all += text("c" + std::to_string(i)) + dict(key + dict(items("1")));
  return text("pytorch-lightning_version") + text("2.6") + state_dict + text("callbacks") + dict(all);
}

TEST_CASE("two sets: a file with many of them is refused in a line, however many there are") {
  std::string inside;
  for (int i = 0; i < 1001; ++i) inside += text("ema" + std::to_string(i)) + dict(items("1"));
  checkpoint const some{many_callbacks(12)}, many{many_callbacks(1001)}, in_one{callback("Averages", inside)};
  for (weights which : {weights::automatic, weights::ema}) {
    std::string const why = some.refused(which);
    CHECK(contains(why, "holds several sets that may be averages: 'callbacks/c0/ema"));
    CHECK(contains(why, "'callbacks/c9/ema"));
    CHECK(contains(why, "', and 2 more; the raw weights (--raw)"));
    CHECK_FALSE(contains(why, "c10"));
    for (checkpoint const* file : {&many, &in_one})
      CHECK(file->refused(which) == "holds more than 1000 sets that may be averages");
  }
}

TEST_CASE("two sets: notices of tensors that are left out end at a hundred") {
  std::string all;
  for (int i = 0; i < 150; ++i)
    all += text("f" + std::to_string(i)) + tensor("ComplexFloatStorage", "0", 1, 0, {1}, {1});
  checkpoint const file{text("state_dict") + dict(items("0") + all)};
  CHECK(file.read(weights::automatic) == 1);
  std::string const notices = file.notices(weights::automatic);
  CHECK(std::count(notices.begin(), notices.end(), '\n') == 100);
}

TEST_CASE("training checkpoints: the mark counts where it parses and both sets are there, else it says nothing") {
  scratch_folder const folder;
  float const v = 1;
  auto const t = [&](std::string name) {
    return dm2::stored_tensor{std::move(name), dm2::dtype::f32, {1}, {1}, reinterpret_cast<std::byte const*>(&v)};
  };
  std::string const ours = R"({"epoch":1,"optimizer":"lion"})";
  auto const write = [&](std::vector<dm2::stored_tensor> const& tensors, std::string const& mark) {
    dm2::write_safetensors(folder / "f", tensors, {{"training", mark}});
    return folder / "f";
  };
  for (std::string const& mark :
       {std::string{"lr 0.1"}, std::string{"{}"}, std::string{R"({"epoch":"one","optimizer":1})"}, ours}) {
    dm2::tensor_file const file{write({t("a"), t("b")}, mark)};
    CHECK(file.tensors().size() == 2);
    CHECK_FALSE(file.averaged());
    CHECK_FALSE(file.is_training_checkpoint());
  }
  dm2::tensor_file const good{write({t("raw/a"), t("ema/a"), t("momentum/a"), t("stray")}, ours)};
  CHECK(good.is_training_checkpoint());
  CHECK(good.tensors().size() == 1);
  REQUIRE(good.notices().size() == 1);
  CHECK(contains(good.notices()[0], "'stray' is no part of a training checkpoint"));
  auto const refused = [&](std::filesystem::path const& path) {
    return refusal(path, [&] { dm2::tensor_file{path}; });
  };
  CHECK(contains(refused(write({t("raw/a"), t("ema/a")}, "lr 0.1")), "metadata 'training' are not one's"));
  CHECK(contains(refused(write({t("raw/a"), t("b")}, ours)), "holds no tensor 'ema/...'"));
  CHECK(contains(refused(write({t("ema/a"), t("b")}, ours)), "holds no tensor 'raw/...'"));
}
