// Writes the sources of models that are to be compiled into a program. CMake runs it: see cmake/models.cmake.
#include <dm2/io/atomic_file.hpp>
#include <dm2/run/backend.hpp>
#include <dm2/run/models.hpp>
#include <dm2/run/unit_text.hpp>

#include "model_spec.hpp"

#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;

/// Writes a file unless it has that text, so that nothing is compiled anew for it.
void write(fs::path const& path, std::string const& text) {
  std::ifstream present{path, std::ios::binary};
  if (present && std::string{std::istreambuf_iterator<char>{present}, {}} == text) return;
  std::ofstream out{path, std::ios::binary};
  if (!(out << text).flush()) throw dm2::file_error{path, "cannot be written"};
}

/// One model on one backend: NUMBER-forward.cpp, and NUMBER-train.cpp where the backend trains.
void write_model(fs::path const& folder, std::string const& number, std::string const& spec, std::string const& where) {
  std::optional<dm2::run::backend> const b = dm2::run::find_backend(where);
  if (!b) throw dm2::example::usage_error{where + " is no backend"};
  dm2::config const c = dm2::example::model_of_spec(spec).configuration;
  for (dm2::run::unit const& u : dm2::run::model_units(c, *b, dm2::run::title_of(c, *b), "dm2_model_" + number))
    write(folder / (number + "-" + u.name), u.text);
}

/// The table of what is compiled in.
void write_table(fs::path const& path, int count) {
  std::string declared, named;
  for (int i = 0; i < count; ++i) {
    std::string const name = "dm2_model_" + std::to_string(i);
    declared += "extern \"C\" dm2::run::model_code const* " + name + "();\n";
    named += (i == 0 ? "" : ", ") + name + "()";
  }
  write(path, "// The models that are compiled in. Written by CMake.\n#include <dm2/run/models.hpp>\n\n" + declared +
                  "\nstd::span<dm2::run::model_code const* const> dm2::run::compiled_in() {\n" +
                  (count == 0 ? "  return {};\n"
                              : "  static dm2::run::model_code const* const all[]{" + named + "};\n  return all;\n") +
                  "}\n");
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> const words(argv + 1, argv + argc);
  try {
    if (words.size() == 4)
      write_model(words[0], words[1], words[2], words[3]);
    else if (words.size() == 2)
      write_table(words[0], std::stoi(words[1]));
    else
      throw dm2::example::usage_error{"FOLDER NUMBER MODEL BACKEND, or FILE COUNT"};
  } catch (std::exception const& problem) {
    std::cerr << "DM2_MODELS: " << problem.what() << '\n';
    return 1;
  }
  return 0;
}
