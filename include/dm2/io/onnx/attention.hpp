/// @file
/// An attention mixer and a gated MLP as ONNX operators.
#pragma once

#include <dm2/io/onnx/graph.hpp>
#include <dm2/io/onnx/mixer.hpp>
#include <dm2/io/onnx/weights.hpp>
#include <dm2/model/config.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace dm2::detail {

/// Writes attention mixers into a graph.
class onnx_attention {
 public:
  /// All outlive this.
  onnx_attention(onnx_graph& g, onnx_weights const& w, config const& c)
      : g_{g}, w_{w}, c_{c}, a_{attention_of(c)}, length_{stem_of(c).tokens() + 1} {}

  /// As onnx_mixer's.
  [[nodiscard]] std::string operator()(std::string const& u, int number) const {
    std::string const layer = "layers." + std::to_string(number), mixer = layer + ".mixer";
    std::int64_t const H = a_.heads, d = a_.head_dim, L = length_, width = a_.width();
    std::string const qkv = g_.reshape(project(u, layer, mixer), {0, 3 * H, d, L});
    auto const parts = g_.split(qkv, {2 * H, H}, 1);  // q and k turn together
    auto const qk = g_.split(rotate(parts[0]), {H, H}, 1);
    std::string const y = g_.reshape(attend(qk[0], qk[1], parts[1]), {0, width, L});
    std::string const out = g_.weights(w_(mixer + ".out_proj.weight"), {c_.dim, width}, "out_proj");
    std::string const bias = g_.numbers(w_(mixer + ".out_proj.bias"), {c_.dim, 1});
    return g_.node("Add", {g_.full(g_.node("MatMul", {out, y})), bias});
  }

 private:
  /// q, k and v, [B, 3 H d, L], after the convolution; q has the softmax's factor.
  [[nodiscard]] std::string project(std::string const& u, std::string const& layer, std::string const& mixer) const {
    std::int64_t const width = a_.width();
    std::vector<double> factor(std::size_t(3 * width), 1);
    std::fill_n(factor.begin(), width, 1 / std::sqrt(double(a_.head_dim)));
    auto in = scale_columns(w_(mixer + ".in_proj.weight"), w_(layer + ".norm.weight"));
    auto bias = w_(mixer + ".in_proj.bias");
    if (a_.d_conv == 0) {
      in = scale_rows(std::move(in), factor);
      bias = scale_rows(std::move(bias), factor);
    }
    std::string const product = g_.node("MatMul", {g_.weights(in, {3 * width, c_.dim}, "in_proj"), u});
    // before the convolution, which the first tokens see a part of
    std::string all = g_.node("Add", {product, g_.weights(bias, {3 * width, 1}, "in_proj_bias")});
    if (a_.d_conv == 0) return all;
    return onnx_token_convolution(g_, all, scale_rows(w_(mixer + ".conv1d.weight"), factor),
                                  scale_rows(w_(mixer + ".conv1d.bias"), factor), false);
  }

  /// Turns the first `rotary` channels of each head of [B, H, d, L] by their tokens' angles.
  [[nodiscard]] std::string rotate(std::string const& x) const {
    std::int64_t const half = a_.rotary / 2, rest = a_.head_dim - a_.rotary;
    if (half == 0) return x;
    std::vector<double> cosines, sines;
    for (std::int64_t i = 0; i < half; ++i)
      for (std::int64_t t = 0; t < length_; ++t) {
        double const angle = double(t) * std::pow(10000.0, -2.0 * double(i) / double(a_.rotary));
        cosines.push_back(std::cos(angle));
        sines.push_back(std::sin(angle));
      }
    std::string const cosine = g_.weights(cosines, {half, length_}, "cosines");
    std::string const sine = g_.weights(sines, {half, length_}, "sines");
    auto const parts = rest == 0 ? g_.split(x, {half, half}, 2) : g_.split(x, {half, half, rest}, 2);
    auto const times = [&](std::string const& a, std::string const& b) { return g_.node("Mul", {a, b}); };
    onnx_graph::inputs turned{g_.node("Sub", {times(parts[0], cosine), times(parts[1], sine)}),
                              g_.node("Add", {times(parts[1], cosine), times(parts[0], sine)})};
    if (rest != 0) turned.push_back(parts[2]);
    return g_.concat(turned, 2);
  }

  /// softmax(q^T k) v over [B, H, d, L], as many queries at a time as keep the scores under 2^24.
  [[nodiscard]] std::string attend(std::string const& q, std::string const& k, std::string const& v) const {
    std::int64_t const row = std::int64_t{a_.heads} * length_;
    std::int64_t const tile = std::clamp<std::int64_t>((std::int64_t{1} << 24) / row, 1, length_);
    onnx_graph::inputs out;
    for (std::int64_t t = 0; t < length_; t += tile) {
      std::string const queries = tile == length_ ? q : g_.slice(q, t, std::min<std::int64_t>(t + tile, length_), 3);
      std::string const scores = g_.full(g_.node("MatMul", {g_.transpose(queries, {0, 1, 3, 2}), k}));
      std::string const shares = g_.half(g_.node("Softmax", {scores}, {{"axis", std::int64_t{-1}}}));
      out.push_back(g_.node("MatMul", {v, g_.transpose(shares, {0, 1, 3, 2})}));
    }
    return out.size() == 1 ? out.front() : g_.concat(out, 3);
  }

  onnx_graph& g_;
  onnx_weights const& w_;
  config const& c_;
  attention_shape a_;
  std::int64_t length_;
};

/// What the gated MLP of layer `number` adds to the residual stream.
inline std::string onnx_mlp(onnx_graph& g, onnx_weights const& w, config const& c, std::string const& u, int number) {
  std::string const layer = "layers." + std::to_string(number);
  auto const in = scale_columns(w(layer + ".mlp.fc1.weight"), w(layer + ".norm2.weight"));
  auto const parts =
      g.split(g.node("MatMul", {g.weights(in, {2 * c.mlp_dim, c.dim}, "fc1"), u}), {c.mlp_dim, c.mlp_dim}, 1);
  std::string const y = g.node("Mul", {parts[0], g.silu(parts[1])});
  return g.full(g.node("MatMul", {g.weights(w(layer + ".mlp.fc2.weight"), {c.dim, c.mlp_dim}, "fc2"), y}));
}

}  // namespace dm2::detail
