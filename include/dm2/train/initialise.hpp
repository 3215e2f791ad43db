/// @file
/// The parameters with which training starts.
#pragma once

#include <dm2/core/parameters.hpp>
#include <dm2/core/random.hpp>
#include <dm2/model/config.hpp>
#include <dm2/model/parameter_table.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace dm2 {
namespace detail {

/// The number in "layers.N...", or -1.
constexpr int layer_number(std::string_view name) {
  if (!name.starts_with("layers.")) return -1;
  int n = 0;
  for (char c : name.substr(7)) {
    if (c < '0' || c > '9') break;
    n = 10 * n + (c - '0');
  }
  return n;
}

/// Fills one entry of the state. `values` [size]; fan_in: the product of all extents but the first.
template <class T>
void initialise_entry(parameter_entry const& e, int depth, int taps, random_stream random, std::span<T> values) {
  std::string_view const name = e.name;
  auto const ends = [&](auto... suffix) { return (name.ends_with(suffix) || ...); };
  auto const fill = [&](auto const& draw) { std::generate(values.begin(), values.end(), [&] { return T(draw()); }); };
  double const fan_in = double(e.size) / e.shape[0];
  auto const uniform = [&](double bound) { fill([&] { return random.uniform(-bound, bound); }); };
  // normal, drawn again outside two sigma; cutting leaves 0.8796 of the standard deviation
  auto const truncated = [&](double std) {
    fill([&] {
      double v = random.normal();
      while (std::abs(v) > 2) v = random.normal();
      return v * std / 0.87962566103423978;
    });
  };
  if (ends("running_var") || (ends(".weight") && (name.find("norm") != name.npos || name.find(".bn") != name.npos)) ||
      ends(".D", ".D_b"))
    fill([] { return 1.0; });
  else if (name.find("conv1d") != name.npos)
    uniform(1 / std::sqrt(double(taps)));
  else if (ends("running_mean", ".bias"))
    fill([] { return 0.0; });
  else if (name.starts_with("patch_embed"))
    truncated(1 / std::sqrt(fan_in));
  else if (ends("head.weight", "pos_embed", "cls_token"))
    fill([&] { return 0.02 * random.normal(); });
  else if (ends(".A_log", ".A_log_b"))
    fill([&] { return std::log(random.uniform(1, 16)); });
  else if (ends(".dt_bias", ".dt_bias_b"))
    fill([&] {
      double const dt = std::max(std::exp(random.uniform(std::log(0.001), std::log(0.1))), 1e-4);
      return dt + std::log(-std::expm1(-dt));  // softplus(this) = dt
    });
  else
    uniform(1 / std::sqrt(fan_in) / (ends("mixer.out_proj.weight", "mlp.fc2.weight") ? std::sqrt(double(depth)) : 1));
}

}  // namespace detail

/// Fills a model's state as the published code does before training, from a seed; its step counts become 0.
///
///     stem convolutions                          truncated normal (2 sigma), standard deviation 1 / sqrt(fan in)
///     heads, position embedding, class token     normal, standard deviation 0.02
///     input projections, out_proj_b, fc1         uniform in +-1 / sqrt(fan in)
///     out_proj, fc2                              the same over sqrt(depth); out_proj_b is not scaled, as published
///     convolutions along the sequence            uniform in +-1 / sqrt(taps), biases too
///     dt_bias = dt_bias_b                        softplus^-1 of a step that is log-uniform in [0.001, 0.1]
///     A_log = A_log_b                            log of uniform [1, 16]
///     norms, BatchNorm, D, D_b                   1; every other bias 0
///
/// Shapes   state as the table of configuration c says, counters one for each of its counters.
/// Writes   state (=), counters (=).
template <class T>
void initialise(config const& c, std::span<parameter_entry const> table, std::span<T> state,
                std::span<std::int64_t> counters, std::uint64_t seed) {
  for (std::size_t i = 0; i < table.size(); ++i) {
    parameter_entry const& e = table[i];
    if (e.kind == entry_kind::counter) {
      counters[e.offset] = 0;
      continue;
    }
    // the second direction's dt_bias and A_log begin as the first one's, which stand before them
    bool const pair = e.name.ends_with(".dt_bias_b") || e.name.ends_with(".A_log_b");
    random_stream const random{seed, 0xFFFFFFFFu, pair ? i - 1 : i};
    bool const attention = c.attn_layers.contains(detail::layer_number(e.name));
    detail::initialise_entry(e, c.depth, attention ? c.attn_d_conv : c.d_conv, random, state.subspan(e.offset, e.size));
  }
}

/// Fills a model, as the above does its state.
template <class M>
  requires requires { requires compiles<M::configuration>; }
void initialise(M& net, std::uint64_t seed) {
  auto const state = net.state();
  initialise(M::configuration, std::span<parameter_entry const>{net.table()}, std::span{state},
             std::span<std::int64_t>{net.counters()}, seed);
}

}  // namespace dm2
