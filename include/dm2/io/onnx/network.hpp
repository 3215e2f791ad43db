/// @file
/// A whole network as ONNX operators: stem, tokens, layers, heads.
#pragma once

#include <dm2/io/onnx/attention.hpp>
#include <dm2/io/onnx/graph.hpp>
#include <dm2/io/onnx/mixer.hpp>
#include <dm2/io/onnx/options.hpp>
#include <dm2/io/onnx/weights.hpp>
#include <dm2/model/config.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace dm2::detail {

/// Writes a network into a graph. Channels stand before tokens from the stem on, so that projections are a weight times
/// the activations and no layer transposes anything.
class onnx_network {
 public:
  /// All outlive this.
  onnx_network(onnx_graph& g, onnx_weights const& w, config const& c, onnx_options const& o)
      : g_{g}, w_{w}, c_{c}, o_{o}, s_{stem_of(c)} {}

  void operator()() const {
    std::string residual = tokens(stem(picture()));
    onnx_mixer const mixer{g_, w_, c_, o_.chunk};
    onnx_attention const attention{g_, w_, c_};
    for (int i = 0; i < c_.depth; ++i) {
      onnx_graph::scope const layer{g_, "layers." + std::to_string(i)};
      {
        onnx_graph::scope const part{g_, "mixer"};
        std::string const u = onnx_root_mean_square(g_, residual, c_.eps);
        std::string const x = c_.attn_layers.contains(i) ? attention(u, i) : mixer(u, i);
        residual = g_.node("Add", {residual, x});
      }
      if (c_.mlp_dim == 0) continue;
      onnx_graph::scope const part{g_, "mlp"};
      std::string const u = onnx_root_mean_square(g_, residual, c_.eps);
      residual = g_.node("Add", {residual, onnx_mlp(g_, w_, c_, u, i)});
    }
    heads(onnx_root_mean_square(g_, residual, c_.eps));
  }

 private:
  [[nodiscard]] std::int64_t patches() const { return s_.tokens(); }
  [[nodiscard]] std::int64_t middle() const { return patches() / 2; }

  /// [B, channels, height, width] about 0: the input less its mean. Dividing is left to the first convolution; the
  /// mean cannot be, as the zeros around the picture come after it.
  [[nodiscard]] std::string picture() const {
    std::int64_t const C = s_.channels, H = s_.height, W = s_.width;
    if (o_.input == onnx_input::normalised)
      return g_.half(g_.input({"pixel_values", onnx_type::float32, {0, C, H, W}}));
    bool const bytes = o_.input == onnx_input::bytes;
    std::string x = bytes ? g_.input({"pixel_values", onnx_type::uint8, {0, H, W, C}})
                          : g_.input({"pixel_values", onnx_type::float32, {0, C, H, W}});
    if (bytes) x = g_.cast(g_.transpose(x, {0, 3, 1, 2}), onnx_type::float32);
    std::vector<double> mean;
    for (float const value : o_.statistics.mean) mean.push_back(value * (bytes ? 255.0 : 1.0));
    return g_.half(g_.node("Sub", {x, g_.numbers(mean, {C, 1, 1})}));
  }

  /// The first convolution's weight [hidden, channels, 7, 7] for what picture() leaves.
  [[nodiscard]] std::vector<double> for_picture(std::vector<double> weight) const {
    if (o_.input == onnx_input::normalised) return weight;
    double const scale = o_.input == onnx_input::bytes ? 255 : 1;
    for (std::size_t i = 0; i < weight.size(); ++i) weight[i] /= scale * o_.statistics.std[i / 49 % 3];
    return weight;
  }

  /// Patches [B, dim, tokens - 1].
  [[nodiscard]] std::string stem(std::string x) const {
    onnx_graph::scope const scope{g_, "patch_embed"};
    std::int64_t const hidden = s_.hidden, side = s_.patch / 2;
    for (int number = 1; number <= 3; ++number) {
      folded_convolution f = fold_batch_norm(w_, number);
      std::int64_t const stride = number == 1 ? 2 : 1, taps = number == 1 ? 7 : 3, pad = taps / 2;
      if (number == 1) f.weight = for_picture(std::move(f.weight));
      std::string const label = "conv" + std::to_string(number), bias = label + "_bias";
      std::int64_t const in = number == 1 ? s_.channels : hidden;
      x = g_.node(
          "Relu",
          {g_.node("Conv",
                   {x, g_.weights(f.weight, {hidden, in, taps, taps}, label), g_.weights(f.bias, {hidden}, bias)},
                   {{"kernel_shape", std::vector{taps, taps}},
                    {"strides", std::vector{stride, stride}},
                    {"pads", std::vector{pad, pad, pad, pad}}})});
    }
    x = g_.node("Conv",
                {x, g_.weights(w_("patch_embed.proj.weight"), {c_.dim, hidden, side, side}, "proj"),
                 g_.weights(w_("patch_embed.proj.bias"), {c_.dim}, "proj_bias")},
                {{"kernel_shape", std::vector{side, side}}, {"strides", std::vector{side, side}}});
    return g_.full(g_.reshape(x, {0, c_.dim, patches()}));
  }

  /// The class token in the middle and the position embedding: a column of zeros is put there, and what is added
  /// [1, dim, tokens] has the class token in it.
  [[nodiscard]] std::string tokens(std::string const& x) const {
    onnx_graph::scope const scope{g_, "tokens"};
    std::vector<double> const cls = w_("cls_token"), position = w_("pos_embed");
    std::size_t const dim = std::size_t(c_.dim), length = std::size_t(patches()) + 1, place = std::size_t(middle());
    std::vector<double> added(dim * length);
    for (std::size_t c = 0; c < dim; ++c)
      for (std::size_t t = 0; t < length; ++t)
        added[c * length + t] = position[t * dim + c] + (t == place ? cls[c] : 0);
    std::string all;
    if (middle() == 0) {
      all = g_.node("Pad", {x, g_.integers({0, 0, 1, 0, 0, 0})});
    } else {
      auto const parts = g_.split(x, {middle(), patches() - middle()}, 2);
      all = g_.concat({g_.node("Pad", {parts[0], g_.integers({0, 0, 0, 0, 0, 1})}), parts[1]}, 2);
    }
    return g_.node("Add", {all, g_.numbers(added, {1, c_.dim, std::int64_t(length)})});
  }

  /// All patches' columns of u [B, dim, tokens].
  [[nodiscard]] std::string without_class_token(std::string const& u) const {
    if (middle() == 0) return g_.slice(u, 1, patches() + 1, 2);
    auto const parts = g_.split(u, {middle(), 1, patches() - middle()}, 2);
    return g_.concat({parts[0], parts[2]}, 2);
  }

  /// The outputs, from the trunk's last norm without its weight.
  void heads(std::string const& u) const {
    onnx_graph::scope const scope{g_, "head"};
    std::int64_t const K = c_.classes, D = c_.dim, L = patches() + 1;
    std::vector<double> const norm = w_("norm_f.weight"), aux_bias = w_("aux_head.bias");
    std::vector<double> bias = w_("head.bias");
    auto const logits_of = [&](std::string const& name, std::string const& x) {
      std::string const weight = g_.weights(scale_columns(w_(name + ".weight"), norm), {K, D}, name);
      return g_.full(g_.node("MatMul", {weight, x}));
    };
    std::string const patches_first = logits_of("aux_head", without_class_token(u));  // [B, K, patches]
    std::string const token = logits_of("head", g_.slice(u, middle(), middle() + 1, 2));
    std::string const best =
        g_.node("ReduceMax", {patches_first}, {{"axes", std::vector<std::int64_t>{2}}, {"keepdims", std::int64_t{0}}});
    for (std::size_t k = 0; k < bias.size(); ++k) bias[k] += aux_bias[k] / 2;
    std::string const own = g_.node("Add", {g_.reshape(token, {0, K}), g_.numbers(bias, {K})});
    g_.output("Add", {own, g_.node("Mul", {best, g_.number(0.5)})}, {"logits", onnx_type::float32, {0, K}});
    if (o_.features)
      g_.output("Mul", {g_.transpose(g_.full(u), {0, 2, 1}), g_.numbers(norm, {D})},
                {"features", onnx_type::float32, {0, L, D}});
    if (!o_.patches) return;
    std::string const last = g_.node("Add", {g_.transpose(patches_first, {0, 2, 1}), g_.numbers(aux_bias, {K})});
    g_.output("Reshape", {last, g_.integers({0, s_.grid_height(), s_.grid_width(), K})},
              {"patches", onnx_type::float32, {0, s_.grid_height(), s_.grid_width(), K}});
  }

  onnx_graph& g_;
  onnx_weights const& w_;
  config const& c_;
  onnx_options const& o_;
  stem_shape s_;
};

}  // namespace dm2::detail
