/// @file
/// What the example programs have in common towards the shell: exit codes, checks, the frame of main.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/version.hpp>

#include <CLI/CLI.hpp>

#include "text.hpp"

#include <cstddef>
#include <exception>
#include <iostream>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

namespace dm2::example {

/// The exit codes; --help lists them.
enum exit_code : int {
  exit_ok = 0,
  exit_incomplete = 1,  ///< some inputs failed, the others were done; or output could not be written
  exit_usage = 2,       ///< the command line makes no sense
  exit_model = 3        ///< the model or weights file is unreadable, damaged, or not what was asked for
};

/// A command line that makes no sense, beyond what CLI11 finds.
struct usage_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Accepts whole numbers of a range; the message of a refusal says which.
[[nodiscard]] inline CLI::Validator number_from(int least, int most) { return CLI::Range(least, most).description(""); }

/// "a, b, c"
[[nodiscard]] inline std::string joined(std::vector<std::string> const& words) {
  std::string out;
  for (std::string const& word : words) out += (out.empty() ? "" : ", ") + word;
  return out;
}

/// The first `most` lines of a message, and how many were left out.
[[nodiscard]] inline std::string first_lines(std::string const& message, std::size_t most) {
  std::size_t end = 0, lines = 0, left = 0;
  for (std::size_t at = 0; at != std::string::npos && at <= message.size();) {
    at = message.find('\n', at);
    if (++lines <= most)
      end = at == std::string::npos ? message.size() : at;
    else
      ++left;
    if (at != std::string::npos) ++at;
  }
  return message.substr(0, end) + (left == 0 ? "" : "\n  ... and " + std::to_string(left) + " more");
}

/// Parses the command line, runs `body` and turns what it throws into a line on stderr and an exit code.
template <class Body>
int run_program(CLI::App& app, int argc, char** argv, Body const& body) {
  app.set_version_flag("--version", app.get_name() + " (dm2) " + version_text);
  app.failure_message([](CLI::App const* a, CLI::Error const& problem) {
    return a->get_name() + ": " + printable(problem.what(), true) + "\nRun with --help for more information.\n";
  });
  try {
    app.parse(argc, argv);
    int const code = body();
    if (std::cout.flush()) return code;
    std::cerr << app.get_name() << ": the output could not be written\n";
    return exit_incomplete;
  } catch (CLI::ParseError const& problem) {
    return app.exit(problem) == 0 ? exit_ok : exit_usage;
  } catch (usage_error const& problem) {
    std::cerr << app.get_name() << ": " << printable(problem.what(), true)
              << "\nRun with --help for more information.\n";
    return exit_usage;
  } catch (std::bad_alloc const&) {
    std::cerr << app.get_name() << ": there is not enough memory for this\n";
    return exit_model;
  } catch (std::length_error const&) {
    std::cerr << app.get_name() << ": there is not enough memory for this\n";
    return exit_model;
  } catch (std::exception const& problem) {
    std::cerr << app.get_name() << ": " << first_lines(printable(problem.what(), true), 12) << '\n';
    return exit_model;
  }
}

}  // namespace dm2::example
