/// @file
/// An optimizer's rule and its numbers, as every backend takes them.
#pragma once

#include <dm2/core/compiler.hpp>

#include <cstddef>
#include <string>
#include <vector>

namespace dm2 {

/// The rule that moves the parameters.
enum class optimizer_kind : unsigned char {
  lion,  ///< by the sign of the averaged gradient; one buffer of the state's size
  adamw  ///< by the averaged gradient over the root of its averaged square; two buffers of the state's size
};

/// Which parameters are moved otherwise than the others, or not at all. Layers are parameter_entry::layer's: 0 the stem
/// and the embeddings, 1 to depth the trunk's, depth + 1 the heads.
struct tuning_options {
  int frozen = 0;          ///< so many layers from the stem on stay as they are: at most depth + 1, all but the heads
  double layer_decay = 1;  ///< layer i learns at layer_decay^(depth + 1 - i) of the rate
  double head_scale = 1;   ///< the heads learn at so many times their rate
  /// What weight decay leaves alone: "1d" (parameters of one dimension or none), roles ("norm", "bias", "embedding",
  /// "head", "scan", "weight"), and names or whole components of them ("pos_embed", "mixer.D", "layers.3").
  std::vector<std::string> no_decay{};
};

/// The defaults are the published recipe's.
struct optimizer_options {
  optimizer_kind kind = optimizer_kind::lion;  ///< the rule
  double weight_decay = 0.5;                   ///< of every parameter, biases and norms too, as published
  double beta1 = 0.9;    ///< Lion: the momentum's weight in the direction; AdamW: decay a step of the first moment
  double beta2 = 0.99;   ///< decay a step of Lion's momentum, or of AdamW's second moment
  double eps = 1e-8;     ///< AdamW only
  double clip_norm = 0;  ///< the gradient is scaled down to this norm; 0 leaves it alone
  /// In the published run `dt_bias` and `dt_bias_b` of a mixer are one memory, and so are `A_log` and `A_log_b`: each
  /// step moves it twice, first with the one's gradient and momentum, then with the other's.
  bool shared_pairs = false;
  tuning_options tuning{};  ///< for fine-tuning; by default every parameter is moved and decayed alike
};

namespace detail {

/// The rule of a group of parameters: the options' numbers, with the group's decay.
[[nodiscard]] inline optimizer_options with_decay(optimizer_options const& o, double decay) {
  return {.kind = o.kind, .weight_decay = decay, .beta1 = o.beta1, .beta2 = o.beta2, .eps = o.eps};
}

}  // namespace detail

/// Consecutive parameters, their gradients and moments, which an optimizer's step moves together.
template <class T>
struct optimizer_run {
  T* weights;         ///< [size]
  T const* gradient;  ///< [size]
  T* first;           ///< [size], Lion's momentum or AdamW's first moment
  T* second;          ///< [size], AdamW's second moment; unused by Lion
  std::size_t size;   ///< numbers
};

}  // namespace dm2
