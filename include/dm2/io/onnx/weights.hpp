/// @file
/// A model's tensors for an export: found by name, folded into each other.
#pragma once

#include <dm2/core/parameters.hpp>
#include <dm2/io/tensor.hpp>
#include <dm2/model/config.hpp>
#include <dm2/model/find_tensor.hpp>
#include <dm2/model/model_table.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace dm2::detail {

/// The tensors of a whole model, under their names in the published state dict.
class onnx_weights {
 public:
  /// `tensors` has one for each entry of the table, of its shape; both outlive this.
  onnx_weights(std::span<parameter_entry const> table, std::span<stored_tensor const* const> tensors) {
    for (std::size_t i = 0; i < table.size(); ++i) by_name_.emplace(table[i].name, tensors[i]);
  }

  /// The numbers of the tensor `name`, row-major. Throws std::out_of_range where the model has none of that name.
  [[nodiscard]] std::vector<double> operator()(std::string_view name) const {
    auto const found = by_name_.find(name);
    if (found == by_name_.end()) throw std::out_of_range{"no tensor is named \"" + std::string{name} + "\""};
    return to_vector<double>(*found->second);
  }

 private:
  std::unordered_map<std::string_view, stored_tensor const*> by_name_;
};

/// w [rows, C], its columns times s [C]: w (s x) = (w s) x.
inline std::vector<double> scale_columns(std::vector<double> w, std::span<double const> s) {
  for (std::size_t i = 0; i < w.size(); ++i) w[i] *= s[i % s.size()];
  return w;
}

/// w [R, ...], its rows times s [R].
inline std::vector<double> scale_rows(std::vector<double> w, std::span<double const> s) {
  std::size_t const each = w.size() / s.size();
  for (std::size_t i = 0; i < w.size(); ++i) w[i] *= s[i / each];
  return w;
}

/// The rows of w [R, each] in reverse, each as it is.
inline std::vector<double> reverse_rows(std::vector<double> const& w, std::size_t each) {
  std::vector<double> out;
  out.reserve(w.size());
  for (std::size_t r = w.size() / each; r-- > 0;)
    out.insert(out.end(), w.begin() + std::ptrdiff_t(r * each), w.begin() + std::ptrdiff_t((r + 1) * each));
  return out;
}

/// A convolution's weight and bias.
struct folded_convolution {
  std::vector<double> weight, bias;
};

/// A convolution without bias and the BatchNorm after it, with running statistics, as one convolution: `number` is the
/// stem's, 1 to 3.
inline folded_convolution fold_batch_norm(onnx_weights const& w, int number) {
  std::string const own = "patch_embed.conv" + std::to_string(number), norm = "patch_embed.bn" + std::to_string(number);
  std::vector<double> scale = w(norm + ".weight"), bias = w(norm + ".bias");
  std::vector<double> const mean = w(norm + ".running_mean"), variance = w(norm + ".running_var");
  for (std::size_t c = 0; c < scale.size(); ++c) {
    scale[c] /= std::sqrt(variance[c] + 1e-5);
    bias[c] -= mean[c] * scale[c];
  }
  return {scale_rows(w(own + ".weight"), scale), bias};
}

/// A mixer's output projections as one, [dim, 2 d_inner], that takes both directions' channels before the weights of
/// their norms: the mean of both. The published variant's second direction reads and writes its channels in reverse.
inline std::vector<double> merge_output_projections(onnx_weights const& w, std::string const& mixer, config const& c) {
  bool const reversed = c.variant == mixer_variant::published;
  std::size_t const dim = std::size_t(c.dim), inner = std::size_t(c.expand) * dim;
  auto const first = scale_columns(w(mixer + ".out_proj.weight"), w(mixer + ".norm.weight"));
  auto second = scale_columns(w(mixer + ".out_proj_b.weight"), w(mixer + ".norm_b.weight"));
  if (reversed) std::reverse(second.begin(), second.end());
  std::vector<double> out(2 * dim * inner);
  for (std::size_t r = 0; r < dim; ++r)
    for (std::size_t k = 0; k < inner; ++k) {
      out[r * 2 * inner + k] = first[r * inner + k] / 2;
      out[r * 2 * inner + inner + k] = second[r * inner + k] / 2;
    }
  return out;
}

}  // namespace dm2::detail
