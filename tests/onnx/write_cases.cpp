/// @file
/// Writes models as ONNX files, beside each what it has to compute, for check_cases.py.
///
///     write_cases FOLDER GOLDEN
///
/// NAME.safetensors holds an input and its outputs; NAME.onnx and NAME.KIND.onnx are the model. The outputs are those
/// of dm2::model, or, of the golden models, those of the published code in float64.
#include <dm2/data/transform.hpp>
#include <dm2/io/config_json.hpp>
#include <dm2/io/json_text.hpp>
#include <dm2/io/onnx/write_onnx.hpp>
#include <dm2/io/safetensors_write.hpp>
#include <dm2/model/model.hpp>
#include <dm2/run/models.hpp>
#include <dm2/run/network.hpp>

#include "support/random_model.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <map>
#include <random>
#include <span>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;
using tensor_list = std::vector<dm2::stored_tensor>;

template <class T>
dm2::stored_tensor view(std::string name, dm2::dtype type, std::vector<T> const& values,
                        std::vector<std::int64_t> const& shape) {
  return {std::move(name), type, shape, dm2::detail::contiguous_strides(shape),
          reinterpret_cast<std::byte const*>(values.data())};
}

/// The kinds of files that a case is written as.
void write_kinds(dm2::config const& c, tensor_list const& tensors, fs::path const& to, int chunk, bool bytes) {
  auto const write = [&](std::string const& kind, dm2::onnx_options o) {
    o.features = o.patches = true;
    dm2::write_onnx(c, tensors, o, to.string() + kind + ".onnx");
  };
  write("", {});
  write(".half", {.half = true});
  write(".chunks", {.chunk = chunk});
  write(".half_chunks", {.half = true, .chunk = chunk});
  write(".external", {.external_data = true});
  if (!bytes) return;
  write(".bytes", {.input = dm2::onnx_input::bytes});
  write(".unit", {.input = dm2::onnx_input::unit});
}

/// A case whose outputs dm2 computes: `net` is a dm2::model or a dm2::run::network.
template <class Net>
void write_case(Net& net, dm2::config const& c, fs::path const& to, int chunk, int batch = 2) {
  std::mt19937_64 source{7};
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform;
  std::span<dm2::parameter_entry const> const table{net.table()};
  for (dm2::parameter_entry const& e : table)
    for (std::size_t i = 0; e.kind != dm2::entry_kind::counter && i < e.size; ++i) {
      float const r = normal(source), u = uniform(source);
      net.state()[e.offset + i] = dm2::bench::detail::parameter_value(e, r, u);
    }
  std::int64_t const B = batch, H = c.image.height, W = c.image.width, K = c.classes, D = c.dim;
  std::int64_t const rows = H / c.patch, columns = W / c.patch, length = rows * columns + 1;
  bool const colours = c.channels == 3;
  std::vector<std::uint8_t> bytes(std::size_t(B * H * W) * 3);
  for (std::uint8_t& byte : bytes) byte = std::uint8_t(source() & 255U);
  std::vector<float> pixels(std::size_t(B * c.channels * H * W));
  if (colours)
    for (std::size_t b = 0, each = std::size_t(H * W) * 3; b < std::size_t(B); ++b)
      dm2::normalise(std::span{bytes}.subspan(b * each, each), std::span{pixels}.subspan(b * each, each));
  else
    for (float& pixel : pixels) pixel = normal(source);
  std::vector<float> logits(std::size_t(B * K)), features(std::size_t(B * length * D)), cls(logits.size()),
      patches(std::size_t(B * rows * columns * K));
  net.forward(pixels, logits);
  net.forward_features(pixels, features);
  net.forward_patches(pixels, cls, patches);
  tensor_list out{view("pixel_values", dm2::dtype::f32, pixels, {B, c.channels, H, W}),
                  view("logits", dm2::dtype::f32, logits, {B, K}),
                  view("features", dm2::dtype::f32, features, {B, length, D}),
                  view("patches", dm2::dtype::f32, patches, {B, rows, columns, K})};
  if (colours) out.push_back(view("pixel_bytes", dm2::dtype::u8, bytes, {B, H, W, 3}));
  dm2::write_safetensors(to.string() + ".safetensors", out, {{"config", dm2::to_json(c).dump()}});
  tensor_list tensors;
  dm2::detail::add_entry_tensors(tensors, "", table, std::span<float const>{net.state()},
                                 std::span<std::int64_t const>{net.counters()});
  write_kinds(c, tensors, to, chunk, colours);
}

template <dm2::config C>
void write_case(fs::path const& to, int chunk) {
  dm2::model<C> net;
  write_case(net, C, to, chunk);
}

/// A golden model, of which the published code has computed the outputs.
void write_golden(fs::path const& golden, fs::path const& to) {
  dm2::tensor_file const file{golden};
  dm2::config const c = dm2::config_from_json(dm2::detail::parse_json(file.metadata().at("config")));
  tensor_list tensors, out{file.at("image"), file.at("eval/logits"), file.at("eval/features")};
  out[0].name = "pixel_values";
  out[1].name = "logits";
  out[2].name = "features";
  for (dm2::stored_tensor t : file.tensors()) {
    if (!t.name.starts_with("param/")) continue;
    t.name.erase(0, 6);
    tensors.push_back(t);
  }
  dm2::write_safetensors(to.string() + ".safetensors", out, {{"config", dm2::to_json(c).dump()}});
  write_kinds(c, tensors, to, 5, false);
}

constexpr dm2::config turned(dm2::config c) {
  c.variant = dm2::mixer_variant::bidirectional;
  return c;
}
/// Three groups, an MLP, an attention without convolution, sizes that are multiples of nothing.
constexpr dm2::config odd{.image = {24, 40},
                          .patch = 4,
                          .stem_width = 5,
                          .depth = 3,
                          .dim = 18,
                          .mlp_dim = 7,
                          .classes = 5,
                          .headdim = 6,
                          .d_state = 5,
                          .d_conv = 3,
                          .groups = 3,
                          .attn_layers = dm2::layers(1),
                          .attn_heads = 2,
                          .attn_head_dim = 5,
                          .attn_rotary = 2,
                          .attn_d_conv = 0};
/// 769 tokens, mixers alone, two groups: its scans are cut into chunks without being told to.
constexpr dm2::config long_sequence{.image = {48, 64},
                                    .patch = 2,
                                    .stem_width = 4,
                                    .depth = 2,
                                    .dim = 16,
                                    .classes = 3,
                                    .headdim = 4,
                                    .d_state = 8,
                                    .groups = 2,
                                    .attn_layers = {}};
/// Attention alone, without rotary channels, on one patch.
constexpr dm2::config one_patch{.image = {6, 6},
                                .patch = 6,
                                .stem_width = 3,
                                .depth = 2,
                                .dim = 8,
                                .classes = 4,
                                .headdim = 4,
                                .d_state = 2,
                                .attn_layers = dm2::layers(0, 1),
                                .attn_heads = 1,
                                .attn_head_dim = 7,
                                .attn_rotary = 0,
                                .attn_d_conv = 2};
/// One channel, one tap, every channel of a head turned.
constexpr dm2::config grey{.image = {10, 6},
                           .patch = 2,
                           .channels = 1,
                           .stem_width = 3,
                           .depth = 2,
                           .dim = 8,
                           .classes = 2,
                           .expand = 1,
                           .headdim = 8,
                           .d_state = 3,
                           .d_conv = 1,
                           .attn_layers = dm2::layers(0),
                           .attn_heads = 2,
                           .attn_head_dim = 4,
                           .attn_rotary = 4};

void write_all(fs::path const& folder, fs::path const& golden) {
  for (char const* const name : {"micro", "wide", "bidirectional"})
    write_golden(golden / ("model_" + std::string{name} + ".safetensors"), folder / ("golden_" + std::string{name}));
  write_case<odd>(folder / "odd", 7);
  write_case<turned(odd)>(folder / "odd_turned", 61);
  write_case<long_sequence>(folder / "long", 100);
  write_case<turned(long_sequence)>(folder / "long_turned", 32);
  write_case<one_patch>(folder / "one_patch", 1);
  write_case<grey>(folder / "grey", 4);
  for (dm2::run::model_code const* const code : dm2::run::compiled_in()) {
    std::string const name = dm2::name_of(code->configuration());
    if (code->backend() != dm2::run::backend::cpu || name == "micro") continue;
    auto const net = code->make_network(2, 2);
    write_case(*net, code->configuration(), folder / name, 64);
  }
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) {
    std::fputs("usage: write_cases FOLDER GOLDEN\n", stderr);
    return EXIT_FAILURE;
  }
  write_all(argv[1], argv[2]);
  return EXIT_SUCCESS;
} catch (std::exception const& error) {
  std::fprintf(stderr, "write_cases: %s\n", error.what());
  return EXIT_FAILURE;
}
