/// @file
/// What the example programs have in common towards the shell: exit codes, checks, the frame of main.
#pragma once

#include <dm2/comm/communicator.hpp>
#include <dm2/core/error.hpp>
#include <dm2/core/version.hpp>
#include <dm2/model/find_tensor.hpp>

#include <CLI/CLI.hpp>

#include "commands.hpp"
#include "text.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <iostream>
#include <new>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

namespace dm2::example {

/// The exit codes; --help lists them.
enum exit_code : int {
  exit_ok = 0,
  exit_incomplete = 1,  ///< some inputs failed, the others were done
  exit_usage = 2,       ///< the command line makes no sense
  exit_model = 3,       ///< the model or weights file is unreadable, damaged, or not what was asked for
  exit_process = 6      ///< another process of the run did not answer
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

/// A whole number that is all of `word`; nothing where it is none, or none of an int.
[[nodiscard]] inline std::optional<int> whole_int(std::string_view word) {
  int value = 0;
  auto const [end, problem] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (problem != std::errc{} || end != word.data() + word.size()) return std::nullopt;
  return value;
}

/// Joins `--img-size 384 320` to `--img-size 384x320`, so that a folder after `--img-size 384` stays a word of its own:
/// the second number is taken for one unless a file or folder has its name.
[[nodiscard]] inline std::vector<std::string> with_joined_image_size(std::vector<std::string> words) {
  for (std::size_t i = 0; i + 2 < words.size(); ++i) {
    std::error_code ignored;
    if (words[i] != "--img-size" || !whole_int(words[i + 1]) || !whole_int(words[i + 2])) continue;
    if (std::filesystem::exists(words[i + 2], ignored)) continue;
    words[i + 1] += "x" + words[i + 2];
    words.erase(words.begin() + std::ptrdiff_t(i) + 2);
  }
  return words;
}

/// The name of a list that is nearest to a word that is none of them.
[[nodiscard]] inline std::string nearest_name(std::string_view word, std::vector<std::string> const& names) {
  std::string best;
  std::size_t least = ~std::size_t{0};
  for (std::string const& name : names)
    if (std::size_t const distance = dm2::detail::name_distance(word, name); distance < least) {
      best = name;
      least = distance;
    }
  return best;
}

/// The flag of a command that is nearest to a word: "--epochs".
[[nodiscard]] inline std::string nearest_flag(CLI::App const& app, std::string const& word) {
  std::vector<std::string> names;
  for (CLI::Option const* option : app.get_options())
    for (std::string const& name : option->get_lnames()) names.push_back("--" + name);
  return nearest_name(word, names);
}

/// Throws usage_error for a long flag that the command does not have, and names the nearest. CLI11 would name it among
/// the words behind it, and only where nothing else is missing.
inline void require_known_flags(CLI::App const& app, std::vector<std::string> const& words) {
  for (std::size_t i = 0; i < words.size() && words[i] != "--"; ++i) {
    if (!words[i].starts_with('-')) continue;
    std::size_t const sign = words[i].find('=');
    std::string const name = words[i].substr(0, sign);
    CLI::Option const* const option = app.get_option_no_throw(name);
    if (option == nullptr && name.starts_with("--"))
      throw usage_error{name + " is no flag; the nearest is " + nearest_flag(app, name)};
    if (option != nullptr && sign == name.npos) i += std::size_t(std::max(option->get_items_expected_min(), 0));
  }
}

/// " (in FILE)" where a refusal of CLI11's begins with a flag whose value the file of --config has, else nothing.
[[nodiscard]] inline std::string config_of_refusal(CLI::App& app, std::vector<std::string> const& words,
                                                   std::string const& what) {
  CLI::Option const* const file = app.get_config_ptr();
  CLI::Option const* const flag = app.get_option_no_throw(what.substr(0, what.find(':')));
  if (file == nullptr || file->count() == 0 || flag == nullptr) return {};
  bool const typed = std::any_of(words.begin(), words.end(), [&](std::string const& word) {
    return flag->check_name(word.substr(0, word.find('=')));
  });
  return typed ? std::string{} : " (in " + file->results().back() + ")";
}

/// A command's footer as dm2 shows it: each example, a line behind "Examples:", begins with "dm2" and the command.
[[nodiscard]] inline std::string examples_of_dm2(std::string text, std::string const& command) {
  std::size_t at = text.find("Examples:");
  while (at != text.npos && (at = text.find("\n  ", at)) != text.npos) {
    at += 3;
    text.replace(at, std::min(text.find_first_of(" \n", at), text.size()) - at, "dm2 " + command);
  }
  return text;
}

/// Puts /dev/null where standard input, output or error is closed, so that no file that is opened later gets its number
/// and is written into. Reading what is to be written and the reverse fail, so closed output is still told of.
inline void open_standard_files() {
  for (int file = 0; file <= 2; ++file)
    if (::fcntl(file, F_GETFD) < 0 && errno == EBADF && ::open("/dev/null", file == 0 ? O_WRONLY : O_RDONLY) != file)
      std::abort();  // the lowest free number is taken, which is this one
}

/// Whether standard output took everything so far. The first time that it did not, says so on stderr.
inline bool output_written(std::string const& program) {
  static bool said = false;
  if (!std::cout.flush() && !said) {
    said = true;
    std::cerr << program << ": the output could not be written\n";
  }
  return !said;
}

/// Throws usage_error where `output` is one of the inputs, by whatever name or link: writing it would destroy what was
/// asked for. `flag` is what the message calls the output.
inline void refuse_output_onto_input(std::string const& flag, std::filesystem::path const& output,
                                     std::span<std::filesystem::path const> inputs) {
  std::error_code ignored;
  for (auto const& input : inputs)
    if (!output.empty() && !input.empty() && std::filesystem::equivalent(output, input, ignored))
      throw usage_error{flag + " " + output.string() + " would overwrite " + input.string() + ", which is read"};
}

/// Runs `body` and turns what it throws into a line on stderr, after `name`, and an exit code.
template <class Body>
int guarded(CLI::App& app, std::string const& name, Body const& body) {
  try {
    return body();
  } catch (CLI::ParseError const& problem) {
    return app.exit(problem) == 0 ? exit_ok : exit_usage;
  } catch (usage_error const& problem) {
    std::cerr << name << ": " << printable(problem.what(), true) << "\nRun with --help for more information.\n";
    return exit_usage;
  } catch (std::bad_alloc const&) {
    std::cerr << app.get_name() << ": there is not enough memory for this\n";
    return exit_model;
  } catch (std::length_error const&) {
    std::cerr << app.get_name() << ": there is not enough memory for this\n";
    return exit_model;
  } catch (process_error const& problem) {
    std::cerr << name << ": " << printable(problem.what(), true) << std::endl;
    std::_Exit(exit_process);  // what is under way to the lost process would be waited for
  } catch (std::exception const& problem) {
    std::cerr << name << ": " << first_lines(printable(problem.what(), true), 12) << '\n';
    return exit_model;
  }
}

/// Parses the command line and runs `body`, which returns an exit code or throws. `unwritten` is the code where all
/// went well but for the output, which could not be written.
template <class Body>
int run_program(CLI::App& app, int argc, char** argv, Body const& body, exit_code unwritten = exit_incomplete) {
  open_standard_files();
  std::string const name = app.get_name();  // messages begin with the command, whichever program it is a part of
  if (as_word) app.name("dm2 " + name)->footer(examples_of_dm2(app.get_footer(), name));
  app.set_version_flag("--version", app.get_name() + " (dm2) " + version_text);
  std::vector<std::string> const words = with_joined_image_size({argv + 1, argv + argc});
  app.failure_message([&](CLI::App const*, CLI::Error const& problem) {
    return name + ": " + printable(problem.what() + config_of_refusal(app, words, problem.what()), true) +
           "\nRun with --help for more information.\n";
  });
  int const code = guarded(app, name, [&] {
    require_known_flags(app, words);
    app.parse(std::vector<std::string>{words.rbegin(), words.rend()});  // in the order that CLI11 takes
    return body();
  });
  return output_written(name) || code != exit_ok ? code : unwritten;
}

}  // namespace dm2::example
