/// @file
/// The configurations that several tests share.
#pragma once

#include <dm2/model/config.hpp>

#include "../examples/support/configurations.hpp"

namespace dm2::test {

// The golden models': micro, wide, bidirectional, and slim, whose training is golden, too.
using example::micro;

/// MLPs, groups of two heads, patches of 8 in a picture that is no square.
inline constexpr config wide{.image = {48, 32},
                             .patch = 8,
                             .stem_width = 16,
                             .depth = 3,
                             .dim = 48,
                             .mlp_dim = 128,
                             .classes = 7,
                             .headdim = 24,
                             .d_state = 16,
                             .groups = 2,
                             .attn_layers = layers(1),
                             .attn_heads = 2,
                             .attn_head_dim = 24,
                             .attn_rotary = 8};
inline constexpr config bidirectional{.image = {64, 64},
                                      .stem_width = 8,
                                      .depth = 4,
                                      .dim = 32,
                                      .classes = 10,
                                      .headdim = 16,
                                      .d_state = 16,
                                      .attn_layers = layers(2),
                                      .attn_heads = 2,
                                      .attn_head_dim = 24,
                                      .attn_rotary = 24,
                                      .variant = mixer_variant::bidirectional};

inline constexpr config slim = [] {
  config c = bidirectional;
  c.variant = mixer_variant::published;
  return c;
}();

/// A model that trains in milliseconds: 3 classes, pictures of 16 x 16 in 2 x 2 patches, one mixer and one attention
/// layer, about 3,000 parameters.
inline constexpr config small_config{.image = {16, 16},
                                     .patch = 8,
                                     .stem_width = 4,
                                     .depth = 2,
                                     .dim = 8,
                                     .classes = 3,
                                     .headdim = 8,
                                     .d_state = 4,
                                     .attn_layers = layers(1),
                                     .attn_heads = 1,
                                     .attn_head_dim = 8,
                                     .attn_rotary = 4};

/// Every kind of entry; its two mixers have pairs (optimizer_options::shared_pairs) of one line of 64 numbers.
inline constexpr config little{.image = {8, 8},
                               .patch = 4,
                               .stem_width = 3,
                               .depth = 3,
                               .dim = 6,
                               .classes = 4,
                               .headdim = 3,
                               .d_state = 4,
                               .attn_layers = layers(1),
                               .attn_heads = 1,
                               .attn_head_dim = 4,
                               .attn_rotary = 2};

}  // namespace dm2::test
