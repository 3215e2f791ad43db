// The Python module dm2._dm2, which the package dm2 wraps.
#include <dm2/core/error.hpp>
#include <dm2/core/version.hpp>

#include <CLI/CLI.hpp>

#include "../../../examples/support/command_line.hpp"
#include "../../../examples/support/gpu.hpp"
#include "bound.hpp"
#include "pictures.hpp"

#include <exception>
#include <filesystem>
#include <system_error>

namespace dm2::python {

namespace {

/// Python's exceptions of dm2's, with the same text. Others go nanobind's way: std::invalid_argument is a ValueError,
/// std::bad_alloc a MemoryError, the rest a RuntimeError.
void translate(std::exception_ptr const& problem, void*) {
  try {
    std::rethrow_exception(problem);
  } catch (file_error const& e) {
    std::error_code ignored;
    bool const missing =
        e.path() != bytes_name && !std::filesystem::exists(std::filesystem::symlink_status(e.path(), ignored));
    PyErr_SetString(missing ? PyExc_FileNotFoundError : PyExc_RuntimeError, e.what());
  } catch (example::usage_error const& e) {
    PyErr_SetString(PyExc_ValueError, e.what());
  } catch (CLI::Error const& e) {
    PyErr_SetString(PyExc_ValueError, e.what());
  }
}

}  // namespace

void add_errors(nb::module_&) { nb::register_exception_translator(translate); }

}  // namespace dm2::python

NB_MODULE(_dm2, m) {
  namespace nb = nanobind;
  m.doc() = "The compiled part of dm2.";
  m.attr("version") = dm2::version_text;
  m.def(
      "cuda_problem", [] { return dm2::example::gpu_problem(); },
      "Why no GPU can be used; an empty text where one can.");
  dm2::python::add_errors(m);
  dm2::python::add_model(m);
  dm2::python::add_pictures(m);
  dm2::python::add_training(m);
  dm2::python::add_operators(m);
}
