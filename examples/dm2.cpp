// The program dm2, whose first word is a command. See README.md.
#include <dm2/core/version.hpp>

#include "support/command_line.hpp"
#include "support/commands.hpp"
#include "support/completion.hpp"
#include "support/text.hpp"

#include <algorithm>
#include <iostream>
#include <string>
#include <vector>

namespace {

using namespace dm2::example;

void print_help(std::ostream& out) {
  out << "dm2: DeMansia 2 models, to train, to measure and to use.\n\nUsage: dm2 COMMAND [ARGUMENT...]\n\nCommands:\n";
  for (dm2_command const& c : commands)
    out << "  " << c.name << std::string(14 - c.name.size(), ' ') << c.summary << '\n';
  out << "  help          dm2 help COMMAND says what a command does, its flags and exit codes\n"
         "  completion    dm2 completion bash | zsh prints what the shell needs to complete commands and flags\n\n"
         "Options:\n  --help        this text\n  --version     dm2's version\n\n"
         "Examples:\n"
         "  dm2 train pictures --model tiny --img-size 384\n"
         "  dm2 classify --weights runs/tiny/best.safetensors photo.jpg\n"
         "  dm2 models\n";
}

/// The command of that name; make_shapes, as its own program is called, is make-shapes, too.
dm2_command const* find_command(std::string name) {
  std::replace(name.begin(), name.end(), '_', '-');
  auto const called = [&](dm2_command const& c) { return c.name == name; };
  auto const found = std::find_if(commands.begin(), commands.end(), called);
  return found == commands.end() ? nullptr : &*found;
}

int refuse(std::string const& name) {
  std::vector<std::string> names{"help", "completion"};
  for (dm2_command const& c : commands) names.emplace_back(c.name);
  std::cerr << "dm2: there is no command " << printable(name) << "; the nearest is " << nearest_name(name, names)
            << "\nRun dm2 --help for those that are.\n";
  return exit_usage;
}

/// dm2 help COMMAND is dm2 COMMAND --help.
int help(int argc, char** argv) {
  if (argc < 2) return print_help(std::cout), exit_ok;
  dm2_command const* const c = find_command(argv[1]);
  if (c == nullptr) return refuse(argv[1]);
  as_word = true;
  std::string name{c->name}, flag = "--help";
  char* words[]{name.data(), flag.data(), nullptr};
  return c->run(2, words);
}

int run(int argc, char** argv) {
  open_standard_files();
  if (argc < 2) return print_help(std::cerr), exit_usage;
  std::string const word = argv[1];
  if (word == "--help" || word == "-h") return print_help(std::cout), exit_ok;
  if (word == "--version") return std::cout << "dm2 " << dm2::version_text << '\n', exit_ok;
  if (word == "help") return help(argc - 1, argv + 1);
  if (word == "completion") return completion_command(argc - 1, argv + 1);
  as_word = true;
  dm2_command const* const c = find_command(word);
  return c == nullptr ? refuse(word) : c->run(argc - 1, argv + 1);
}

}  // namespace

int main(int argc, char** argv) {
  int const code = run(argc, argv);
  return output_written("dm2") || code != exit_ok ? code : exit_incomplete;
}
