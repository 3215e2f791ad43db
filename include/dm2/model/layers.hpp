/// @file
/// The parameter tables of the network's layers: names, shapes and order of the published state dict.
///
/// A layer's `id` numbers its table's rows: `get<mixer_layer<C>::in_proj>(view)` is that weight with its shape as its
/// type.
#pragma once

#include <dm2/core/parameters.hpp>
#include <dm2/model/config.hpp>

#include <array>

namespace dm2 {

/// Class token and position embedding.
template <config C>
struct token_layer {
  /// Rows of the table.
  enum id { cls_token, pos_embed };
  /// Names, shapes and kinds, in the state dict's order.
  static constexpr std::array param_table{parameter_info{"cls_token", {1, 1, C.dim}},
                                          parameter_info{"pos_embed", {1, sizes<C>::length, C.dim}}};
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
  /// Channels of the convolutions.
  static constexpr int S = C.stem_width;
  /// Names, shapes and kinds, in the state dict's order.
  static constexpr std::array param_table{
      parameter_info{"patch_embed.conv1.weight", {S, C.channels, 7, 7}},
      parameter_info{"patch_embed.bn1.weight", {S}},
      parameter_info{"patch_embed.bn1.bias", {S}},
      parameter_info{"patch_embed.bn1.running_mean", {S}, entry_kind::statistic},
      parameter_info{"patch_embed.bn1.running_var", {S}, entry_kind::statistic},
      parameter_info{"patch_embed.bn1.num_batches_tracked", {}, entry_kind::counter},
      parameter_info{"patch_embed.conv2.weight", {S, S, 3, 3}},
      parameter_info{"patch_embed.bn2.weight", {S}},
      parameter_info{"patch_embed.bn2.bias", {S}},
      parameter_info{"patch_embed.bn2.running_mean", {S}, entry_kind::statistic},
      parameter_info{"patch_embed.bn2.running_var", {S}, entry_kind::statistic},
      parameter_info{"patch_embed.bn2.num_batches_tracked", {}, entry_kind::counter},
      parameter_info{"patch_embed.conv3.weight", {S, S, 3, 3}},
      parameter_info{"patch_embed.bn3.weight", {S}},
      parameter_info{"patch_embed.bn3.bias", {S}},
      parameter_info{"patch_embed.bn3.running_mean", {S}, entry_kind::statistic},
      parameter_info{"patch_embed.bn3.running_var", {S}, entry_kind::statistic},
      parameter_info{"patch_embed.bn3.num_batches_tracked", {}, entry_kind::counter},
      parameter_info{"patch_embed.proj.weight", {C.dim, S, C.patch / 2, C.patch / 2}},
      parameter_info{"patch_embed.proj.bias", {C.dim}}};
};

/// The classifiers of the class token and of the patches.
template <config C>
struct head_layer {
  /// Rows of the table.
  enum id { weight, bias, aux_weight, aux_bias };
  /// Names, shapes and kinds, in the state dict's order.
  static constexpr std::array param_table{
      parameter_info{"head.weight", {C.classes, C.dim}}, parameter_info{"head.bias", {C.classes}},
      parameter_info{"aux_head.weight", {C.classes, C.dim}}, parameter_info{"aux_head.bias", {C.classes}}};
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
  /// Where the extents below come from.
  using size = sizes<C>;
  /// Names, shapes and kinds, in the state dict's order.
  static constexpr std::array param_table{
      parameter_info{"norm.weight", {C.dim}},
      parameter_info{"mixer.dt_bias", {size::heads}},
      parameter_info{"mixer.dt_bias_b", {size::heads}},
      parameter_info{"mixer.A_log", {size::heads}},
      parameter_info{"mixer.A_log_b", {size::heads}},
      parameter_info{"mixer.D", {size::heads}},
      parameter_info{"mixer.D_b",
                     {size::heads},
                     C.variant == mixer_variant::published ? entry_kind::unused : entry_kind::parameter},
      parameter_info{"mixer.in_proj.weight", {size::projected, C.dim}},
      parameter_info{"mixer.conv1d.weight", {size::conv_dim, 1, C.d_conv}},
      parameter_info{"mixer.conv1d.bias", {size::conv_dim}},
      parameter_info{"mixer.conv1d_b.weight", {size::conv_dim, 1, C.d_conv}},
      parameter_info{"mixer.conv1d_b.bias", {size::conv_dim}},
      parameter_info{"mixer.norm.weight", {size::d_inner}},
      parameter_info{"mixer.norm_b.weight", {size::d_inner}},
      parameter_info{"mixer.out_proj.weight", {C.dim, size::d_inner}},
      parameter_info{"mixer.out_proj_b.weight", {C.dim, size::d_inner}}};
};

namespace detail {
template <config C>
constexpr auto attention_table() {
  constexpr int width = sizes<C>::attn_width;
  std::array<parameter_info, C.attn_d_conv == 0 ? 5 : 7> t;
  t[0] = {"norm.weight", {C.dim}};
  t[1] = {"mixer.in_proj.weight", {3 * width, C.dim}};
  t[2] = {"mixer.in_proj.bias", {3 * width}};
  if constexpr (C.attn_d_conv != 0) {
    t[3] = {"mixer.conv1d.weight", {3 * width, 1, C.attn_d_conv}};
    t[4] = {"mixer.conv1d.bias", {3 * width}};
  }
  t[t.size() - 2] = {"mixer.out_proj.weight", {C.dim, width}};
  t[t.size() - 1] = {"mixer.out_proj.bias", {C.dim}};
  return t;
}
}  // namespace detail

/// Norm and attention mixer. Without a convolution (attn_d_conv = 0) its two rows are not in the table.
template <config C>
struct attention_layer {
  /// Names, shapes and kinds, in the state dict's order.
  static constexpr auto param_table = detail::attention_table<C>();
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
  static constexpr std::array param_table{parameter_info{"norm2.weight", {C.dim}},
                                          parameter_info{"mlp.fc1.weight", {2 * C.mlp_dim, C.dim}},
                                          parameter_info{"mlp.fc2.weight", {C.dim, C.mlp_dim}}};
};

/// The norm after the last layer.
template <config C>
struct final_layer {
  /// Rows of the table.
  enum id { norm };
  /// Names, shapes and kinds, in the state dict's order.
  static constexpr std::array param_table{parameter_info{"norm_f.weight", {C.dim}}};
};

}  // namespace dm2
