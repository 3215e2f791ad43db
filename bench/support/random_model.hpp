/// @file
/// Random parameters at which every term of the network matters. A training's initialisation would hide errors by its
/// zero biases and equal directions.
#pragma once

#include "support/numbers.hpp"

#include <dm2/model/parameter_table.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string_view>

namespace dm2::bench {

namespace detail {

/// One entry's number from r ~ N(0, 1) and u ~ U(0, 1). Weights have 1 / fan_in as variance, so that activations keep
/// their size from layer to layer.
inline float parameter_value(parameter_entry const& e, float r, float u) {
  std::string_view const name = e.name;
  auto const has = [&](std::string_view part) { return name.find(part) != std::string_view::npos; };
  if (name.ends_with("running_var")) return std::abs(r) + 0.5f;
  if (name.ends_with("running_mean")) return 0.3f * r;
  if (has(".norm") || has("norm_f") || (has(".bn") && name.ends_with("weight"))) return 1 + 0.2f * r;
  if (has("A_log")) return std::log(1 + 15 * u);
  if (has("dt_bias")) return r - 3;
  if (name.ends_with(".D") || name.ends_with(".D_b")) return 1 + 0.3f * r;
  if (e.rank >= 2 && !has("pos_embed") && !has("cls_token"))
    return r / std::sqrt(float(e.size / std::size_t(e.shape[0])));
  return 0.3f * r;
}

}  // namespace detail

/// The same network with two layers, a mixer and an attention: what one operation needs, without the time that a whole
/// network's parameters take.
consteval config shallow(config c) {
  c.depth = 2;
  c.attn_layers = layers(1);
  return c;
}

/// The same network with five layers, an attention in the middle: every way from one layer into the next.
consteval config five_layers(config c) {
  c.depth = 5;
  c.attn_layers = layers(2);
  return c;
}

/// Fills a model's state; the numbers are floats, and the same in every floating type.
template <config C, class T>
void fill_random(T* state, std::uint64_t seed = 1) {
  std::mt19937_64 source{seed};
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform;
  for (parameter_entry const& e : parameter_table<C>) {
    if (e.kind == entry_kind::counter) continue;
    for (std::size_t i = 0; i < e.size; ++i) {
      float const r = normal(source), u = uniform(source);
      state[e.offset + i] = T(detail::parameter_value(e, r, u));
    }
  }
}

/// Parameters of a whole network without the network: operands of one operation come from its view.
template <config C, class T>
class random_state {
 public:
  random_state() : state_{state_extent<C>} { fill_random<C>(state_.data()); }

  [[nodiscard]] network_view<C, T const> view() const { return network_view<C, T const>{state_.data()}; }

 private:
  buffer<T> state_;
};

}  // namespace dm2::bench
