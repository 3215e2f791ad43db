/// @file
/// What a shell needs to complete dm2's commands and flags.
#pragma once

#include "command_line.hpp"
#include "commands.hpp"

#include <iostream>
#include <string>
#include <string_view>

namespace dm2::example {
namespace detail {

/// The commands and help, a blank between two.
[[nodiscard]] inline std::string command_words() {
  std::string out = "help completion";
  for (dm2_command const& c : commands) out += " " + std::string{c.name};
  return out;
}

/// Flags are those that the command's help tells, so that they are those of the dm2 that is run.
inline constexpr std::string_view flags_of_command =
    R"("$1" help "$2" 2> /dev/null | grep -oE '(^|[ ,])--?[a-zA-Z][a-zA-Z0-9-]*' | tr -d ' ,' | sort -u)";

}  // namespace detail

/// Prints a script for the shell that is named; what main gets, without "dm2".
inline int completion_command(int argc, char** argv) {
  std::string_view const shell = argc == 2 ? argv[1] : "";
  std::string const flags = "_dm2_flags() {\n  " + std::string{detail::flags_of_command} + "\n}\n";
  if (shell == "bash") {
    std::cout
        << "# In ~/.bashrc: eval \"$(dm2 completion bash)\"\n"
        << flags
        << "_dm2() {\n"
           "  local word=${COMP_WORDS[COMP_CWORD]}\n"
           "  if [ \"$COMP_CWORD\" -eq 1 ] || { [ \"$COMP_CWORD\" -eq 2 ] && [ \"${COMP_WORDS[1]}\" = help ]; }; then\n"
           "    COMPREPLY=($(compgen -W '"
        << detail::command_words()
        << "' -- \"$word\"))\n"
           "  elif [[ $word == -* ]]; then\n"
           "    COMPREPLY=($(compgen -W \"$(_dm2_flags \"$1\" \"${COMP_WORDS[1]}\")\" -- \"$word\"))\n"
           "  else\n"
           "    COMPREPLY=()\n"
           "  fi\n"
           "}\n"
           "complete -o default -F _dm2 dm2 ./dm2\n";
    return exit_ok;
  }
  if (shell == "zsh") {
    std::cout << "# In ~/.zshrc, after compinit: eval \"$(dm2 completion zsh)\"\n"
              << flags
              << "_dm2() {\n"
                 "  if (( CURRENT == 2 )) || { (( CURRENT == 3 )) && [[ $words[2] == help ]]; }; then\n"
                 "    compadd -- "
              << detail::command_words()
              << "\n"
                 "  elif [[ $words[CURRENT] == -* ]]; then\n"
                 "    compadd -- ${(f)\"$(_dm2_flags $words[1] $words[2])\"}\n"
                 "  else\n"
                 "    _files\n"
                 "  fi\n"
                 "}\n"
                 "compdef _dm2 dm2 ./dm2\n";
    return exit_ok;
  }
  std::cerr << "completion: name a shell, bash or zsh\n";
  return exit_usage;
}

}  // namespace dm2::example
