/// @file
/// The networks of the cliff benchmark: Tiny, and Tiny with one thing changed.
#pragma once

#include <dm2/model/config.hpp>

#include "support/flops.hpp"

#include <algorithm>
#include <string_view>

namespace dm2::bench {

/// One network.
struct cliff_case {
  char const* series;  ///< what is changed
  char const* name;    ///< to what
  config network;
};

consteval config of_image(int side, int patch = 16) { return {.image = {side, side}, .patch = patch}; }
consteval config of_groups(int groups) { return {.groups = groups}; }
consteval config of_state(int state) { return {.d_state = state}; }
consteval config of_width(int dim, int headdim) { return {.dim = dim, .headdim = headdim}; }

/// Whether a case is measured in float as well.
constexpr bool in_float(cliff_case const& c) { return std::string_view{c.series} == "pixels"; }

/// README's own configuration.
inline constexpr config mine{
    .image = {128, 128}, .patch = 8, .depth = 12, .dim = 96, .classes = 10, .headdim = 24, .attn_layers = layers(5)};

/// The first is what the others are compared with.
inline constexpr cliff_case cliff_cases[]{
    {"pixels", "224", tiny},
    {"pixels", "192", of_image(192)},
    {"pixels", "256", of_image(256)},
    {"pixels", "288", of_image(288)},
    {"pixels", "320", of_image(320)},
    {"pixels", "384", of_image(384)},
    {"pixels", "448", of_image(448)},
    {"pixels", "512", of_image(512)},
    {"pixels", "768", of_image(768)},
    {"pixels", "1024", of_image(1024)},
    {"patch", "8, 224 pixels", of_image(224, 8)},
    {"patch", "14, 224 pixels", of_image(224, 14)},
    {"patch", "14, 448 pixels", of_image(448, 14)},
    {"groups", "2", of_groups(2)},
    {"groups", "4", of_groups(4)},
    {"groups", "8", of_groups(8)},
    {"channels", "96, heads of 24", of_width(96, 24)},
    {"channels", "256, heads of 64", of_width(256, 64)},
    {"channels", "384, heads of 96", of_width(384, 96)},
    {"channels", "512, heads of 64", of_width(512, 64)},
    {"channels", "768, heads of 96", of_width(768, 96)},
    {"channels", "1024, heads of 128", of_width(1024, 128)},
    {"state", "16", of_state(16)},
    {"state", "64", of_state(64)},
    {"state", "256", of_state(256)},
    {"network", "README's mine, 128 pixels", mine},
};

/// Pictures that have as many tokens as 256 of Tiny's.
constexpr int cliff_batch(int length) { return std::max(1, (256 * 197 + length / 2) / length); }

/// FLOPs of a picture's evaluation where the scan takes what needs fewer: its quadratic form, or chunks. They grow as
/// the tokens do, but for the attention's.
template <config C>
constexpr double smooth_flops() {
  using size = sizes<C>;
  double const quadratic = scan_flops(size::mixer, size::length);
  double const saved = quadratic - std::min(quadratic, chunked_scan_flops(size::mixer, size::length));
  double flops = forward_flops<C>();
  for (int i = 0; i < C.depth; ++i)
    if (!C.attn_layers.contains(i)) flops -= 2 * saved;
  return flops;
}

/// What was measured of a case.
struct cliff_times {
  int tokens, batch;
  double flops;                      ///< smooth_flops of a picture
  double inference_us, training_us;  ///< of a batch: an evaluation; forward, loss and backward
  double tf32_us, fp32_us;           ///< an evaluation in float; 0 where it is not measured
};

/// Measures cliff_cases[I]; each is a translation unit of its own, case.cu.
template <int I>
cliff_times measure_cliff_case();

}  // namespace dm2::bench
