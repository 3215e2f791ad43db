/// @file
/// Small configurations with names, beside dm2::tiny and dm2::small.
#pragma once

#include <dm2/model/config.hpp>

namespace dm2::presets {

/// Learns make_shapes' pictures in two minutes on two cores: 357,604 parameters.
inline constexpr config quick{.image = {48, 48},
                              .patch = 8,
                              .stem_width = 32,
                              .depth = 4,
                              .dim = 96,
                              .classes = 14,
                              .d_state = 16,
                              .attn_layers = layers(2),
                              .attn_head_dim = 32,
                              .attn_rotary = 16,
                              .variant = mixer_variant::bidirectional};

/// That of the checkpoint in tests/golden/lightning: 10 classes, pictures of 64 x 64.
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

}  // namespace dm2::presets
