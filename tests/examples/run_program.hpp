/// @file
/// Running an example program as a shell does: what it prints, what it complains of, what it returns.
#pragma once

#include <doctest/doctest.h>

#include "io/scratch.hpp"

#include <cstdlib>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <vector>

#include <sys/wait.h>

namespace dm2::test {

/// What a program left behind.
struct outcome {
  int code = -1;  ///< what it returned; -1 where a signal ended it
  std::string out, err;
};

/// One word of a shell's command line.
inline std::string quoted(std::string const& word) {
  std::string text = "'";
  for (char const c : word) text += c == '\'' ? std::string{"'\\''"} : std::string{c};
  return text + "'";
}

/// Runs `program` with the arguments, in `folder`, its input empty.
inline outcome run_program(std::string const& program, std::vector<std::string> const& arguments,
                           std::filesystem::path const& folder = DM2_GOLDEN_DIR) {
  scratch_folder const scratch;
  std::string command = "cd " + quoted(folder.string()) + " && " + quoted(program);
  for (std::string const& argument : arguments) command += " " + quoted(argument);
  command += " < /dev/null > " + quoted((scratch / "out").string()) + " 2> " + quoted((scratch / "err").string());
  int const status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_raw(scratch / "out"), read_raw(scratch / "err")};
}

/// The text's lines, without their ends.
inline std::vector<std::string> lines_of(std::string const& text) {
  std::vector<std::string> out;
  for (std::size_t at = 0, end = 0; (end = text.find('\n', at)) != std::string::npos; at = end + 1)
    out.push_back(text.substr(at, end - at));
  return out;
}

inline std::string const ema_checkpoint = "lightning/epoch=0-step=2-EMA.ckpt",
                         raw_checkpoint = "lightning/epoch=0-step=2.ckpt";

}  // namespace dm2::test
