/// @file
/// What would keep a rule of the configuration that the flags break.
#pragma once

#include <dm2/model/config.hpp>
#include <dm2/model/config_rules.hpp>

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace dm2::example::detail {

/// The divisors of `number` next to `wanted`, the one below and the one above, as far as there are any.
[[nodiscard]] inline std::vector<std::int64_t> divisors_around(std::int64_t number, std::int64_t wanted) {
  if (number > 1'000'000'000'000) return {};  // a million steps are enough for a hint
  std::int64_t below = 0, above = 0;
  for (std::int64_t d = 1; d * d <= number; ++d) {
    if (number % d != 0) continue;
    for (std::int64_t const one : {d, number / d}) {
      if (one < wanted) below = std::max(below, one);
      if (one > wanted && (above == 0 || one < above)) above = one;
    }
  }
  std::vector<std::int64_t> out;
  for (std::int64_t const one : {below, above})
    if (one != 0) out.push_back(one);
  return out;
}

/// "--headdim 32 or 64 would fit"; empty where there is no value.
template <class T>
[[nodiscard]] std::string would_fit(std::string const& flag, std::vector<T> const& values) {
  std::string out;
  for (T const& value : values) {
    out += out.empty() ? flag + " " : " or ";
    if constexpr (std::is_same_v<T, std::string>)
      out += value;
    else
      out += std::to_string(value);
  }
  return out.empty() ? out : out + " would fit";
}

[[nodiscard]] inline std::string image_hint(config const& c) {
  std::vector<std::string> sizes;
  for (int const up : {0, 1}) {
    auto const near = [&](int side) {
      return (std::int64_t{side} / c.patch + (side % c.patch == 0 ? 0 : up)) * c.patch;
    };
    std::int64_t const height = near(c.image.height), width = near(c.image.width);
    if (height > 0 && width > 0)
      sizes.push_back(std::to_string(height) + (height == width ? "" : "x" + std::to_string(width)));
  }
  return would_fit("--img-size", sizes);
}

/// The attention layers at the same parts of the depth as those of a network of `depth_before` layers.
[[nodiscard]] inline std::string layers_hint(config const& c, int depth_before) {
  std::string list;
  std::uint64_t seen = 0;
  for (int i = 0; i < 64; ++i) {
    if (!c.attn_layers.contains(i)) continue;
    int const at = std::min(i * c.depth / std::max(depth_before, i + 1), c.depth - 1);
    if (((seen >> at) & 1U) == 0) list += (list.empty() ? "" : ",") + std::to_string(at);
    seen |= std::uint64_t{1} << at;
  }
  return "--attn-layers " + list + " would fit, and so would --attn-layers none";
}

/// What would keep the rule, where that is easy to say; empty where it is not. `depth_before` is that of the model
/// which the flags were laid over.
[[nodiscard]] inline std::string rule_hint(config_rule const& rule, config const& c, int depth_before) {
  std::string_view const fields = rule.fields;
  std::int64_t const inner = std::int64_t{c.expand} * c.dim;
  if (fields == "image patch" && c.patch >= 2 && c.patch % 2 == 0) return image_hint(c);
  if (fields == "dim expand headdim") return would_fit("--headdim", divisors_around(inner, c.headdim));
  if (fields == "dim expand headdim groups") return would_fit("--groups", divisors_around(inner / c.headdim, c.groups));
  if (fields == "attn_layers depth") return layers_hint(c, depth_before);
  if (fields == "attn_rotary attn_head_dim")
    return would_fit("--attn-rotary", std::vector<int>{c.attn_head_dim / 4 * 2});
  if (fields == "patch" && c.patch >= 3) return would_fit("--patch", std::vector<int>{c.patch - 1, c.patch + 1});
  if (fields == "attn_rotary" && c.attn_rotary >= 1)
    return would_fit("--attn-rotary", std::vector<int>{std::min(c.attn_rotary, c.attn_head_dim) / 2 * 2});
  return {};
}

}  // namespace dm2::example::detail
