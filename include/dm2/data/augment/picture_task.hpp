/// @file
/// What is left to do to a decoded picture.
///
/// Plain numbers, which a device can execute.
///
/// The host draws a sample, decodes the pixels that it follows from, and describes the rest: the flip, the operations,
/// the crop's resize, the erased rectangle. Whoever executes that, on the host or on a GPU, comes to the same bytes.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/host_device.hpp>
#include <dm2/core/random.hpp>
#include <dm2/data/augment/drawn_sample.hpp>
#include <dm2/data/augment/geometry.hpp>
#include <dm2/data/augment/operation.hpp>
#include <dm2/data/augment/warp.hpp>
#include <dm2/data/evaluation_crop.hpp>
#include <dm2/data/normalise.hpp>
#include <dm2/data/picture.hpp>
#include <dm2/data/resample_weights.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <type_traits>

namespace dm2 {

/// One operation on a picture. Operations that change nothing are no steps.
struct picture_step {
  augment_operation operation{};                   ///< to apply
  resize_filter filter = resize_filter::bilinear;  ///< of a geometric one
  std::uint8_t fill[3] = {};                       ///< of a geometric one
  int level = 0;     ///< bits of posterize, threshold of solarize, levels that solarize_add adds
  float factor = 1;  ///< of color, contrast, brightness and sharpness
  affine_map map{};  ///< of a geometric one
  pixel_box out{};   ///< the pixels that later steps read, of the flipped picture
};

/// One axis of a resize of which a window's pixels are kept.
struct resize_axis {
  int in = 1;              ///< source pixels, all of which the filter may see
  std::int64_t out = 1;    ///< pixels that they become
  std::int64_t first = 0;  ///< of them, the first that is kept
  int count = 1;           ///< and how many are
  int before = 0;          ///< black pixels in front of these in the result
  int read = 0;            ///< the first source pixel that the kept ones are made of
  int reads = 1;           ///< and how many there are
  int taps = 1;            ///< source pixels of one output, at most
};

/// A picture that is decoded and not finished. All boxes but `part` are of the flipped picture.
struct picture_task {
  std::size_t offset = 0;  ///< of its pixels' first byte, where the batch's are
  bool encoded = false;    ///< there are a JPEG's header and data instead, which a device decodes first
  bool on_device = false;  ///< the pixels are in the memory of the device that decoded them
  int height = 0;          ///< of the whole picture
  int width = 0;           ///< of the whole picture
  pixel_box part{};        ///< the pixels that are there, in the picture as it is stored: [height, width, 3] bytes
  bool flip = false;       ///< mirrored left to right, first
  bool finished = false;   ///< nothing but normalising and erasing is left
  int steps = 0;           ///< operations, then, in their order
  pixel_box box{};         ///< then cut
  resize_filter filter = resize_filter::bilinear;  ///< then resized with this
  resize_axis down{};                              ///< rows
  resize_axis across{};                            ///< columns
  float mean[3] = {};                              ///< then normalised with these, where the result is of floats
  float deviation[3] = {};                         ///< of each channel, on the scale of 0 to 1, as the mean
  pixel_box erased{};      ///< of the result, filled with noise where the result is of floats; height 0: none
  normal_numbers noise{};  ///< that fills it, plane by plane
};
static_assert(std::is_trivially_copyable_v<picture_step> && std::is_trivially_copyable_v<picture_task>);

namespace detail {

/// The axis of a resize from `in` pixels to `out`, of which `count` from `first` on are kept.
[[nodiscard]] inline resize_axis make_resize_axis(int in, std::int64_t out, std::int64_t first, int count, int before,
                                                  resize_filter filter) {
  double const scale = axis_scale(in, out);
  resize_axis a{in, out, first, count, before, 0, 1, 1};
  a.read = weight_window{in, scale, first, filter}.begin;
  a.reads = weight_window{in, scale, first + count - 1, filter}.end - a.read;
  double const support = (filter == resize_filter::bilinear ? 1 : 2) * std::max(scale, 1.0);
  a.taps = std::min(in, 2 * static_cast<int>(std::ceil(support)) + 1);
  return a;
}

/// The rows or columns of 0..size - 1 from `low` - 2 to `high` + 3, whatever these are; one of them at least.
inline void take_range(double low, double high, int size, int& first, int& count) {
  first = 0, count = size;
  if (!(low <= high)) return;  // not numbers: all of them
  double const last = size - 1;
  first = static_cast<int>(std::clamp(std::floor(low) - 2, 0.0, last));
  count = static_cast<int>(std::clamp(std::floor(high) + 3, double(first), last)) - first + 1;
}

/// The pixels of a picture of height x width that a step reads to make those of its result in `out`.
[[nodiscard]] inline pixel_box read_by(picture_step const& step, pixel_box out, int height, int width) {
  using enum augment_operation;
  pixel_box in = out;
  if (step.operation == auto_contrast || step.operation == equalize || step.operation == contrast)
    return {0, 0, height, width};
  if (step.operation == sharpness) {
    in.top = std::max(0, out.top - 1), in.left = std::max(0, out.left - 1);
    in.height = std::min(height, out.top + out.height + 1) - in.top;
    in.width = std::min(width, out.left + out.width + 1) - in.left;
  }
  if (!is_geometric(step.operation)) return in;
  affine_map const& m = step.map;
  constexpr double none = std::numeric_limits<double>::infinity();
  double low_x = none, high_x = -none, low_y = none, high_y = -none;
  for (int corner = 0; corner < 4; ++corner) {  // an affine map has its extremes there
    double const x = out.left + (corner % 2 == 0 ? 0.5 : out.width - 0.5);
    double const y = out.top + (corner / 2 == 0 ? 0.5 : out.height - 0.5);
    double const from_x = m.xx * x + m.xy * y + m.x0, from_y = m.yx * x + m.yy * y + m.y0;
    if (!std::isfinite(from_x) || !std::isfinite(from_y)) return {0, 0, height, width};
    low_x = std::min(low_x, from_x), high_x = std::max(high_x, from_x);
    low_y = std::min(low_y, from_y), high_y = std::max(high_y, from_y);
  }
  take_range(low_y, high_y, height, in.top, in.height);
  take_range(low_x, high_x, width, in.left, in.width);
  return in;
}

inline void set_norm(picture_task& t, normalisation const& n) {
  std::copy(n.mean.begin(), n.mean.end(), t.mean);
  std::copy(n.std.begin(), n.std.end(), t.deviation);
}

/// Whether an operation leaves every picture of height x width as it is; else its step, without `out`.
[[nodiscard]] inline bool make_step(drawn_operation const& o, colour const& fill, int height, int width,
                                    picture_step& step) {
  using enum augment_operation;
  step = {};
  step.operation = o.operation;
  step.filter = o.filter;
  std::copy(fill.begin(), fill.end(), step.fill);
  step.level = static_cast<int>(std::min(1e6, std::max(-1e6, o.argument)));  // as apply()
  step.factor = static_cast<float>(o.argument);
  bool const blends =
      o.operation == color || o.operation == contrast || o.operation == brightness || o.operation == sharpness;
  if (blends && step.factor == 1) return false;
  if (o.operation == sharpness && (height < 3 || width < 3)) return false;
  if (!is_geometric(o.operation)) return true;
  auto const map = geometric_map(o.operation, o.argument, height, width);
  if (map) step.map = *map;
  return map.has_value();
}

}  // namespace detail

/// What a drawn sample does to a picture of height x width that becomes out_height x out_width; its pixels are nowhere
/// yet. `steps` has room for the sample's operations, and gets task.steps of them.
[[nodiscard]] inline picture_task plan_sample(drawn_sample const& d, augmentation const& a, int height, int width,
                                              int out_height, int out_width, std::span<picture_step> steps) {
  picture_task t;
  t.height = height, t.width = width;
  t.flip = d.flip;
  for (drawn_operation const& o : d.operations)
    if (detail::make_step(o, a.fill, height, width, steps[std::size_t(t.steps)])) ++t.steps;
  t.box = d.crop;
  t.filter = d.filter;
  t.down = detail::make_resize_axis(t.box.height, out_height, 0, out_height, 0, d.filter);
  t.across = detail::make_resize_axis(t.box.width, out_width, 0, out_width, 0, d.filter);
  detail::set_norm(t, a.norm);
  if (d.erased) t.erased = *d.erased;
  t.noise = d.noise.normals();
  pixel_box needed = d.crop;
  for (int k = t.steps; k-- > 0;) {
    picture_step& step = steps[std::size_t(k)];
    step.out = needed;
    needed = detail::read_by(step, needed, height, width);
  }
  t.part = needed;
  if (d.flip) t.part.left = width - needed.left - needed.width;
  return t;
}

/// What evaluation_transform does to a picture of height x width; its pixels are nowhere yet. Throws shape_error as
/// that does.
[[nodiscard]] inline picture_task plan_evaluation(int height, int width, image_extent crop, image_extent resize,
                                                  normalisation const& norm = imagenet_normalisation) {
  detail::evaluation_crop const plan{height, width, crop, resize};
  picture_task t;
  t.height = height, t.width = width;
  t.box = {0, 0, height, width};
  auto const axis = [&](int in, std::int64_t out, detail::centred const& kept) {
    return detail::make_resize_axis(in, out, kept.first, kept.count, kept.before, t.filter);
  };
  t.down = axis(height, plan.height, plan.down);
  t.across = axis(width, plan.width, plan.across);
  detail::set_norm(t, norm);
  t.part = {t.down.read, t.across.read, t.down.reads, t.across.reads};
  return t;
}

/// A task whose picture was finished on the host, out_height x out_width, but for normalising and erasing.
[[nodiscard]] inline picture_task finished_task(picture_task const& of, int out_height, int out_width) {
  picture_task t;
  t.finished = true;
  t.height = out_height, t.width = out_width;
  t.part = t.box = {0, 0, out_height, out_width};
  t.down = detail::make_resize_axis(out_height, out_height, 0, out_height, 0, t.filter);
  t.across = detail::make_resize_axis(out_width, out_width, 0, out_width, 0, t.filter);
  std::copy_n(of.mean, 3, t.mean);
  std::copy_n(of.deviation, 3, t.deviation);
  t.erased = of.erased;
  t.noise = of.noise;
  return t;
}

}  // namespace dm2
