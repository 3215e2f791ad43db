/// @file
/// Starting from another model's weights: other classes, another picture size.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/parameters.hpp>
#include <dm2/data/resample_weights.hpp>
#include <dm2/data/transform.hpp>
#include <dm2/io/checkpoint.hpp>
#include <dm2/io/config_json.hpp>
#include <dm2/io/finite.hpp>
#include <dm2/io/model_match.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/io/told_config.hpp>
#include <dm2/model/config.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dm2 {

/// How load_pretrained treated each entry of the model, by name.
struct pretrained_report {
  std::size_t loaded = 0;                  ///< entries taken as they are
  std::vector<std::string> reinitialised;  ///< entries of heads for other classes, which keep the model's own values
  std::vector<std::string> resized;        ///< the position embedding, where the patch grids differ
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

namespace detail {

/// The patch grid of a position embedding of `patches`: by the file's picture and patch size, or the square.
/// Nothing where neither fits.
[[nodiscard]] inline std::optional<image_extent> stored_grid(nlohmann::json const& told, std::int64_t patches) {
  try {
    config const c = config_from_json(told);
    if (told.contains("image") && told.contains("patch") && c.patch > 0) {
      image_extent const grid{c.image.height / c.patch, c.image.width / c.patch};
      if (grid.height > 0 && grid.width > 0 && std::int64_t{grid.height} * grid.width == patches) return grid;
    }
  } catch (std::invalid_argument const&) {  // a field that does not matter here
  }
  auto const side = std::int64_t(std::llround(std::sqrt(double(patches))));
  if (side < 1 || side > 46340 || side * side != patches) return std::nullopt;
  return image_extent{int(side), int(side)};
}

/// The treatment of one entry.
enum class pretrained_use : unsigned char { load, keep, resize };

/// Finds a use for each entry of the table, and adds a line to `wrong` for each that has none.
template <config C>
std::vector<pretrained_use> pretrained_uses(model_match const& match, nlohmann::json told,
                                            std::span<parameter_entry const> table, std::optional<image_extent>& grid,
                                            std::vector<std::string>& wrong) {
  std::vector<pretrained_use> uses;
  for (parameter_entry const& e : table) {
    stored_tensor const* const t = match.entries[uses.size()];
    uses.push_back(pretrained_use::load);
    std::vector<std::int64_t> const shape(e.shape.begin(), e.shape.begin() + e.rank);
    bool const head = e.name.starts_with("head.") || e.name.starts_with("aux_head.");
    bool const other_classes = head && t != nullptr && t->shape != shape && t->shape.size() == shape.size() &&
                               std::equal(shape.begin() + 1, shape.end(), t->shape.begin() + 1);
    if (other_classes || (head && t == nullptr)) {
      uses.back() = pretrained_use::keep;
    } else if (t == nullptr) {
      wrong.push_back("missing: " + std::string{e.name} + " " + shape_text(shape));
    } else if (t->shape == shape) {
      if (e.kind == entry_kind::counter && is_floating(t->type))
        wrong.push_back("type: " + t->name + " is " + std::string{name_of(t->type)} + ", an integer is expected");
    } else {
      if (e.name == "pos_embed" && t->shape.size() == 3 && t->shape[0] == 1 && t->shape[2] == shape[2])
        grid = stored_grid(told, t->shape[1] - 1);
      if (e.name == "pos_embed" && grid)
        uses.back() = pretrained_use::resize;
      else
        wrong.push_back("shape: " + t->name + " is " + shape_text(t->shape) + " in the file, " + shape_text(shape) +
                        " in the program");
    }
  }
  for (char const* free : {"image", "classes"}) told.erase(free);
  for (std::string const& line : config_differences(C, told)) wrong.push_back("configuration: " + line);
  return uses;
}

}  // namespace detail

/// Fills a model from the weights of one that may have other classes or another picture size, to train it further. Call
/// initialise first: heads whose number of classes differs keep the values that they have. The position embedding is
/// resized where the patch grids differ (resize_position_embedding), the file's grid being what its configuration says,
/// else a square. Every other entry of the model has to be in the file, in the same shape, and the configurations must
/// not differ in anything else; surplus tensors are left out. A prefix of the names is ignored, as by load.
///
/// Throws file_error that says how many differences there are and lists the first, or names the first tensor with a
/// number that is not finite; the model is unchanged then.
template <checkpoint_model M>
pretrained_report load_pretrained(M& net, tensor_file const& file) {
  constexpr config C = M::configuration;
  std::span<parameter_entry const> const table{net.table()};
  pretrained_report report;
  detail::model_match const match = detail::model_matcher{table, file.tensors()}();
  std::vector<std::string> wrong;
  for (std::string const& line : match.twice) wrong.push_back("twice: " + line);
  std::optional<image_extent> grid;
  auto const uses = detail::pretrained_uses<C>(match, detail::told_config(file, report.notices), table, grid, wrong);
  if (!wrong.empty()) throw file_error{file.path(), detail::misfit_text(table, file, match, wrong)};
  for (stored_tensor const* const t : match.entries)
    if (t != nullptr) require_checksum(*t, file.path());
  for (stored_tensor const* const t : match.entries)
    if (std::string const text = t == nullptr ? "" : not_finite_text(*t); !text.empty())
      throw file_error{file.path(), "cannot be trained further: " + text};
  for (stored_tensor const* const t : match.surplus) report.left_out.push_back(t->name);
  auto const state = net.state();
  using scalar = std::remove_cvref_t<decltype(state[0])>;
  for (std::size_t i = 0; i < table.size(); ++i) {
    parameter_entry const& e = table[i];
    if (uses[i] == detail::pretrained_use::keep) {
      report.reinitialised.emplace_back(e.name);
      continue;
    }
    stored_tensor const& t = *match.entries[i];
    if (uses[i] == detail::pretrained_use::resize) {
      std::vector<scalar> const from = to_vector<scalar>(t);
      resize_position_embedding(std::span<scalar const>{from}, *grid,
                                std::span<scalar>{state.subspan(e.offset, e.size)},
                                {C.image.height / C.patch, C.image.width / C.patch}, std::size_t(C.dim));
      report.resized.emplace_back(e.name);
      continue;
    }
    if (e.kind == entry_kind::counter)
      copy_to(t, std::span<std::int64_t>{net.counters()}.subspan(e.offset, 1));
    else
      copy_to(t, state.subspan(e.offset, e.size));
    ++report.loaded;
  }
  return report;
}

}  // namespace dm2
