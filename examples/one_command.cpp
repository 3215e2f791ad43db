// A command of dm2 as a program of its own: the one that CMake calls DM2_COMMAND. See README.md.
#include "support/commands.hpp"

int main(int argc, char** argv) { return dm2::example::DM2_COMMAND(argc, argv); }
