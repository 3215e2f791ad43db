/// @file
/// Finds a model's code: compiled into the program, in the cache, or compiled now.
#pragma once

#include <dm2/io/config_json.hpp>
#include <dm2/model/config.hpp>
#include <dm2/model/config_rules.hpp>
#include <dm2/run/backend.hpp>
#include <dm2/run/build_request.hpp>
#include <dm2/run/cache.hpp>
#include <dm2/run/model_code.hpp>
#include <dm2/run/presets.hpp>
#include <dm2/run/shared_object.hpp>
#include <dm2/run/toolchain.hpp>
#include <dm2/run/unit_text.hpp>

#include <atomic>
#include <filesystem>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace dm2::run {

/// The code that is compiled into this program. Defined by the CMake function dm2_compile_models.
[[nodiscard]] std::span<model_code const* const> compiled_in();

/// How code is found and, where there is none, compiled.
struct find_options {
  std::filesystem::path folder = cache::default_folder();  ///< the cache's
  bool compiled_in = true;     ///< code in the program is looked for: a GPU may be another than it was compiled for
  std::string architecture{};  ///< of the GPU that is there, as nvcc names it: "90a"
  std::function<void(std::string const&)> say = {};  ///< gets a line before and after compiling
  std::atomic<bool> const* stop = nullptr;           ///< ends a compile
};

/// "tiny with classes 37, cuda-bf16"
[[nodiscard]] inline std::string title_of(config const& c, backend b) {
  return dm2::name_of(c) + ", " + std::string{name_of(b)};
}

/// The code of that configuration and backend which is compiled in; null where none is.
[[nodiscard]] inline model_code const* find_compiled_in(config const& c, backend b) {
  for (model_code const* const code : compiled_in())
    if (code->backend() == b && to_json(code->configuration()) == to_json(c)) return code;
  return nullptr;
}

/// What compiling a configuration's code for a backend takes.
[[nodiscard]] inline build_request request_of(config const& c, backend b, toolchain const& tools) {
  std::vector<unit> units = model_units(c, b, title_of(c, b));
  std::string identity = "backend " + std::string{name_of(b)} + "\nconfiguration " + to_json(c).dump() + "\n";
  for (unit const& u : units) identity += "unit " + u.name + "\n" + u.text;
  return {title_of(c, b), identity + tools.identity(), std::move(units)};
}

/// The code of configuration c, which keeps every rule, on a backend: compiled in, else from the cache, where it is
/// compiled first if it is not there. The code lives as long as the program.
///
/// Throws toolchain_error where it would have to be compiled and something lacks for that, compile_error, file_error,
/// and std::invalid_argument with the rule that c breaks.
[[nodiscard]] inline model_code const& find_code(config const& c, backend b, find_options const& o = {}) {
  if (config_rule const* const broken = broken_rule(c)) throw std::invalid_argument{std::string{broken->sentence}};
  if (model_code const* const found = o.compiled_in ? find_compiled_in(c, b) : nullptr) return *found;
  std::vector<std::string> more;
  if (b != backend::cpu) more = {"-gencode", "arch=compute_" + o.architecture + ",code=sm_" + o.architecture};
  toolchain const tools{b == backend::cpu ? header_kind::cpp : header_kind::cuda, std::move(more)};
  build_request request = request_of(c, b, tools);
  cache const models{o.folder};
  if (auto const found = models.find(request.identity)) return load_code(*found);
  tools.require();
  request.compile = tools.compile();
  request.link = tools.link();
  request.libraries = tools.libraries();
  request.check = [&tools] { tools.require(); };
  return load_code(models.find_or_compile(request, o.say, o.stop));
}

}  // namespace dm2::run
