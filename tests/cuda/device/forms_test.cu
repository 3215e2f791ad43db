#include "cuda/device/forms_document.cuh"

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

using namespace dm2;

namespace {
namespace forms = dm2::test::forms;

std::filesystem::path document() { return std::filesystem::path{DM2_GOLDEN_DIR} / "../../docs/devices.md"; }

std::string read(std::filesystem::path const& path) {
  std::ifstream in{path, std::ios::binary};
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

/// text with `table` in the place of what stands between two lines of comments.
std::string with_table(std::string const& text, std::string const& name, std::string const& table) {
  std::string const begin = "<!-- " + name + ": scripts/device_forms writes this -->\n",
                    end = "<!-- end of " + name + " -->";
  std::size_t const from = text.find(begin), to = text.find(end);
  REQUIRE(from != std::string::npos);
  REQUIRE(to != std::string::npos);
  return text.substr(0, from) + begin + '\n' + table + '\n' + text.substr(to);
}

template <config C, cuda::precision P>
void check_tensor_cores() {
  for (auto const& kind : forms::device_kinds) {
    auto const chosen = forms::chooser<C, P>{kind}.all();
    for (std::size_t i = 0; i < chosen.of.size(); ++i) {
      CAPTURE(kind.names);
      CAPTURE(forms::network_forms::operations[i]);
      CAPTURE(chosen.of[i].name);
      CHECK(chosen.of[i].tensor);
    }
  }
}

}  // namespace

TEST_CASE("forms: docs/devices.md has what the operations choose") {
  std::string const text = read(document());
  std::string const want =
      with_table(with_table(text, "forms", forms::device_table()), "plain sizes", forms::plain_table());
  if (std::getenv("DM2_WRITE_DEVICE_FORMS") != nullptr) std::ofstream{document(), std::ios::binary} << want;
  CHECK(read(document()) == want);
}

TEST_CASE("forms: a model with heads of 24 is on tensor cores on every device in 16 bits") {
  check_tensor_cores<forms::mine, cuda::precision::bf16>();
  check_tensor_cores<forms::mine, cuda::precision::fp16>();
}

TEST_CASE("forms: Tiny and Small at 224 and 384 pixels are on tensor cores on every device in 16 bits") {
  check_tensor_cores<tiny, cuda::precision::bf16>();
  check_tensor_cores<forms::tiny_384, cuda::precision::bf16>();
  check_tensor_cores<published_small, cuda::precision::bf16>();
  check_tensor_cores<forms::small_384, cuda::precision::bf16>();
  check_tensor_cores<tiny, cuda::precision::fp16>();
  check_tensor_cores<forms::small_384, cuda::precision::fp16>();
}
