/// @file
/// The parameter tables of the network's layers: names, shapes and order of the published state dict.
///
/// A layer's `id` numbers its table's rows: `get<mixer_layer<C>::in_proj>(view)` is that weight with its shape as its
/// type.
#pragma once

#include <dm2/core/parameters.hpp>
#include <dm2/model/config.hpp>

#include <array>
#include <cstddef>

namespace dm2 {

namespace detail {
// The rows of each kind of layer for a configuration that keeps its rules, names, shapes and kinds in the state dict's
// order: at compile time for the tables below, at run time for model_table.

constexpr std::array<parameter_info, 2> token_rows(config const& c, stem_shape const& stem) {
  return {{{"cls_token", {1, 1, c.dim}}, {"pos_embed", {1, stem.tokens() + 1, c.dim}}}};
}

constexpr std::array<parameter_info, 20> stem_rows(config const& c) {
  int const width = c.stem_width;
  using enum entry_kind;
  return {{{"patch_embed.conv1.weight", {width, c.channels, 7, 7}},
           {"patch_embed.bn1.weight", {width}},
           {"patch_embed.bn1.bias", {width}},
           {"patch_embed.bn1.running_mean", {width}, statistic},
           {"patch_embed.bn1.running_var", {width}, statistic},
           {"patch_embed.bn1.num_batches_tracked", {}, counter},
           {"patch_embed.conv2.weight", {width, width, 3, 3}},
           {"patch_embed.bn2.weight", {width}},
           {"patch_embed.bn2.bias", {width}},
           {"patch_embed.bn2.running_mean", {width}, statistic},
           {"patch_embed.bn2.running_var", {width}, statistic},
           {"patch_embed.bn2.num_batches_tracked", {}, counter},
           {"patch_embed.conv3.weight", {width, width, 3, 3}},
           {"patch_embed.bn3.weight", {width}},
           {"patch_embed.bn3.bias", {width}},
           {"patch_embed.bn3.running_mean", {width}, statistic},
           {"patch_embed.bn3.running_var", {width}, statistic},
           {"patch_embed.bn3.num_batches_tracked", {}, counter},
           {"patch_embed.proj.weight", {c.dim, width, c.patch / 2, c.patch / 2}},
           {"patch_embed.proj.bias", {c.dim}}}};
}

constexpr std::array<parameter_info, 4> head_rows(config const& c) {
  return {{{"head.weight", {c.classes, c.dim}},
           {"head.bias", {c.classes}},
           {"aux_head.weight", {c.classes, c.dim}},
           {"aux_head.bias", {c.classes}}}};
}

constexpr std::array<parameter_info, 16> mixer_rows(config const& c, mixer_shape const& m) {
  auto const second_skip = m.variant == mixer_variant::published ? entry_kind::unused : entry_kind::parameter;
  return {{{"norm.weight", {c.dim}},
           {"mixer.dt_bias", {m.heads}},
           {"mixer.dt_bias_b", {m.heads}},
           {"mixer.A_log", {m.heads}},
           {"mixer.A_log_b", {m.heads}},
           {"mixer.D", {m.heads}},
           {"mixer.D_b", {m.heads}, second_skip},
           {"mixer.in_proj.weight", {m.projected(), c.dim}},
           {"mixer.conv1d.weight", {m.conv_dim(), 1, m.d_conv}},
           {"mixer.conv1d.bias", {m.conv_dim()}},
           {"mixer.conv1d_b.weight", {m.conv_dim(), 1, m.d_conv}},
           {"mixer.conv1d_b.bias", {m.conv_dim()}},
           {"mixer.norm.weight", {m.d_inner()}},
           {"mixer.norm_b.weight", {m.d_inner()}},
           {"mixer.out_proj.weight", {c.dim, m.d_inner()}},
           {"mixer.out_proj_b.weight", {c.dim, m.d_inner()}}}};
}

/// Seven rows, or five where there is no convolution (attn_d_conv = 0).
template <std::size_t Rows>
constexpr std::array<parameter_info, Rows> attention_rows(config const& c, attention_shape const& a) {
  static_assert(Rows == 5 || Rows == 7, "dm2::detail::attention_rows: five rows, or seven with a convolution");
  int const width = a.width();
  std::array<parameter_info, Rows> t;
  t[0] = {"norm.weight", {c.dim}};
  t[1] = {"mixer.in_proj.weight", {3 * width, c.dim}};
  t[2] = {"mixer.in_proj.bias", {3 * width}};
  if constexpr (Rows == 7) {
    t[3] = {"mixer.conv1d.weight", {3 * width, 1, a.d_conv}};
    t[4] = {"mixer.conv1d.bias", {3 * width}};
  }
  t[Rows - 2] = {"mixer.out_proj.weight", {c.dim, width}};
  t[Rows - 1] = {"mixer.out_proj.bias", {c.dim}};
  return t;
}

constexpr std::array<parameter_info, 3> mlp_rows(config const& c) {
  return {
      {{"norm2.weight", {c.dim}}, {"mlp.fc1.weight", {2 * c.mlp_dim, c.dim}}, {"mlp.fc2.weight", {c.dim, c.mlp_dim}}}};
}

constexpr std::array<parameter_info, 1> final_rows(config const& c) { return {{{"norm_f.weight", {c.dim}}}}; }
}  // namespace detail

/// Class token and position embedding.
template <config C>
struct token_layer {
  /// Rows of the table.
  enum id { cls_token, pos_embed };
  /// Names, shapes and kinds, in the state dict's order.
  static constexpr auto param_table = detail::token_rows(C, sizes<C>::stem);
};

/// Convolutional stem: three convolutions, each with BatchNorm, and the patch projection.
template <config C>
struct stem_layer {
  // clang-format off
  /// Rows of the table.
  enum id {
    conv1, bn1_weight, bn1_bias, bn1_mean, bn1_var, bn1_count,
    conv2, bn2_weight, bn2_bias, bn2_mean, bn2_var, bn2_count,
    conv3, bn3_weight, bn3_bias, bn3_mean, bn3_var, bn3_count,
    proj, proj_bias
  };
  // clang-format on
  /// Names, shapes and kinds, in the state dict's order.
  static constexpr auto param_table = detail::stem_rows(C);
};

/// The classifiers of the class token and of the patches.
template <config C>
struct head_layer {
  /// Rows of the table.
  enum id { weight, bias, aux_weight, aux_bias };
  /// Names, shapes and kinds, in the state dict's order.
  static constexpr auto param_table = detail::head_rows(C);
};

/// Norm and bidirectional Mamba-2 mixer; `_b` is the second direction.
template <config C>
struct mixer_layer {
  // clang-format off
  /// Rows of the table.
  enum id {
    pre_norm,
    dt_bias, dt_bias_b, A_log, A_log_b, D, D_b,
    in_proj,
    conv, conv_bias, conv_b, conv_bias_b,
    norm, norm_b, out_proj, out_proj_b
  };
  // clang-format on
  /// Names, shapes and kinds, in the state dict's order.
  static constexpr auto param_table = detail::mixer_rows(C, sizes<C>::mixer);
};

/// Norm and attention mixer. Without a convolution (attn_d_conv = 0) its two rows are not in the table.
template <config C>
struct attention_layer {
  /// Names, shapes and kinds, in the state dict's order.
  static constexpr auto param_table = detail::attention_rows<(C.attn_d_conv == 0 ? 5 : 7)>(C, sizes<C>::attention);
  // clang-format off
  /// Rows of the table.
  enum id {
    pre_norm, in_proj, in_proj_bias,
    conv, conv_bias,
    out_proj = C.attn_d_conv == 0 ? 3 : 5, out_proj_bias
  };
  // clang-format on
};

/// Norm and gated MLP.
template <config C>
struct mlp_layer {
  /// Rows of the table.
  enum id { pre_norm, fc1, fc2 };
  /// Names, shapes and kinds, in the state dict's order.
  static constexpr auto param_table = detail::mlp_rows(C);
};

/// The norm after the last layer.
template <config C>
struct final_layer {
  /// Rows of the table.
  enum id { norm };
  /// Names, shapes and kinds, in the state dict's order.
  static constexpr auto param_table = detail::final_rows(C);
};

}  // namespace dm2
