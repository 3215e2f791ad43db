/// @file
/// A model's configuration: a constant that is used as a template argument.
#pragma once

#include <dm2/core/shapes.hpp>

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

/// Sizes derived from a configuration, and the rules that it must keep.
template <config C>
struct sizes {
  static_assert(C.image.height >= 1 && C.image.width >= 1 && C.channels >= 1,
                "dm2::config: image.height, image.width and channels must be at least 1");
  static_assert(C.patch >= 2 && C.patch % 2 == 0,
                "dm2::config: patch must be even and at least 2, since the stem halves the resolution first");
  static_assert(C.patch < 2 || (C.image.height % C.patch == 0 && C.image.width % C.patch == 0),
                "dm2::config: image.height and image.width must be multiples of patch");
  static_assert(C.stem_width >= 1, "dm2::config: stem_width must be at least 1");
  static_assert(C.depth >= 1 && C.depth <= 64, "dm2::config: depth must be 1..64");
  static_assert(C.dim >= 1 && C.expand >= 1, "dm2::config: dim and expand must be at least 1");
  static_assert(C.mlp_dim >= 0, "dm2::config: mlp_dim must be 0 (no MLP) or more");
  static_assert(C.classes >= 1, "dm2::config: classes must be at least 1");
  static_assert(C.headdim >= 1 && C.d_state >= 1, "dm2::config: headdim and d_state must be at least 1");
  static_assert(C.headdim < 1 || C.expand * C.dim % C.headdim == 0,
                "dm2::config: expand * dim must be a multiple of headdim");
  static_assert(C.d_conv >= 1, "dm2::config: d_conv must be at least 1");
  static_assert(C.groups >= 1 && C.headdim >= 1 && C.expand * C.dim / C.headdim % C.groups == 0,
                "dm2::config: the heads, expand * dim / headdim, must be a multiple of groups");
  static_assert(C.depth >= 64 || (C.attn_layers.bits >> C.depth) == 0,
                "dm2::config: every layer number of attn_layers must be below depth");
  static_assert(C.attn_heads >= 1 && C.attn_head_dim >= 1,
                "dm2::config: attn_heads and attn_head_dim must be at least 1");
  static_assert(C.attn_rotary >= 0 && C.attn_rotary % 2 == 0, "dm2::config: attn_rotary must be even, or 0 for none");
  static_assert(C.attn_rotary <= C.attn_head_dim, "dm2::config: attn_rotary must not be over attn_head_dim");
  static_assert(C.attn_d_conv >= 0, "dm2::config: attn_d_conv must be 0 (no convolution) or more");
  static_assert(C.eps > 0, "dm2::config: eps must be positive");

  /// The mixer's sizes, as its operations take them.
  static constexpr mixer_shape mixer{C.expand * C.dim / C.headdim, C.headdim, C.d_state, C.groups, C.d_conv, C.variant};
  /// The attention's sizes, as its operations take them.
  static constexpr attention_shape attention{C.attn_heads, C.attn_head_dim, C.attn_rotary, C.attn_d_conv};
  /// The stem's sizes, as its operations take them.
  static constexpr stem_shape stem{C.image.height, C.image.width, C.channels, C.stem_width, C.patch, C.dim};

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
