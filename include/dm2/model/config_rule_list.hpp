/// @file
/// The rules of a configuration, once: a list for the preprocessor.
///
/// sizes<C> makes a static_assert of each, config_rules.hpp a row of a table. A static_assert's text has to be a
/// literal, which no constexpr table could give it.
#pragma once

#include <cstdint>
#include <initializer_list>

namespace dm2::detail {

/// No field of a configuration may be over this: sums of products of two then fit in 64 bits.
inline constexpr int max_config_field = 1'000'000;

/// Whether the product of the factors is under 2^31: indices within one tensor are ints. Factors below 1 are another
/// rule's business.
constexpr bool is_index(std::initializer_list<std::int64_t> factors) {
  std::int64_t product = 1;
  for (std::int64_t const f : factors) {
    if (f < 1) return true;
    if (f > 0x7FFFFFFF / product) return false;
    product *= f;
  }
  return true;
}

/// A configuration's derived sizes in 64 bits, for fields of up to max_config_field; nothing is divided by zero.
template <class Config>
struct wide_sizes {
  std::int64_t inner, heads, projected, length;
  constexpr explicit wide_sizes(Config const& c)
      : inner{std::int64_t{c.expand} * c.dim},
        heads{c.headdim < 1 ? 0 : inner / c.headdim},
        projected{2 * inner + 2 * std::int64_t{c.groups} * c.d_state + heads},
        length{c.patch < 1 ? 0 : std::int64_t{c.image.height / c.patch} * (c.image.width / c.patch) + 1} {}
};

template <class Config>
constexpr bool headdim_divides(Config const& c) {
  return c.headdim < 1 || std::int64_t{c.expand} * c.dim % c.headdim == 0;
}
template <class Config>
constexpr bool groups_divide(Config const& c) {
  return c.groups >= 1 && c.headdim >= 1 && std::int64_t{c.expand} * c.dim / c.headdim % c.groups == 0;
}
template <class Config>
constexpr bool layers_below_depth(Config const& c) {
  return c.depth < 0 || c.depth >= 64 || (c.attn_layers.bits >> c.depth) == 0;
}
template <class Config>
constexpr bool fields_in_range(Config const& c) {
  int const fields[] = {c.image.height, c.image.width, c.patch,         c.channels,   c.stem_width, c.dim,
                        c.mlp_dim,      c.classes,     c.expand,        c.headdim,    c.d_state,    c.d_conv,
                        c.groups,       c.attn_heads,  c.attn_head_dim, c.attn_d_conv};
  for (int const field : fields)
    if (field > max_config_field) return false;
  return true;
}
template <class Config>
constexpr bool stem_weights_fit(Config const& c) {
  return is_index({c.stem_width, c.stem_width, 9}) && is_index({c.stem_width, c.channels, 49}) &&
         is_index({c.dim, c.stem_width, c.patch / 2, c.patch / 2});
}
template <class Config>
constexpr bool mixer_weights_fit(Config const& c) {
  wide_sizes<Config> const s{c};
  return is_index({s.projected, c.dim}) && is_index({s.projected, c.d_conv}) && is_index({s.inner, c.d_state});
}
template <class Config>
constexpr bool attention_weights_fit(Config const& c) {
  return is_index({3, c.attn_heads, c.attn_head_dim, c.dim}) &&
         is_index({3, c.attn_heads, c.attn_head_dim, c.attn_d_conv});
}
template <class Config>
constexpr bool activations_fit(Config const& c) {
  wide_sizes<Config> const s{c};
  return is_index({s.length, s.projected}) && is_index({s.length, 3, c.attn_heads, c.attn_head_dim}) &&
         is_index({s.length, 2, c.mlp_dim}) && is_index({s.length, c.classes}) && is_index({s.length, c.dim});
}

}  // namespace dm2::detail

// NOLINTBEGIN(bugprone-macro-parentheses): c is a name
// clang-format off
/// RULE(condition, sentence, fields) for each rule of the configuration `c`; `fields` is their names, a blank between
/// two. At run time the first broken rule counts, and a condition may rely on those before it for its sums to fit in 64
/// bits; as static_asserts all are looked at, so that none divides by what another one has to make sure of.
#define DM2_CONFIG_RULES(RULE, c)                                                                                      \
  RULE((c.image.height >= 1 && c.image.width >= 1 && c.channels >= 1),                                                 \
       "dm2::config: image.height, image.width and channels must be at least 1", "image channels")                     \
  RULE((c.patch >= 2 && c.patch % 2 == 0),                                                                             \
       "dm2::config: patch must be even and at least 2, since the stem halves the resolution first", "patch")          \
  RULE((c.patch < 2 || (c.image.height % c.patch == 0 && c.image.width % c.patch == 0)),                               \
       "dm2::config: image.height and image.width must be multiples of patch", "image patch")                          \
  RULE((c.stem_width >= 1), "dm2::config: stem_width must be at least 1", "stem_width")                                \
  RULE((c.depth >= 1 && c.depth <= 64), "dm2::config: depth must be 1..64", "depth")                                   \
  RULE((c.dim >= 1 && c.expand >= 1), "dm2::config: dim and expand must be at least 1", "dim expand")                  \
  RULE((c.mlp_dim >= 0), "dm2::config: mlp_dim must be 0 (no MLP) or more", "mlp_dim")                                 \
  RULE((c.classes >= 1), "dm2::config: classes must be at least 1", "classes")                                         \
  RULE((c.headdim >= 1 && c.d_state >= 1), "dm2::config: headdim and d_state must be at least 1", "headdim d_state")   \
  RULE((dm2::detail::headdim_divides(c)),                                                                              \
       "dm2::config: expand * dim must be a multiple of headdim", "dim expand headdim")                                \
  RULE((c.d_conv >= 1), "dm2::config: d_conv must be at least 1", "d_conv")                                            \
  RULE((dm2::detail::groups_divide(c)),                                                                                \
       "dm2::config: the heads, expand * dim / headdim, must be a multiple of groups", "dim expand headdim groups")    \
  RULE((dm2::detail::layers_below_depth(c)),                                                                           \
       "dm2::config: every layer number of attn_layers must be below depth", "attn_layers depth")                      \
  RULE((c.attn_heads >= 1 && c.attn_head_dim >= 1),                                                                    \
       "dm2::config: attn_heads and attn_head_dim must be at least 1", "attn_heads attn_head_dim")                     \
  RULE((c.attn_rotary >= 0 && c.attn_rotary % 2 == 0),                                                                 \
       "dm2::config: attn_rotary must be even, or 0 for none", "attn_rotary")                                          \
  RULE((c.attn_rotary <= c.attn_head_dim),                                                                             \
       "dm2::config: attn_rotary must not be over attn_head_dim", "attn_rotary attn_head_dim")                         \
  RULE((c.attn_d_conv >= 0), "dm2::config: attn_d_conv must be 0 (no convolution) or more", "attn_d_conv")             \
  RULE((c.eps > 0), "dm2::config: eps must be positive", "eps")                                                        \
  RULE((c.eps <= 1), "dm2::config: eps must not be over 1", "eps")                                                     \
  RULE((dm2::detail::fields_in_range(c)), "dm2::config: no field may be over 1000000",                                 \
       "image patch channels stem_width dim mlp_dim classes expand headdim d_state d_conv groups attn_heads "          \
       "attn_head_dim attn_d_conv")                                                                                    \
  RULE((dm2::detail::is_index({c.channels, c.image.height, c.image.width})),                                           \
       "dm2::config: a picture, channels * image.height * image.width, must have under 2^31 numbers",                  \
       "image channels")                                                                                               \
  RULE((dm2::detail::is_index({c.image.height / 2, c.image.width / 2, c.stem_width})),                                 \
       "dm2::config: the stem's planes, stem_width * image.height / 2 * image.width / 2, must have under 2^31 "        \
       "numbers", "image stem_width")                                                                                  \
  RULE((dm2::detail::stem_weights_fit(c)),                                                                             \
       "dm2::config: each of the stem's weights, such as dim * stem_width * patch / 2 * patch / 2, must have under "   \
       "2^31 numbers", "dim stem_width channels patch")                                                                \
  RULE((dm2::detail::mixer_weights_fit(c)),                                                                            \
       "dm2::config: each of the mixer's weights, such as (2 * expand * dim + 2 * groups * d_state + heads) * dim, "   \
       "must have under 2^31 numbers", "dim expand headdim d_state groups d_conv")                                     \
  RULE((dm2::detail::attention_weights_fit(c)),                                                                        \
       "dm2::config: each of the attention's weights, such as 3 * attn_heads * attn_head_dim * dim, must have under "  \
       "2^31 numbers", "attn_heads attn_head_dim dim attn_d_conv")                                                     \
  RULE((dm2::detail::is_index({2, c.mlp_dim, c.dim}) && dm2::detail::is_index({c.classes, c.dim})),                    \
       "dm2::config: the weights of the MLP, 2 * mlp_dim * dim, and of a head, classes * dim, must have under 2^31 "   \
       "numbers each", "mlp_dim classes dim")                                                                          \
  RULE((dm2::detail::activations_fit(c)),                                                                              \
       "dm2::config: the tokens of a picture, image.height / patch * image.width / patch + 1, times a layer's "        \
       "channels must be under 2^31",                                                                                  \
       "image patch dim expand headdim d_state groups attn_heads attn_head_dim mlp_dim classes")
// clang-format on
// NOLINTEND(bugprone-macro-parentheses)
