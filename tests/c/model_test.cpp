// An opened model in C: its numbers are those of the network behind it, to the last bit.
#include <dm2/core/version.hpp>
#include <dm2/data/classify.hpp>
#include <dm2/data/decode.hpp>
#include <dm2/data/transform.hpp>
#include <dm2/io/config_json.hpp>
#include <dm2/model/model_table.hpp>

#include "c/opened.hpp"

#include <algorithm>
#include <cstdint>
#include <span>

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr std::size_t pixels = 3 * 64 * 64, tokens = 16, classes = 10;

/// What the network says of a picture that is decoded whole.
std::vector<prediction> expected(run::network& net, picture const& p, int k) {
  std::vector<float> input(pixels), logits(classes);
  normalise(evaluation_transform(p, presets::micro.image), std::span{input});
  net.forward(input, logits);
  return top_k(std::span<float const>{logits}, k);
}

void check_same(std::vector<dm2_prediction> const& got, std::vector<prediction> const& want) {
  REQUIRE(got.size() == want.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    CHECK(got[i].index == want[i].index);
    CHECK(got[i].probability == want[i].probability);
  }
}

}  // namespace

TEST_CASE("C: the classes of encoded pictures of every kind are the network's, to the last bit") {
  opened const model;
  auto const net = micro_network();
  int k = 0;  // 1 to 10, a picture each: under the sanitizers an evaluation takes a second
  for (char const* const name : {"photo.jpg", "gray.jpg", "cmyk.jpg", "progressive.jpg", "rotated_exif.jpg",
                                 "full_chroma.jpg", "alpha.png", "palette.png", "one_pixel.png", "wide.png"}) {
    CAPTURE(name);
    std::string const bytes = read_raw(golden_file("images") / name);
    std::vector<dm2_prediction> best(static_cast<std::size_t>(++k));
    REQUIRE(dm2_classify_encoded(model, bytes.data(), bytes.size(), k, best.data()) == DM2_OK);
    check_same(best, expected(*net, read_image(golden_file("images") / name), k));
  }
}

TEST_CASE("C: pixels give what the encoded picture gives, with and without a stride, and so does the input") {
  opened const model;
  std::string const bytes = read_raw(golden_file("images/photo.jpg"));
  picture const p = read_image(golden_file("images/photo.jpg"));
  std::vector<dm2_prediction> encoded(5), tight(5), padded(5);
  REQUIRE(dm2_classify_encoded(model, bytes.data(), bytes.size(), 5, encoded.data()) == DM2_OK);
  REQUIRE(dm2_classify_pixels(model, p.pixels.data(), p.height, p.width, 0, 5, tight.data()) == DM2_OK);
  std::size_t const row = 3 * std::size_t(p.width), stride = row + 13;
  // the last row ends where its pixels do: nothing behind them may be read
  std::vector<std::uint8_t> rows(stride * std::size_t(p.height) - 13, 255);
  for (int y = 0; y < p.height; ++y) std::copy_n(p.row(y), row, rows.data() + std::size_t(y) * stride);
  REQUIRE(dm2_classify_pixels(model, rows.data(), p.height, p.width, stride, 5, padded.data()) == DM2_OK);
  for (std::size_t i = 0; i < 5; ++i) {
    CHECK(tight[i].index == encoded[i].index);
    CHECK(tight[i].probability == encoded[i].probability);
    CHECK(padded[i].probability == encoded[i].probability);
  }

  std::vector<float> want(pixels), one(pixels), other(pixels);
  normalise(evaluation_transform(p, presets::micro.image), std::span{want});
  REQUIRE(dm2_input_encoded(model, bytes.data(), bytes.size(), one.data(), one.size()) == DM2_OK);
  REQUIRE(dm2_input_pixels(model, rows.data(), p.height, p.width, stride, other.data(), other.size()) == DM2_OK);
  CHECK(one == want);
  CHECK(other == want);
}

TEST_CASE("C: forward, features and patches are the network's for batches of any size") {
  opened const model;
  auto const net = micro_network(3);
  for (std::size_t const batch : {std::size_t{1}, std::size_t{3}, std::size_t{2}}) {
    CAPTURE(batch);
    std::vector<float> const in = noise(batch * pixels, unsigned(batch));
    std::size_t const length = tokens + 1, dim = std::size_t(presets::micro.dim);
    std::vector<float> logits(batch * classes), features(batch * length * dim), cls(logits),
        maps(logits.size() * tokens);
    auto want_logits = logits, want_features = features, want_cls = cls, want_maps = maps;
    net->forward(in, want_logits);
    net->forward_features(in, want_features);
    net->forward_patches(in, want_cls, want_maps);
    REQUIRE(dm2_forward(model, in.data(), batch, logits.data(), logits.size()) == DM2_OK);
    REQUIRE(dm2_features(model, in.data(), batch, features.data(), features.size()) == DM2_OK);
    REQUIRE(dm2_patches(model, in.data(), batch, cls.data(), cls.size(), maps.data(), maps.size()) == DM2_OK);
    CHECK(logits == want_logits);
    CHECK(features == want_features);
    CHECK(cls == want_cls);
    CHECK(maps == want_maps);
    CHECK(std::any_of(maps.begin(), maps.end(), [](float v) { return v != 0; }));
  }
}

TEST_CASE("C: a description says what the file is") {
  opened const model;
  dm2_description d{};
  d.size = sizeof d;
  REQUIRE(dm2_describe(model, &d) == DM2_OK);
  model_table const table{presets::micro};
  CHECK(d.height == 64);
  CHECK(d.width == 64);
  CHECK(d.channels == 3);
  CHECK(d.classes == 10);
  CHECK(d.grid_height * d.grid_width == int(tokens));
  CHECK(d.length == int(tokens) + 1);
  CHECK(d.class_token == int(tokens) / 2);
  CHECK(d.dim == presets::micro.dim);
  CHECK(d.device == DM2_DEVICE_CPU);
  CHECK(d.precision == DM2_PRECISION_FP32);
  CHECK(d.parameters == table.parameter_count());
  CHECK(d.tensors == table.entries().size());
  CHECK(d.class_names == 0);
  CHECK(std::string{d.name} == "micro");
  CHECK(nlohmann::json::parse(d.configuration) == nlohmann::json(to_json(presets::micro)));
  for (std::size_t i = 0; i < d.notices; ++i) {
    char const* line = nullptr;
    CHECK(dm2_notice(model, i, &line) == DM2_OK);
    CHECK(std::string{line}.size() > 0);
  }
  CHECK(std::string{dm2_version()} == version_text);
}

TEST_CASE("C: every tensor is the file's, by name, shape and value") {
  opened const model;
  tensor_file const file{golden_file("lightning/epoch=0-step=2-EMA.safetensors")};
  dm2_description d{};
  d.size = sizeof d;
  REQUIRE(dm2_describe(model, &d) == DM2_OK);
  std::size_t counters = 0, trained = 0;
  for (std::size_t i = 0; i < d.tensors; ++i) {
    dm2_tensor t{};
    t.size = sizeof t;
    REQUIRE(dm2_tensor_at(model, i, &t) == DM2_OK);
    CAPTURE(t.name);
    stored_tensor const* const found = file.find(t.name);
    REQUIRE(found != nullptr);
    CHECK(std::vector<std::int64_t>(t.shape, t.shape + t.rank) == found->shape);
    CHECK(t.count == found->size());
    trained += t.trained != 0 ? t.count : 0;
    if (t.values == nullptr) {
      ++counters;
      CHECK(t.steps == to_vector<std::int64_t>(*found).front());
      continue;
    }
    std::vector<float> const want = to_vector<float>(*found);
    CHECK(std::equal(want.begin(), want.end(), t.values));
  }
  CHECK(counters == model_table{presets::micro}.counter_count());
  CHECK(trained > 0);
}

TEST_CASE("C: a saved model says the same, and is the file that dm2 writes") {
  scratch_folder const folder;
  opened const model;
  REQUIRE(dm2_save(model, (folder / "saved.safetensors").c_str()) == DM2_OK);
  run::save(*micro_network(), folder / "want.safetensors");
  CHECK(read_raw(folder / "saved.safetensors") == read_raw(folder / "want.safetensors"));
  opened const again{folder / "saved.safetensors"};
  std::vector<float> const in = noise(pixels, 5);
  std::vector<float> one(classes), other(classes);
  REQUIRE(dm2_forward(model, in.data(), 1, one.data(), classes) == DM2_OK);
  REQUIRE(dm2_forward(again, in.data(), 1, other.data(), classes) == DM2_OK);
  CHECK(one == other);
}

TEST_CASE("C: class names in a file are given, and written again") {
  scratch_folder const folder;
  auto const named = folder / "named.safetensors", again = folder / "again.safetensors";
  run::save(*micro_network(), named, {{"class_names", R"(["a","b","c","d","e","f","g","h","i","jay"])"}});
  opened const model{named};
  REQUIRE(dm2_save(model, again.c_str()) == DM2_OK);
  opened const copy{again};
  for (dm2_model* const m : {static_cast<dm2_model*>(model), static_cast<dm2_model*>(copy)}) {
    char const* name = nullptr;
    REQUIRE(dm2_class_name(m, 9, &name) == DM2_OK);
    CHECK(std::string{name} == "jay");
    CHECK(dm2_class_name(m, 10, &name) == DM2_ARGUMENT);
    CHECK(dm2_class_name(m, -1, &name) == DM2_ARGUMENT);
  }
}
