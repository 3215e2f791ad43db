/// @file
/// Starting from another model's weights: other classes, another picture size, other layers.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/parameters.hpp>
#include <dm2/data/resample_weights.hpp>
#include <dm2/data/transform.hpp>
#include <dm2/io/checkpoint.hpp>
#include <dm2/io/finite.hpp>
#include <dm2/io/model_match.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/io/told_config.hpp>
#include <dm2/model/config.hpp>
#include <dm2/train/pretrained_plan.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace dm2 {

/// How load_pretrained treated each entry of the model, by name.
struct pretrained_report {
  std::size_t loaded = 0;                  ///< entries taken as they are
  std::vector<std::string> reinitialised;  ///< entries that begin anew, with the model's own values
  std::vector<std::string> resized;        ///< the position embedding, where the patch grids differ
  std::vector<std::string> lines;          ///< one for each part that begins anew or is resized, and why
  std::vector<std::string> left_out;       ///< tensors of the file that are no entry of the model
  std::vector<std::string> notices;        ///< parts of the file that were not understood, a line each
};

namespace detail {

/// Resizes the middle extent of [outer, in, inner] to [outer, out, inner], bicubic and antialiased, as Pillow weighs.
[[nodiscard]] inline std::vector<double> resize_axis(std::vector<double> const& from, std::size_t outer, int in,
                                                     std::size_t inner, int out) {
  std::vector<double> to(outer * std::size_t(out) * inner), weights;
  for (int i = 0; i < out; ++i) {
    int const first = output_weights(in, double(in) / out, i, resize_filter::bicubic, weights);
    for (std::size_t o = 0; o < outer; ++o) {
      double* const sum = to.data() + (o * std::size_t(out) + std::size_t(i)) * inner;
      for (std::size_t k = 0; k < weights.size(); ++k) {
        double const* const row = from.data() + (o * std::size_t(in) + std::size_t(first) + k) * inner;
        for (std::size_t c = 0; c < inner; ++c) sum[c] += weights[k] * row[c];
      }
    }
  }
  return to;
}

}  // namespace detail

/// A position embedding for another patch grid: the patches' vectors resized like a picture, bicubic and antialiased,
/// and the class token's kept, in the middle of both.
///
/// Shapes   from [1 + rows * columns of `old`, dim], to [1 + rows * columns of `now`, dim]; the class token is number
///          rows * columns / 2.
/// Writes   to (=).
/// Throws   shape_error if a size disagrees or a grid has no patch; nothing is written then.
template <class T>
void resize_position_embedding(std::span<T const> from, image_extent old, std::span<T> to, image_extent now,
                               std::size_t dim) {
  for (image_extent const& e : {old, now})
    if (e.height < 1 || e.width < 1) throw shape_error{"resize_position_embedding: a grid has no patch"};
  std::size_t const old_patches = std::size_t(old.height) * std::size_t(old.width),
                    now_patches = std::size_t(now.height) * std::size_t(now.width);
  require_extent("resize_position_embedding.from", from.size(), (1 + old_patches) * dim);
  require_extent("resize_position_embedding.to", to.size(), (1 + now_patches) * dim);
  auto const at = [](std::size_t i) { return std::ptrdiff_t(i); };
  std::size_t const old_class = old_patches / 2 * dim, now_class = now_patches / 2 * dim;

  std::vector<double> patches(from.begin(), from.end());
  patches.erase(patches.begin() + at(old_class), patches.begin() + at(old_class + dim));
  patches = detail::resize_axis(patches, std::size_t(old.height), old.width, dim, now.width);
  patches = detail::resize_axis(patches, 1, old.height, std::size_t(now.width) * dim, now.height);

  auto const narrowed = [](double v) { return T(v); };
  auto const middle = patches.begin() + at(now_class);
  std::transform(patches.begin(), middle, to.begin(), narrowed);
  std::copy_n(from.begin() + at(old_class), dim, to.begin() + at(now_class));
  std::transform(middle, patches.end(), to.begin() + at(now_class + dim), narrowed);
}

/// Fills a model from the weights of one that shares layers with it, to train it further. Call initialise first: what
/// is not shared keeps the values that it has.
///
/// A part, which is a layer's mixer or attention, its MLP, a convolution of the stem, a head or one of the rest, is
/// taken where the file has all its tensors in the model's shapes, and begins anew where the file has none of them, or
/// in another shape: heads for other classes, layers that the file's network has not, a projection of patches of
/// another size. Attention of other heads or another rotary width, and mixers of another variant, begin anew, too:
/// their numbers mean something else. The position embedding is resized where the patch grids differ
/// (resize_position_embedding), the file's grid being what its configuration says, else a square. Surplus tensors are
/// left out. A prefix of the names is ignored, as by load. The report says it all.
///
/// Throws file_error that says how many differences there are and lists the first, where no layer can be taken, or the
/// file has some of a part's tensors and lacks others; or that names the first tensor to be read with a number that is
/// not finite. The model is unchanged then.
///
/// Shapes   state as the table of configuration c says, counters one for each of its counters.
/// Writes   state, counters (=), but for what begins anew.
template <class T>
pretrained_report load_pretrained(config const& c, std::span<parameter_entry const> table, std::span<T> state,
                                  std::span<std::int64_t> counters, tensor_file const& file) {
  pretrained_report report;
  detail::model_match const match = detail::model_matcher{table, file.tensors()}();
  detail::pretrained_plan const plan =
      detail::pretrained_planner{c, table, match, detail::told_config(file, report.notices)}();
  if (!plan.wrong.empty()) throw file_error{file.path(), detail::misfit_text(table, file, match, plan.wrong)};
  report.lines = plan.lines;
  auto const is_read = [&](std::size_t i) { return plan.uses[i] != detail::pretrained_use::keep; };
  for (std::size_t i = 0; i < table.size(); ++i)
    if (is_read(i)) require_checksum(*match.entries[i], file.path());
  for (std::size_t i = 0; i < table.size(); ++i)
    if (std::string const text = is_read(i) ? not_finite_text(*match.entries[i]) : ""; !text.empty())
      throw file_error{file.path(), "cannot be trained further: " + text};
  for (stored_tensor const* const t : match.surplus) report.left_out.push_back(t->name);
  for (std::size_t i = 0; i < table.size(); ++i) {
    parameter_entry const& e = table[i];
    if (!is_read(i)) {
      report.reinitialised.emplace_back(e.name);
      continue;
    }
    stored_tensor const& t = *match.entries[i];
    if (plan.uses[i] == detail::pretrained_use::resize) {
      std::vector<T> const from = to_vector<T>(t);
      resize_position_embedding(std::span<T const>{from}, *plan.grid, state.subspan(e.offset, e.size),
                                {c.image.height / c.patch, c.image.width / c.patch}, std::size_t(c.dim));
      report.resized.emplace_back(e.name);
      continue;
    }
    if (e.kind == entry_kind::counter)
      copy_to(t, counters.subspan(e.offset, 1));
    else
      copy_to(t, state.subspan(e.offset, e.size));
    ++report.loaded;
  }
  return report;
}

/// The same of a model.
template <checkpoint_model M>
pretrained_report load_pretrained(M& net, tensor_file const& file) {
  auto const state = net.state();
  return load_pretrained(M::configuration, std::span<parameter_entry const>{net.table()}, std::span{state},
                         std::span<std::int64_t>{net.counters()}, file);
}

}  // namespace dm2
