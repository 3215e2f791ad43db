/// @file
/// A model's code, loaded from a shared object.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/run/model_code.hpp>
#include <dm2/run/unit_text.hpp>

#include <filesystem>
#include <string>

#include <dlfcn.h>

namespace dm2::run {

/// A function of C's linkage in a shared object, which stays loaded as long as the program runs. Loading executes what
/// is in the file: only what cache::find_or_compile names, or what the user trusts as he trusts the program.
///
/// Throws file_error where it cannot be loaded, or has no such function.
[[nodiscard]] inline void* load_entry(std::filesystem::path const& path, char const* name) {
  auto const problem = [] {
    char const* const text = ::dlerror();
    return std::string{text == nullptr ? "for an unknown reason" : text};
  };
  void* const object = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (object == nullptr) throw file_error{path, "cannot be loaded: " + problem()};
  void* const entry = ::dlsym(object, name);
  if (entry == nullptr) throw file_error{path, "holds no model's code: " + problem()};
  return entry;
}

/// The code of a model in a shared object. Throws as load_entry does, and where it gives none.
[[nodiscard]] inline model_code const& load_code(std::filesystem::path const& path) {
  auto const entry = reinterpret_cast<model_code const* (*)()>(load_entry(path, entry_name));
  model_code const* const code = entry();
  if (code == nullptr) throw file_error{path, "gives no model's code"};
  return *code;
}

}  // namespace dm2::run
