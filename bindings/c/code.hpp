/// @file
/// From the caller's words to a configuration, a backend, its code and class names.
#pragma once

#include <dm2/io/tensor_file.hpp>
#include <dm2/model/config.hpp>
#include <dm2/run/backend.hpp>
#include <dm2/run/model_code.hpp>

#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <vector>

#include "dm2.h"

namespace dm2::c {

/// Where a handle computes.
struct place {
  run::backend backend = run::backend::cpu;
  std::int32_t device = DM2_DEVICE_CPU;         ///< not DM2_DEVICE_AUTO
  std::int32_t precision = DM2_PRECISION_FP32;  ///< not the default

  [[nodiscard]] bool gpu() const noexcept { return device == DM2_DEVICE_CUDA; }
};

/// The place that the caller's numbers mean. Throws failure for numbers that mean none, and where no GPU works.
[[nodiscard]] place find_place(std::int32_t device, std::int32_t precision);

/// The set of weights that the caller's number means. Throws failure for another number.
[[nodiscard]] weights find_weights(std::int32_t which);

/// How code that is not in the library may be had.
struct code_wishes {
  bool compile = false;
  char const* cache_folder = nullptr;  ///< null: the user's
  dm2_say say = nullptr;
  void* say_context = nullptr;
};

/// A configuration's code: in the library, in the cache, or compiled now where that is allowed. Throws failure.
[[nodiscard]] run::model_code const& find_code(config const& c, run::backend where, code_wishes const& wishes);

/// The fields that a text says: none for null, a preset's, or a JSON object's, in which one number for `image` is a
/// square. `base`, where the object has it, is a preset whose fields it stands for. Throws failure.
[[nodiscard]] nlohmann::json said_fields(char const* text, char const* name);

/// config_from_json, every rule of which is kept. Throws failure with the rule's sentence.
[[nodiscard]] config usable_config(nlohmann::json const& fields, char const* name);

/// The caller's class names, one a class; none for null. Throws failure for one that is NULL or not UTF-8.
[[nodiscard]] std::vector<std::string> given_class_names(char const* const* names, int classes);

}  // namespace dm2::c
