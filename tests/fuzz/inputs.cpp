// Gives files to a reader, each once: what scripts/valgrind_readers runs, with no sanitizer compiled in.
#include "fuzz/targets.hpp"

#include <cstdio>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <string_view>

namespace {

std::string bytes_of(char const* path) {
  std::ifstream in{path, std::ios::binary};
  return {std::istreambuf_iterator<char>{in}, {}};
}

}  // namespace

/// --targets lists the readers; --checkpoint-seed FILE writes what `resume` begins with; TARGET FILE... runs.
int main(int argc, char** argv) {
  auto const targets = dm2::fuzz::all_targets();
  std::string_view const word = argc > 1 ? argv[1] : "";
  if (word == "--targets") {
    for (auto const& t : targets) std::printf("%.*s\n", int(t.name.size()), t.name.data());
    return 0;
  }
  if (word == "--checkpoint-seed" && argc == 3) return dm2::fuzz::write_checkpoint_seed(argv[2]), 0;
  for (auto const& t : targets) {
    if (t.name != word) continue;
    int taken = 0;
    for (int i = 2; i < argc; ++i) {
      std::string const bytes = bytes_of(argv[i]);
      std::fprintf(stderr, "%s\n", argv[i]);  // so that a report stands behind the name of its file
      taken += t.run(std::as_bytes(std::span{bytes})) ? 1 : 0;
    }
    std::printf("%d inputs, %d taken\n", argc - 2, taken);
    return 0;
  }
  std::fprintf(stderr, "dm2_fuzz_inputs: --targets, --checkpoint-seed FILE, or TARGET FILE...\n");
  return 2;
}
