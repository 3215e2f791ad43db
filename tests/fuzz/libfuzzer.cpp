// The entry points of libFuzzer. DM2_FUZZ_TARGET in the environment chooses the reader; --targets lists them, and
// --checkpoint-seed FILE writes what the target `resume` begins with.
#include "fuzz/targets.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string_view>
#include <vector>

namespace {
/// The readers of this program: those of pictures alone under the memory sanitizer.
std::vector<dm2::fuzz::target> readers() {
#ifdef DM2_FUZZ_PICTURES
  std::vector<dm2::fuzz::target> stb;
  for (auto const& t : dm2::fuzz::picture_targets())
    if (t.name.starts_with("stb_")) stb.push_back(t);
  return stb;
#else
  return dm2::fuzz::all_targets();
#endif
}
dm2::fuzz::target chosen{"", nullptr};
}  // namespace

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  auto const targets = readers();
  if (*argc > 1 && std::string_view{(*argv)[1]} == "--targets") {
    for (auto const& t : targets) std::printf("%.*s\n", int(t.name.size()), t.name.data());
    std::exit(0);
  }
#ifndef DM2_FUZZ_PICTURES
  if (*argc > 2 && std::string_view{(*argv)[1]} == "--checkpoint-seed") {
    dm2::fuzz::write_checkpoint_seed((*argv)[2]);
    std::exit(0);
  }
#endif
  char const* const asked = std::getenv("DM2_FUZZ_TARGET");
  for (auto const& t : targets)
    if (asked != nullptr && t.name == asked) chosen = t;
  if (chosen.run == nullptr) {
    std::fprintf(stderr, "DM2_FUZZ_TARGET must name one of the targets that --targets lists\n");
    std::exit(2);
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  (void)chosen.run(std::as_bytes(std::span{data, size}));
  return 0;
}
