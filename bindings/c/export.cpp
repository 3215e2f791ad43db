// The C functions that write a model for other runtimes.
#include <dm2/io/onnx/options.hpp>
#include <dm2/run/network_export.hpp>

#include "dm2.h"
#include "guard.hpp"
#include "opened_model.hpp"

#include <cstdint>
#include <limits>

namespace {

using namespace dm2::c;

/// The caller's options as the writer takes them. Throws failure for those that make no sense.
dm2::onnx_options onnx_options_of(dm2_model const& model, dm2_export_options const* options) {
  dm2_export_options const defaults = DM2_EXPORT_OPTIONS;
  if (options != nullptr) require_struct(options, "dm2_export_options");
  dm2_export_options const& o = options == nullptr ? defaults : *options;
  require_range<std::int32_t>("input", o.input, DM2_EXPORT_NORMALISED, DM2_EXPORT_BYTES);
  require_range<std::int32_t>("chunk", o.chunk, 0, std::numeric_limits<std::int32_t>::max());
  dm2::onnx_options out;
  out.input = o.input == DM2_EXPORT_BYTES  ? dm2::onnx_input::bytes
              : o.input == DM2_EXPORT_UNIT ? dm2::onnx_input::unit
                                           : dm2::onnx_input::normalised;
  out.half = o.half != 0;
  out.features = o.features != 0;
  out.patches = o.patches != 0;
  out.external_data = o.external_data != 0;
  out.chunk = o.chunk;
  out.class_names =
      o.class_names == nullptr ? model.class_names : given_class_names(o.class_names, model.configuration.classes);
  return out;
}

}  // namespace

extern "C" {

int dm2_export_onnx(dm2_model* model, char const* path, dm2_export_options const* options) {
  return with_model(model, [&](dm2_model& m) {
    require_pointer(path, "path");
    dm2::run::write_onnx(*m.net, onnx_options_of(m, options), path);
  });
}

int dm2_export_hub(dm2_model* model, char const* folder, dm2_export_options const* options) {
  return with_model(model, [&](dm2_model& m) {
    require_pointer(folder, "folder");
    dm2::run::write_hub_folder(*m.net, m.origin, onnx_options_of(m, options), folder);
  });
}

}  // extern "C"
