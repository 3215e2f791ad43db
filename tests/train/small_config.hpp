/// @file
/// A model that trains in milliseconds.
#pragma once

#include <dm2/model/config.hpp>

namespace dm2::test {

/// 3 classes, pictures of 16 x 16 in 2 x 2 patches, one mixer and one attention layer: about 3,000 parameters.
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

}  // namespace dm2::test
