// The C functions of an opened model.
#include <dm2/core/error.hpp>
#include <dm2/data/classify.hpp>
#include <dm2/data/encoded_picture.hpp>
#include <dm2/data/transform.hpp>
#include <dm2/io/class_names.hpp>
#include <dm2/run/network_file.hpp>

#include "dm2.h"
#include "guard.hpp"
#include "opened_model.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace {

using namespace dm2::c;

void require_rgb(dm2_model const& model) {
  if (model.configuration.channels != 3)
    throw failure{DM2_ARGUMENT, "pictures have 3 channels, the model takes " +
                                    std::to_string(model.configuration.channels) + ": dm2_forward serves it"};
}

/// What evaluation keeps of an encoded picture.
dm2::picture kept_of(dm2_model const& model, void const* bytes, std::size_t size) {
  require_pointer(bytes, "bytes");
  require_rgb(model);
  try {
    dm2::encoded_picture encoded{{static_cast<std::byte const*>(bytes), size}, "picture"};
    return dm2::evaluation_transform(encoded, model.configuration.image);
  } catch (dm2::file_error const& problem) {
    throw failure{DM2_PICTURE, problem.what()};
  }
}

/// What evaluation keeps of the caller's pixels.
dm2::picture kept_of(dm2_model const& model, std::uint8_t const* pixels, std::int32_t height, std::int32_t width,
                     std::size_t stride) {
  require_pointer(pixels, "pixels");
  require_rgb(model);
  constexpr std::int32_t most = std::numeric_limits<std::int32_t>::max();
  require_range<std::int32_t>("height", height, 1, most);
  require_range<std::int32_t>("width", width, 1, most);
  std::size_t const row = 3 * std::size_t(width);
  if (stride == 0) stride = row;
  if (stride < row)
    throw failure{DM2_SIZE, "stride is " + std::to_string(stride) + ", a row has " + std::to_string(row) + " bytes"};
  dm2::picture p{height, width};
  for (int y = 0; y < height; ++y) std::copy_n(pixels + std::size_t(y) * stride, row, p.row(y));
  return dm2::evaluation_transform(p, model.configuration.image);
}

void require_classes(dm2_model const& model, std::int32_t k, dm2_prediction const* best) {
  require_pointer(best, "best");
  require_range<std::int32_t>("k", k, 1, model.configuration.classes);
}

void classify(dm2_model& model, dm2::picture const& kept, std::int32_t k, dm2_prediction* best) {
  auto const found = dm2::top_k(model.logits(kept), k);
  std::transform(found.begin(), found.end(), best, [](dm2::prediction const& p) {
    return dm2_prediction{p.index, p.probability};
  });
}

/// The caller's buffer of one input.
void require_input(dm2_model const& model, float const* input, std::size_t count) {
  require_pointer(input, "input");
  require_count("input", count, model.pixels());
}

/// The caller's batch of normalised pictures. A batch is at most 2^31 - 1 pictures, so that no product below overflows.
std::span<float const> batch_of(dm2_model const& model, float const* pictures, std::size_t batch) {
  require_pointer(pictures, "pictures");
  require_range<std::size_t>("batch", batch, 1, std::size_t(std::numeric_limits<std::int32_t>::max()));
  return {pictures, batch * model.pixels()};
}

/// The caller's buffer of `each` numbers a picture.
std::span<float> buffer_of(char const* name, float* to, std::size_t count, std::size_t batch, std::size_t each) {
  require_pointer(to, name);
  require_count(name, count, batch * each);
  return {to, count};
}

/// A caller's index into what the description counts.
void require_index(char const* what, std::size_t index, std::size_t count) {
  if (index >= count)
    throw failure{DM2_ARGUMENT, std::string{what} + " " + std::to_string(index) + " of " + std::to_string(count)};
}

dm2_description description_of(dm2_model const& model) {
  dm2::config const& c = model.configuration;
  std::size_t const patches = model.patches();
  return {sizeof(dm2_description),
          c.image.height,
          c.image.width,
          c.channels,
          c.classes,
          c.image.height / c.patch,
          c.image.width / c.patch,
          std::int32_t(patches) + 1,
          std::int32_t(patches / 2),
          c.dim,
          model.where.device,
          model.where.precision,
          model.averaged ? 1 : 0,
          model.parameters,
          model.net->table().size(),
          model.class_names.size(),
          model.notices.size(),
          model.name.c_str(),
          model.configuration_text.c_str()};
}

dm2_tensor tensor_of(dm2_model& model, std::size_t index) {
  dm2::parameter_entry const& e = model.net->table()[index];
  dm2_tensor out{};
  out.size = sizeof out;
  out.name = model.tensor_names[index].c_str();
  std::copy(e.shape.begin(), e.shape.end(), out.shape);
  out.rank = e.rank;
  out.trained = e.kind == dm2::entry_kind::parameter ? 1 : 0;
  out.count = e.size;
  if (e.kind == dm2::entry_kind::counter)
    out.steps = model.net->counters()[e.offset];
  else
    out.values = model.net->state().data() + e.offset;
  return out;
}

}  // namespace

extern "C" {

int dm2_open(char const* path, dm2_open_options const* options, dm2_model** model) {
  if (model != nullptr) *model = nullptr;
  return guarded([&] {
    require_pointer(model, "model");
    require_pointer(path, "path");
    dm2_open_options const defaults = DM2_OPEN_OPTIONS;
    if (options != nullptr) require_struct(options, "dm2_open_options");
    *model = open_models().open(open_model(path, options == nullptr ? defaults : *options));
  });
}

int dm2_close(dm2_model* model) {
  return guarded([&] { open_models().close(model); });
}

int dm2_describe(dm2_model* model, dm2_description* description) {
  return with_model(model, [&](dm2_model& m) {
    require_struct(description, "dm2_description");
    *description = description_of(m);
  });
}

int dm2_class_name(dm2_model* model, int32_t index, char const** name) {
  return with_model(model, [&](dm2_model& m) {
    require_pointer(name, "name");
    require_index("class name", index < 0 ? m.class_names.size() : std::size_t(index), m.class_names.size());
    *name = m.class_names[std::size_t(index)].c_str();
  });
}

int dm2_tensor_at(dm2_model* model, size_t index, dm2_tensor* tensor) {
  return with_model(model, [&](dm2_model& m) {
    require_struct(tensor, "dm2_tensor");
    require_index("tensor", index, m.net->table().size());
    *tensor = tensor_of(m, index);
  });
}

int dm2_notice(dm2_model* model, size_t index, char const** line) {
  return with_model(model, [&](dm2_model& m) {
    require_pointer(line, "line");
    require_index("notice", index, m.notices.size());
    *line = m.notices[index].c_str();
  });
}

int dm2_classify_encoded(dm2_model* model, void const* bytes, size_t size, int32_t k, dm2_prediction* best) {
  return with_model(model, [&](dm2_model& m) {
    require_classes(m, k, best);
    classify(m, kept_of(m, bytes, size), k, best);
  });
}

int dm2_classify_pixels(dm2_model* model, uint8_t const* pixels, int32_t height, int32_t width, size_t stride,
                        int32_t k, dm2_prediction* best) {
  return with_model(model, [&](dm2_model& m) {
    require_classes(m, k, best);
    classify(m, kept_of(m, pixels, height, width, stride), k, best);
  });
}

int dm2_input_encoded(dm2_model* model, void const* bytes, size_t size, float* input, size_t count) {
  return with_model(model, [&](dm2_model& m) {
    require_input(m, input, count);
    dm2::normalise(kept_of(m, bytes, size), std::span{input, count});
  });
}

int dm2_input_pixels(dm2_model* model, uint8_t const* pixels, int32_t height, int32_t width, size_t stride,
                     float* input, size_t count) {
  return with_model(model, [&](dm2_model& m) {
    require_input(m, input, count);
    dm2::normalise(kept_of(m, pixels, height, width, stride), std::span{input, count});
  });
}

int dm2_forward(dm2_model* model, float const* pictures, size_t batch, float* logits, size_t count) {
  return with_model(model, [&](dm2_model& m) {
    auto const in = batch_of(m, pictures, batch);
    m.net->forward(in, buffer_of("logits", logits, count, batch, std::size_t(m.configuration.classes)));
  });
}

int dm2_features(dm2_model* model, float const* pictures, size_t batch, float* features, size_t count) {
  return with_model(model, [&](dm2_model& m) {
    auto const in = batch_of(m, pictures, batch);
    std::size_t const each = (m.patches() + 1) * std::size_t(m.configuration.dim);
    m.net->forward_features(in, buffer_of("features", features, count, batch, each));
  });
}

int dm2_patches(dm2_model* model, float const* pictures, size_t batch, float* cls, size_t cls_count, float* patches,
                size_t patches_count) {
  return with_model(model, [&](dm2_model& m) {
    auto const in = batch_of(m, pictures, batch);
    std::size_t const classes = std::size_t(m.configuration.classes);
    auto const tokens = buffer_of("cls", cls, cls_count, batch, classes);
    m.net->forward_patches(in, tokens, buffer_of("patches", patches, patches_count, batch, m.patches() * classes));
  });
}

int dm2_save(dm2_model* model, char const* path) {
  return with_model(model, [&](dm2_model& m) {
    require_pointer(path, "path");
    std::map<std::string, std::string> metadata;
    if (!m.class_names.empty()) metadata[dm2::class_names_key] = dm2::class_names_text(m.class_names);
    dm2::run::save(*m.net, path, std::move(metadata));
  });
}

}  // extern "C"
