// Statuses of exceptions, and the threads' last errors.
#include "guard.hpp"

#include <dm2/core/error.hpp>
#include <dm2/core/version.hpp>
#include <dm2/run/compiler_process.hpp>
#include <dm2/run/toolchain.hpp>
#include <dm2/train/steps.hpp>

#include <array>
#include <exception>
#include <filesystem>
#include <new>
#include <stdexcept>
#include <string>

namespace dm2::c {
namespace {

struct error_text {
  std::string text;
  char const* shown = "";  ///< text, or a constant where memory for it ran out
};
thread_local error_text latest;

int keep(int status, char const* text) noexcept {
  try {
    latest.text = text;
    latest.shown = latest.text.c_str();
  } catch (...) {
    latest.shown = "memory ran out, for the message too";
  }
  return status;
}

constexpr std::array<char const*, 11> status_names{"DM2_OK",      "DM2_ARGUMENT", "DM2_HANDLE",  "DM2_FILE",
                                                   "DM2_PICTURE", "DM2_SIZE",     "DM2_MEMORY",  "DM2_DEVICE",
                                                   "DM2_CODE",    "DM2_NUMBERS",  "DM2_INTERNAL"};

}  // namespace

int explain() noexcept {
  try {
    throw;
  } catch (failure const& e) {
    return keep(e.status(), e.what());
  } catch (file_error const& e) {
    return keep(DM2_FILE, e.what());
  } catch (std::filesystem::filesystem_error const& e) {
    return keep(DM2_FILE, e.what());
  } catch (shape_error const& e) {
    return keep(DM2_SIZE, e.what());
  } catch (run::toolchain_error const& e) {
    return keep(DM2_CODE, e.what());
  } catch (run::compile_error const& e) {
    return keep(DM2_CODE, e.what());
  } catch (std::range_error const& e) {
    return keep(DM2_NUMBERS, e.what());
  } catch (std::invalid_argument const& e) {
    return keep(DM2_ARGUMENT, e.what());
  } catch (std::domain_error const& e) {
    return keep(DM2_NUMBERS, e.what());
  } catch (std::bad_alloc const&) {
    return keep(DM2_MEMORY, "memory ran out");
  } catch (std::length_error const&) {
    return keep(DM2_MEMORY, "memory ran out");
  } catch (std::exception const& e) {
    return keep(DM2_INTERNAL, e.what());
  } catch (...) {
    return keep(DM2_INTERNAL, "an error without a name");
  }
}

char const* last_error() noexcept { return latest.shown; }

}  // namespace dm2::c

extern "C" {

char const* dm2_version(void) { return dm2::version_text; }

char const* dm2_last_error(void) { return dm2::c::last_error(); }

char const* dm2_status_name(int status) {
  return status < 0 || std::size_t(status) >= dm2::c::status_names.size() ? "unknown"
                                                                          : dm2::c::status_names[std::size_t(status)];
}

}  // extern "C"
