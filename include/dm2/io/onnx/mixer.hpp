/// @file
/// A bidirectional Mamba-2 mixer as ONNX operators.
#pragma once

#include <dm2/io/onnx/graph.hpp>
#include <dm2/io/onnx/scan.hpp>
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

/// Tokens before, as a depthwise convolution of taps [C, K] over [B, C, L]: as an image of one row, which runtimes have
/// kernels for. `reversed`: tokens after.
inline std::string onnx_token_convolution(onnx_graph& g, std::string const& x, std::vector<double> taps,
                                          std::vector<double> const& bias, bool reversed) {
  std::int64_t const channels = std::int64_t(bias.size()), length = std::int64_t(taps.size()) / channels;
  if (reversed) {
    std::reverse(taps.begin(), taps.end());  // and the channels back into their order
    taps = reverse_rows(taps, std::size_t(length));
  }
  std::vector<std::int64_t> const pads =
      reversed ? std::vector<std::int64_t>{0, 0, 0, length - 1} : std::vector<std::int64_t>{0, length - 1, 0, 0};
  std::string const row = g.node("Unsqueeze", {x, g.integers({2})});
  return g.node("Conv",
                {row, g.weights(taps, {channels, 1, 1, length}, "conv1d"), g.weights(bias, {channels}, "conv1d_bias")},
                {{"group", channels}, {"kernel_shape", std::vector<std::int64_t>{1, length}}, {"pads", pads}});
}

/// Writes mixers into a graph.
class onnx_mixer {
 public:
  /// `chunks` of each scan; 0: what costs least. All outlive this.
  onnx_mixer(onnx_graph& g, onnx_weights const& w, config const& c, int chunk)
      : g_{g}, w_{w}, c_{c}, m_{mixer_of(c)}, chunk_{chunk} {}

  /// What layer `number` adds to the residual stream, [B, dim, L], from it normalised, `u`.
  [[nodiscard]] std::string operator()(std::string const& u, int number) const {
    std::string const layer = "layers." + std::to_string(number), mixer = layer + ".mixer";
    auto const projection = scale_columns(w_(mixer + ".in_proj.weight"), w_(layer + ".norm.weight"));
    std::string const all = g_.node("MatMul", {g_.weights(projection, {m_.projected(), c_.dim}, "in_proj"), u});
    parts const forward = cut(all, false);
    std::string const gate = g_.silu(forward.z);
    bool const mirrored = c_.variant == mixer_variant::published;
    std::string const first = direction(forward, gate, mixer, false);
    std::string second;
    if (mirrored) {
      parts const own = cut(all, true);
      second = direction(own, g_.silu(own.z), mixer, true);
    } else {
      second = direction(forward, gate, mixer, true);
    }
    std::string const out = g_.weights(merge_output_projections(w_, mixer, c_), {c_.dim, 2 * m_.d_inner()}, "out_proj");
    return g_.full(g_.node("MatMul", {out, g_.concat({first, second}, 1)}));
  }

 private:
  struct parts {
    std::string z, xbc, dt;
  };
  /// The projection's channels; mirrored, as they are for a direction that reads them in reverse.
  [[nodiscard]] parts cut(std::string const& all, bool mirrored) const {
    std::vector<std::int64_t> lengths{m_.d_inner(), m_.conv_dim(), m_.heads};
    if (mirrored) std::reverse(lengths.begin(), lengths.end());
    auto const out = g_.split(all, lengths, 1);
    return mirrored ? parts{out[2], out[1], out[0]} : parts{out[0], out[1], out[2]};
  }

  [[nodiscard]] std::vector<double> parameter(std::string const& name, bool mirrored, std::size_t each = 1) const {
    auto values = w_(name);
    return mirrored ? reverse_rows(values, each) : values;
  }

  [[nodiscard]] onnx_scan_shape scan_shape(bool reversed) const {
    std::int64_t const length = stem_of(c_).tokens() + 1;
    onnx_scan_shape s{m_.groups, m_.heads / m_.groups, m_.headdim, m_.d_state, length, reversed, 1};
    s.chunks = chunk_ == 0 ? choose_chunks(s) : (length + chunk_ - 1) / chunk_;
    return s;
  }

  /// One direction, [B, d_inner, L], normalised, without its norm's weight.
  [[nodiscard]] std::string direction(parts const& in, std::string const& gate, std::string const& mixer,
                                      bool second) const {
    onnx_graph::scope const scope{g_, second ? "backward" : "forward"};
    std::string const end = second ? "_b" : "";
    bool const published = c_.variant == mixer_variant::published, mirrored = second && published;
    bool const reversed = second && !published;
    auto const of = [&](std::string const& name, std::size_t each = 1) {
      return parameter(mixer + "." + name, mirrored, each);
    };
    std::int64_t const inner = m_.d_inner(), states = std::int64_t{m_.groups} * m_.d_state;
    std::string const convolved = onnx_token_convolution(
        g_, in.xbc, of("conv1d" + end + ".weight", std::size_t(m_.d_conv)), of("conv1d" + end + ".bias"), reversed);
    std::string const active = g_.reshape(g_.silu(convolved), {0, m_.conv_dim(), -1});
    auto const xbc =
        mirrored ? g_.split(active, {states, states, inner}, 1) : g_.split(active, {inner, states, states}, 1);
    std::string const bias = g_.numbers(of("dt_bias" + end), {m_.heads, 1});
    std::string const dt = g_.node("Softplus", {g_.node("Add", {g_.full(in.dt), bias})});
    std::vector<double> a = of("A_log" + end);
    for (double& value : a) value = -std::exp(value);
    onnx_scan const scan{g_, scan_shape(reversed)};
    std::string const& x = mirrored ? xbc[2] : xbc[0];
    std::string const scanned = scan({x, xbc[1], mirrored ? xbc[0] : xbc[2], dt}, a);
    std::string const passed = g_.node("Mul", {x, g_.weights(skip(of(published ? "D" : "D" + end)), {inner, 1}, "D")});
    return norm(g_.node("Mul", {g_.node("Add", {scanned, passed}), gate}));
  }

  /// D of each channel, from that of each head.
  [[nodiscard]] std::vector<double> skip(std::vector<double> const& heads) const {
    std::vector<double> out;
    for (double const value : heads) out.insert(out.end(), std::size_t(m_.headdim), value);
    return out;
  }

  /// The norm over each group of channels; its epsilon is the published code's.
  [[nodiscard]] std::string norm(std::string const& y) const {
    if (m_.groups == 1) return onnx_root_mean_square(g_, y, 1e-5);
    std::string const grouped = g_.reshape(y, {0, m_.groups, m_.d_inner() / m_.groups, -1});
    return g_.reshape(onnx_root_mean_square(g_, grouped, 1e-5, 2), {0, m_.d_inner(), -1});
  }

  onnx_graph& g_;
  onnx_weights const& w_;
  config const& c_;
  mixer_shape m_;
  int chunk_;
};

}  // namespace dm2::detail
