// Configurations, backends and code: see code.hpp.
#include "code.hpp"

#include <dm2/io/class_names.hpp>
#include <dm2/io/config_json.hpp>
#include <dm2/io/json_text.hpp>
#include <dm2/model/config_rules.hpp>
#include <dm2/run/cache.hpp>
#include <dm2/run/models.hpp>
#include <dm2/run/presets.hpp>
#include <dm2/run/shared_object.hpp>
#include <dm2/run/toolchain.hpp>

#include "../../examples/support/gpu.hpp"
#include "guard.hpp"

#include <cstddef>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace dm2::c {

place find_place(std::int32_t device, std::int32_t precision) {
  require_range<std::int32_t>("device", device, DM2_DEVICE_CPU, DM2_DEVICE_AUTO);
  require_range<std::int32_t>("precision", precision, DM2_PRECISION_DEFAULT, DM2_PRECISION_TF32);
  std::string const problem = device == DM2_DEVICE_CPU ? "" : example::gpu_problem();
  if (device == DM2_DEVICE_CUDA && !problem.empty()) throw failure{DM2_DEVICE, problem};
  if (device == DM2_DEVICE_CPU || !problem.empty()) {
    if (precision > DM2_PRECISION_FP32) throw failure{DM2_DEVICE, "precision: the CPU computes in fp32"};
    return {};
  }
  switch (precision) {
    case DM2_PRECISION_FP32:
      return {run::backend::cuda_fp32, DM2_DEVICE_CUDA, precision};
    case DM2_PRECISION_FP16:
      return {run::backend::cuda_fp16, DM2_DEVICE_CUDA, precision};
    case DM2_PRECISION_TF32:
      return {run::backend::cuda_tf32, DM2_DEVICE_CUDA, precision};
    default:
      return {run::backend::cuda_bf16, DM2_DEVICE_CUDA, DM2_PRECISION_BF16};
  }
}

weights find_weights(std::int32_t which) {
  require_range<std::int32_t>("weights", which, DM2_WEIGHTS_AUTO, DM2_WEIGHTS_RAW);
  return which == DM2_WEIGHTS_EMA ? weights::ema : which == DM2_WEIGHTS_RAW ? weights::raw : weights::automatic;
}

namespace {

/// The cache's folder. Throws failure where the environment names none.
std::filesystem::path cache_folder(code_wishes const& wishes) {
  if (wishes.cache_folder != nullptr) return wishes.cache_folder;
  try {
    return run::cache::default_folder();
  } catch (std::runtime_error const& problem) {
    throw failure{DM2_CODE, problem.what()};
  }
}

/// What of the GPU decides about code.
run::find_options options_for(run::backend where, code_wishes const& wishes) {
  bool const gpu = where != run::backend::cpu;
  run::find_options o{.folder = cache_folder(wishes), .compiled_in = !gpu || example::gpu_has_code()};
  if (gpu) o.architecture = example::gpu_architecture();
  if (wishes.say != nullptr)
    o.say = [wishes](std::string const& line) { wishes.say(wishes.say_context, line.c_str()); };
  return o;
}

/// The code in the cache; null where that has none.
run::model_code const* find_cached(config const& c, run::backend where, run::find_options const& o) {
  std::vector<std::string> more;
  if (where != run::backend::cpu) more = {"-gencode", "arch=compute_" + o.architecture + ",code=sm_" + o.architecture};
  run::toolchain const tools{where == run::backend::cpu ? run::header_kind::cpp : run::header_kind::cuda,
                             std::move(more)};
  auto const found = run::cache{o.folder}.find(run::request_of(c, where, tools).identity);
  return found ? &run::load_code(*found) : nullptr;
}

}  // namespace

run::model_code const& find_code(config const& c, run::backend where, code_wishes const& wishes) {
  if (where == run::backend::cpu)  // before a folder is asked for, which the environment may not name
    if (run::model_code const* const found = run::find_compiled_in(c, where)) return *found;
  run::find_options const o = options_for(where, wishes);
  if (wishes.compile) return run::find_code(c, where, o);
  if (run::model_code const* const found = o.compiled_in ? run::find_compiled_in(c, where) : nullptr) return *found;
  if (run::model_code const* const found = find_cached(c, where, o)) return *found;
  throw failure{DM2_CODE, "the library has no code for " + run::title_of(c, where) + ", and neither has " +
                              o.folder.string() + "; with compile = 1 it is compiled and kept there"};
}

nlohmann::json said_fields(char const* text, char const* name) {
  if (text == nullptr) return nlohmann::json::object();
  auto const preset_fields = [&](std::string const& word, bool base) -> nlohmann::json {
    if (preset const* const known = find_preset(word)) return to_json(known->configuration);
    std::string all;
    for (std::string const& one : preset_names()) all += (all.empty() ? "" : ", ") + one;
    throw failure{DM2_ARGUMENT, std::string{name} + (base ? ": base '" : ": '") + word.substr(0, 100) +
                                    (base ? "' is none of " : "' is neither a JSON object nor one of ") + all};
  };
  nlohmann::json given = dm2::detail::parse_json(text);
  if (!given.is_object()) return preset_fields(text, false);
  nlohmann::json out = nlohmann::json::object();
  if (auto const base = given.find("base"); base != given.end()) {
    out = preset_fields(base->is_string() ? base->get<std::string>() : base->dump(), true);
    given.erase(base);
  }
  if (auto const image = given.find("image"); image != given.end() && image->is_number()) *image = {*image, *image};
  try {
    (void)config_from_json(given);  // names and types
  } catch (std::invalid_argument const& problem) {
    throw failure{DM2_ARGUMENT, std::string{name} + ": " + problem.what()};
  }
  out.update(given);
  return out;
}

config usable_config(nlohmann::json const& fields, char const* name) {
  config const c = config_from_json(fields);
  if (config_rule const* const rule = broken_rule(c))
    throw failure{DM2_ARGUMENT, std::string{name} + ": " + std::string{rule->sentence}};
  return c;
}

std::vector<std::string> given_class_names(char const* const* names, int classes) {
  std::vector<std::string> out;
  if (names == nullptr) return out;
  out.reserve(std::size_t(classes));
  for (int i = 0; i < classes; ++i) {
    require_pointer(names[i], "class_names[...]");
    out.emplace_back(names[i]);
  }
  try {
    (void)class_names_text(out);
  } catch (nlohmann::json::exception const&) {
    throw failure{DM2_ARGUMENT, "class_names: one is not UTF-8"};
  }
  return out;
}

}  // namespace dm2::c
