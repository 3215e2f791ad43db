/// @file
/// The configurations of the golden models.
#pragma once

#include <dm2/model/config.hpp>

namespace dm2::test {

inline constexpr config micro{.image = {64, 64},
                              .depth = 4,
                              .dim = 32,
                              .classes = 10,
                              .headdim = 16,
                              .d_state = 16,
                              .attn_layers = layers(2),
                              .attn_heads = 2,
                              .attn_head_dim = 24,
                              .attn_rotary = 16};
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

}  // namespace dm2::test
