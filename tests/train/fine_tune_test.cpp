// Weights of one model as the beginning of another's training.
#include <dm2/io/checkpoint.hpp>
#include <dm2/model/model.hpp>
#include <dm2/train/fine_tune.hpp>
#include <dm2/train/initialise.hpp>

#include "io/refusal.hpp"
#include "io/scratch.hpp"
#include "support/configurations.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr std::size_t dim = 3;

std::size_t patches(image_extent e) { return std::size_t(e.height) * std::size_t(e.width); }

/// An embedding whose patch (y, x) has f(y, x, channel), and whose class token, in the middle, has 100 + channel.
template <class F>
std::vector<double> embedding(image_extent grid, F const& f) {
  std::vector<double> out;
  for (std::size_t i = 0; i <= patches(grid); ++i) {
    if (i == patches(grid) / 2)
      for (std::size_t c = 0; c < dim; ++c) out.push_back(100 + double(c));
    if (i == patches(grid)) break;
    for (std::size_t c = 0; c < dim; ++c) out.push_back(f(int(i) / grid.width, int(i) % grid.width, int(c)));
  }
  return out;
}

std::vector<double> resized(std::vector<double> const& from, image_extent old, image_extent now) {
  std::vector<double> to((1 + patches(now)) * dim, std::nan(""));
  resize_position_embedding(std::span<double const>{from}, old, std::span{to}, now, dim);
  return to;
}

/// Keys' cubic with a = -1/2, from its definition by conditions: 1 at 0, 0 at 1 and 2, continuous slope.
double cubic(double x) {
  x = std::abs(x);
  if (x >= 2) return 0;
  return x < 1 ? 1 - 2.5 * x * x + 1.5 * x * x * x : 2 - 4 * x + 2.5 * x * x - 0.5 * x * x * x;
}

/// One patch of the resized grid, by the sum over all patches of the old one.
double naive(image_extent old, image_extent now, int y, int x, int c, double (*f)(int, int, int)) {
  double const sy = double(old.height) / now.height, sx = double(old.width) / now.width;
  double sum = 0, total = 0;
  for (int j = 0; j < old.height; ++j)
    for (int i = 0; i < old.width; ++i) {
      double const w =
          cubic((j + 0.5 - (y + 0.5) * sy) / std::max(sy, 1.0)) * cubic((i + 0.5 - (x + 0.5) * sx) / std::max(sx, 1.0));
      sum += w * f(j, i, c);
      total += w;
    }
  return sum / total;
}

double waves(int y, int x, int c) { return std::sin(1.3 * y + 0.7 * x * x + c) + 0.1 * y * x; }

bool close(std::vector<double> const& a, std::vector<double> const& b, double tolerance = 1e-12) {
  bool same = a.size() == b.size();
  for (std::size_t i = 0; same && i < a.size(); ++i) same = std::abs(a[i] - b[i]) <= tolerance;
  return same;
}

constexpr config with(image_size image, int classes) {
  config c = small_config;
  c.image = image;
  c.classes = classes;
  return c;
}

/// What load_pretrained looks at of a model, without a network around it.
template <config C>
struct bare_model {
  static constexpr config configuration = C;
  std::vector<float> numbers = std::vector<float>(state_extent<C>);
  std::vector<std::int64_t> counts = std::vector<std::int64_t>(counter_count<C>);

  explicit bare_model(float first) {
    for (parameter_entry const& e : parameter_table<C>)
      if (e.kind != entry_kind::counter)
        for (std::size_t i = 0; i < e.size; ++i) numbers[e.offset + i] = first + float(e.offset + i);
  }
  static std::span<parameter_entry const> table() { return parameter_table<C>; }
  std::span<float> state() { return numbers; }
  std::span<float const> state() const { return numbers; }
  std::span<std::int64_t> counters() { return counts; }
  std::span<std::int64_t const> counters() const { return counts; }
};

/// A model of To from the weights of one of From. Holds each entry against the file's, or what it was.
template <config From, config To>
pretrained_report transfer() {
  scratch_folder const folder;
  bare_model<From> const source{1e6f};
  bare_model<To> net{-1e6f};
  bare_model<To> const before = net;
  save(source, folder / "m.safetensors");
  tensor_file const file{folder / "m.safetensors"};
  auto const report = load_pretrained(net, file);
  auto const listed = [&](std::vector<std::string> const& names, std::string_view name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  for (parameter_entry const& e : net.table()) {
    if (e.kind == entry_kind::counter || listed(report.resized, e.name)) continue;
    CAPTURE(e.name);
    auto const now = net.state().subspan(e.offset, e.size);
    if (listed(report.reinitialised, e.name)) {
      CHECK(std::equal(now.begin(), now.end(), before.state().subspan(e.offset, e.size).begin()));
      continue;
    }
    stored_tensor const* const t = file.find(std::string{e.name});
    REQUIRE(t != nullptr);
    auto const want = to_vector<float>(*t);
    CHECK(std::equal(now.begin(), now.end(), want.begin(), want.end()));
  }
  CHECK(report.loaded + report.reinitialised.size() + report.resized.size() == net.table().size());
  return report;
}

using lines = std::vector<std::string>;

template <class M>
std::span<float const> entry(M const& net, std::string_view name) {
  for (parameter_entry const& e : net.table())
    if (e.name == name) return net.state().subspan(e.offset, e.size);
  FAIL("no such entry");
  return {};
}

}  // namespace

TEST_CASE("resize_position_embedding: the same grid gives the same numbers, the class token in the middle") {
  for (image_extent const grid : {image_extent{4, 4}, image_extent{3, 5}, image_extent{1, 1}, image_extent{1, 2}})
    CHECK(close(resized(embedding(grid, waves), grid, grid), embedding(grid, waves)));
}

TEST_CASE("resize_position_embedding: a constant stays one, larger and smaller, and the class token moves") {
  auto const constant = [](int, int, int c) { return 0.25 + c; };
  for (image_extent const now : {image_extent{7, 9}, image_extent{2, 2}, image_extent{1, 1}, image_extent{14, 3}})
    CHECK(close(resized(embedding({4, 5}, constant), {4, 5}, now), embedding(now, constant)));
}

TEST_CASE("resize_position_embedding: a ramp keeps its slope in the inside of a larger grid") {
  image_extent const old{8, 8}, now{16, 24};
  auto const ramp = [](double y, double x) { return 2 * y - 3 * x; };
  auto const from = embedding(old, [&](int y, int x, int) { return ramp(y + 0.5, x + 0.5); });
  auto const to = resized(from, old, now);
  std::size_t seen = 0;
  for (int y = 4; y < 12; ++y)  // two patches of the old grid from every edge
    for (int x = 6; x < 18; ++x, ++seen) {
      std::size_t const patch = std::size_t(y * now.width + x);
      double const got = to[(patch + (patch >= patches(now) / 2 ? 1 : 0)) * dim];
      CHECK(std::abs(got - ramp((y + 0.5) / 2, (x + 0.5) / 3)) <= 1e-12);
    }
  CHECK(seen == 96);
}

TEST_CASE("resize_position_embedding: every patch is the normalised sum over the cubic, stretched where it shrinks") {
  for (image_extent const old : {image_extent{4, 4}, image_extent{7, 3}, image_extent{14, 14}})
    for (image_extent const now : {image_extent{5, 6}, image_extent{3, 2}, image_extent{1, 9}, image_extent{14, 14}}) {
      auto const want = embedding(now, [&](int y, int x, int c) { return naive(old, now, y, x, c, waves); });
      CHECK(close(resized(embedding(old, waves), old, now), want));
    }
}

TEST_CASE("resize_position_embedding: two patches to four, by hand") {
  // outputs at -1/4, 1/4, 3/4, 5/4 of the way; cubic(1/4) = 0.8671875, cubic(3/4) = 0.2265625, cubic(5/4) = -0.0703125
  image_extent const old{1, 2}, now{1, 4};
  auto const to = resized(embedding(old, [](int, int x, int) { return x; }), old, now);
  double const outer = -0.0703125 / (0.8671875 - 0.0703125), inner = 0.2265625 / (0.8671875 + 0.2265625);
  auto const want = embedding(now, [&](int, int x, int) {
    return x == 0 ? outer : x == 1 ? inner : x == 2 ? 1 - inner : 1 - outer;
  });
  CHECK(close(to, want));
}

TEST_CASE("resize_position_embedding: sizes that disagree throw and write nothing") {
  std::vector<double> const from(5 * dim);
  std::vector<double> to(10 * dim, 7);
  auto const resize = [&](image_extent old, image_extent now) {
    resize_position_embedding(std::span<double const>{from}, old, std::span{to}, now, dim);
  };
  CHECK_THROWS_AS(resize({2, 3}, {3, 3}), shape_error);
  CHECK_THROWS_AS(resize({2, 2}, {3, 2}), shape_error);
  CHECK_THROWS_AS(resize({0, 4}, {3, 3}), shape_error);
  CHECK(std::count(to.begin(), to.end(), 7.0) == std::ptrdiff_t(to.size()));
}

TEST_CASE("load_pretrained: other classes keep the heads, another picture size resizes the position embedding") {
  scratch_folder const folder;
  model<small_config> source;
  initialise(source, 1);
  for (auto& n : source.counters()) n = 17;
  save(source, folder / "m.safetensors");
  tensor_file const file{folder / "m.safetensors"};

  constexpr config larger = with({24, 32}, 5);
  model<larger> net;
  initialise(net, 2);
  std::vector<float> const head(entry(net, "head.weight").begin(), entry(net, "head.weight").end());
  auto const report = load_pretrained(net, file);
  CHECK(report.reinitialised ==
        std::vector<std::string>{"head.weight", "head.bias", "aux_head.weight", "aux_head.bias"});
  CHECK(report.resized == std::vector<std::string>{"pos_embed"});
  CHECK(report.loaded == net.table().size() - 5);
  CHECK(std::equal(head.begin(), head.end(), entry(net, "head.weight").begin()));
  std::vector<float> want(13 * 8);
  resize_position_embedding(entry(source, "pos_embed"), {2, 2}, std::span{want}, {3, 4}, 8);
  CHECK(std::equal(want.begin(), want.end(), entry(net, "pos_embed").begin()));
  for (parameter_entry const& e : source.table())
    if (e.kind == entry_kind::counter)
      CHECK(net.counters()[e.offset] == 17);
    else if (e.name != "pos_embed" && e.name.find("head.") == e.name.npos)
      CHECK(std::equal(entry(source, e.name).begin(), entry(source, e.name).end(), entry(net, e.name).begin()));
}

TEST_CASE("load_pretrained: the same model is loaded whole") {
  scratch_folder const folder;
  model<small_config> source, net;
  initialise(source, 1);
  save(source, folder / "m.safetensors");
  auto const report = load_pretrained(net, tensor_file{folder / "m.safetensors"});
  CHECK((report.reinitialised.empty() && report.resized.empty()));
  CHECK(std::equal(source.state().begin(), source.state().end(), net.state().begin()));
}

TEST_CASE("load_pretrained: layers that the file lacks begin anew, those that the model lacks are left out") {
  constexpr config deep = [] {
    config c = small_config;
    c.depth = 4;
    return c;
  }();
  auto const more = transfer<small_config, deep>();
  CHECK(more.lines == lines{"layers.2 to layers.3 begin anew: the file has none"});
  CHECK(more.left_out.empty());
  auto const fewer = transfer<deep, small_config>();
  CHECK(fewer.lines.empty());
  CHECK(fewer.left_out.size() == parameter_table<deep>.size() - parameter_table<small_config>.size());
  constexpr config wider_mlp = [] {
    config c = small_config;
    c.mlp_dim = 5;
    return c;
  }();
  CHECK(transfer<small_config, wider_mlp>().lines ==
        lines{"layers.0.mlp to layers.1.mlp begin anew: the file has none"});
}

TEST_CASE("load_pretrained: what has another shape begins anew with what belongs to it, and the rest is taken") {
  constexpr config fine = [] {
    config c = small_config;
    c.patch = 4;
    return c;
  }();
  CHECK(transfer<small_config, fine>().lines ==
        lines{"pos_embed is resized: 2 x 2 patches in the file, 4 x 4 in the program",
              "patch_embed.proj begins anew: patch_embed.proj.weight is [8, 4, 4, 4] in the file, [8, 4, 2, 2] in the "
              "program"});
  constexpr config grey = [] {
    config c = small_config;
    c.channels = 1;
    return c;
  }();
  auto const colourless = transfer<small_config, grey>();
  CHECK(colourless.lines ==
        lines{"patch_embed.conv1 begins anew: patch_embed.conv1.weight is [4, 3, 7, 7] in the file, "
              "[4, 1, 7, 7] in the program"});
  CHECK(colourless.reinitialised.size() == 6);  // its BatchNorm, too
  constexpr config of_mixers = [] {
    config c = small_config;
    c.attn_layers = layers();
    return c;
  }();
  auto const mixers = transfer<small_config, of_mixers>();
  REQUIRE(mixers.lines.size() == 1);
  CHECK(mixers.lines[0].starts_with("layers.1 begins anew: mixer.in_proj.weight is [24, 8] in the file, "));
}

TEST_CASE("load_pretrained: layers whose numbers mean something else begin anew") {
  constexpr config turned = [] {
    config c = small_config;
    c.attn_rotary = 2;
    return c;
  }();
  CHECK(transfer<small_config, turned>().lines ==
        lines{"layers.1 begins anew: attn_rotary: 4 in the file, 2 in the program"});
  constexpr config both_ways = [] {
    config c = small_config;
    c.variant = mixer_variant::bidirectional;
    return c;
  }();
  CHECK(transfer<small_config, both_ways>().lines ==
        lines{"layers.0 begins anew: variant: \"published\" in the file, \"bidirectional\" in the program"});
}

TEST_CASE("load_pretrained: a file that lacks a part of a layer is refused by name") {
  scratch_folder const folder;
  bare_model<small_config> const source{1}, before{2};
  std::vector<stored_tensor> tensors;
  detail::add_entry_tensors(tensors, "", source.table(), source.state(), source.counters());
  std::erase_if(tensors, [](stored_tensor const& t) { return t.name == "layers.0.mixer.D"; });
  write_safetensors(folder / "m.safetensors", tensors, {});
  bare_model<small_config> net = before;
  CHECK_THROWS_WITH_AS(
      static_cast<void>(load_pretrained(net, tensor_file{folder / "m.safetensors"})),
      ((folder / "m.safetensors").string() + ": does not fit the model (1 difference)\n  missing: layers.0.mixer.D [2]")
          .c_str(),
      file_error);
  CHECK(net.numbers == before.numbers);
}

TEST_CASE("load_pretrained: a file with no layer that can be taken is refused, and the model stays as it is") {
  scratch_folder const folder;
  constexpr config wider = [] {
    config c = small_config;
    c.dim = 16;
    return c;
  }();
  model<wider> source;
  save(source, folder / "m.safetensors");
  model<small_config> net;
  initialise(net, 3);
  std::vector<float> const before(net.state().begin(), net.state().end());
  tensor_file const file{folder / "m.safetensors"};
  std::string text;
  try {
    (void)load_pretrained(net, file);
  } catch (file_error const& problem) {
    text = problem.what();
  }
  CHECK(text.starts_with(file.path().string()));
  CHECK(text.find("shape: pos_embed is [1, 5, 16] in the file, [1, 5, 8] in the program") != text.npos);
  CHECK(text.find("16 channels in the file, 8 in the program") != text.npos);
  CHECK(std::equal(before.begin(), before.end(), net.state().begin()));
}
