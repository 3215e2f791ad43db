// The commands that compute on a GPU, on an emulated one, for scripts/gpu_faults.
#include "../../examples/support/commands.hpp"

#include <array>
#include <cstdio>
#include <string_view>

int main(int argc, char** argv) {
  using namespace dm2::example;
  std::array const here{dm2_command{"train", train_command, ""}, dm2_command{"evaluate", evaluate_command, ""},
                        dm2_command{"classify", classify_command, ""}, dm2_command{"convert", convert_command, ""}};
  for (dm2_command const& c : here)
    if (argc > 1 && c.name == argv[1]) return c.run(argc - 1, argv + 1);
  std::fprintf(stderr, "dm2_emulated: train, evaluate, classify or convert\n");
  return 2;
}
