/// @file
/// A model's configuration: a constant that is used as a template argument.
#pragma once

#include <dm2/core/shapes.hpp>
#include <dm2/model/config_rule_list.hpp>

#include <cstdint>
#include <type_traits>

namespace dm2 {

/// Of a configuration's picture.
using image_size = image_extent;

/// A set of layer numbers, 0 to 63.
struct layer_set {
  std::uint64_t bits = 0;  ///< bit i is layer i

  /// Whether layer i is in the set; false for any i outside 0..63.
  [[nodiscard]] constexpr bool contains(int i) const { return i >= 0 && i < 64 && ((bits >> i) & 1u) != 0; }
};

/// The set of the given layer numbers: `layers(10, 20)`. A number outside 0..63 does not compile as a constant.
template <class... Index>
constexpr layer_set layers(Index... index) {
  layer_set s{};
  ((s.bits |= index >= 0 && index < 64 ? std::uint64_t{1} << index : throw "dm2::layers: a layer number must be 0..63"),
   ...);
  return s;
}

/// Hyper-parameters, under the names of the published code; the defaults are DeMansia 2 Tiny.
///
///     constexpr dm2::config mine{.image = {128, 128}, .patch = 8, .depth = 12, .dim = 96, .classes = 10,
///                                .headdim = 24, .attn_layers = dm2::layers(5)};
///     dm2::model<mine> net;
///
/// Fields are named in the order of their declaration, as C++ demands.
struct config {
  image_size image{224, 224};              ///< of the picture, in pixels
  int patch = 16;                          ///< pixels a side; even, since the stem already halves the resolution
  int channels = 3;                        ///< of the picture
  int stem_width = 64;                     ///< channels of the stem's three convolutions
  int depth = 24;                          ///< layers
  int dim = 192;                           ///< channels of the residual stream (d_model)
  int mlp_dim = 0;                         ///< hidden channels of the gated MLP after each mixer; 0 leaves it out
  int classes = 1000;                      ///< logits of each head
  int expand = 2;                          ///< d_inner = expand * dim
  int headdim = 48;                        ///< channels a Mamba-2 head
  int d_state = 128;                       ///< state size N
  int d_conv = 4;                          ///< taps of the mixer's causal convolution
  int groups = 1;                          ///< groups of heads that share B and C
  layer_set attn_layers = layers(10, 20);  ///< layers that are attention, counted from 0
  int attn_heads = 3;                      ///< of an attention layer
  int attn_head_dim = 96;                  ///< channels an attention head
  int attn_rotary = 48;                    ///< channels of a head with rotary position embedding; 0 for none
  int attn_d_conv = 4;                     ///< taps of the attention's causal convolution; 0 leaves it out
  double eps = 1e-5;                       ///< of the RMS norms on the residual stream
  mixer_variant variant = mixer_variant::published;  ///< the mixer's second direction
};

/// DeMansia 2 Tiny: 9,514,032 parameters.
inline constexpr config tiny{};
// A header of Windows has a macro of this name; while it is defined, published_small is the way to write it.
#pragma push_macro("small")
#undef small
/// DeMansia 2 Small: 32,746,032 parameters.
inline constexpr config small{.dim = 384, .headdim = 96, .attn_heads = 6};
#pragma pop_macro("small")
/// dm2::small, where a macro has that name.
inline constexpr config published_small{.dim = 384, .headdim = 96, .attn_heads = 6};

/// Holds for every configuration but one that the compiler has refused: g++ would go on from there into the layers'
/// tables, and round in them.
template <config C>
concept compiles = requires {
  typename std::bool_constant<(C.depth > 0)>;
};

namespace detail {
// The three shapes of a configuration that keeps its rules.
constexpr mixer_shape mixer_of(config const& c) {
  return {c.expand * c.dim / c.headdim, c.headdim, c.d_state, c.groups, c.d_conv, c.variant};
}
constexpr attention_shape attention_of(config const& c) {
  return {c.attn_heads, c.attn_head_dim, c.attn_rotary, c.attn_d_conv};
}
constexpr stem_shape stem_of(config const& c) {
  return {c.image.height, c.image.width, c.channels, c.stem_width, c.patch, c.dim};
}
}  // namespace detail

/// Sizes derived from a configuration, and the rules that it must keep (config_rule_list.hpp has them).
template <config C>
struct sizes {
/// A rule at compile time.
#define DM2_RULE_ASSERT(condition, sentence, fields) static_assert(condition, sentence);
  DM2_CONFIG_RULES(DM2_RULE_ASSERT, C)
#undef DM2_RULE_ASSERT

  /// The mixer's sizes, as its operations take them.
  static constexpr mixer_shape mixer = detail::mixer_of(C);
  /// The attention's sizes, as its operations take them.
  static constexpr attention_shape attention = detail::attention_of(C);
  /// The stem's sizes, as its operations take them.
  static constexpr stem_shape stem = detail::stem_of(C);

  static constexpr int heads = mixer.heads;             ///< of the mixer
  static constexpr int d_inner = mixer.d_inner();       ///< channels inside the mixer
  static constexpr int conv_dim = mixer.conv_dim();     ///< channels through the mixer's convolution
  static constexpr int projected = mixer.projected();   ///< channels of the mixer's input projection
  static constexpr int attn_width = attention.width();  ///< channels of q, k and v each
  static constexpr int tokens = stem.tokens();          ///< patches
  static constexpr int length = tokens + 1;             ///< patches and the class token
  static constexpr int class_token = tokens / 2;        ///< where the class token stands
  /// Floats of one picture, [channels, height, width].
  static constexpr int pixels = C.channels * C.image.height * C.image.width;
};

}  // namespace dm2
