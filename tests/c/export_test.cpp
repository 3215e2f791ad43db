// Export through C: the bytes that the C++ writer writes of the same file.
#include <dm2/io/class_names.hpp>
#include <dm2/io/onnx/write_onnx.hpp>
#include <dm2/run/hub_folder.hpp>

#include "c/opened.hpp"

#include <array>
#include <string>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

/// A choice of options in both interfaces.
struct choice {
  dm2_export_options c = DM2_EXPORT_OPTIONS;
  onnx_options cpp{};
};

std::vector<choice> choices() {
  std::vector<choice> out(7);
  out[1].c.input = DM2_EXPORT_BYTES;
  out[1].cpp.input = onnx_input::bytes;
  out[2].c.input = DM2_EXPORT_UNIT;
  out[2].cpp.input = onnx_input::unit;
  out[3].c.half = 1;
  out[3].cpp.half = true;
  out[4].c.features = out[4].c.patches = -1;  // not 0
  out[4].cpp.features = out[4].cpp.patches = true;
  out[5].c.external_data = 1;
  out[5].cpp.external_data = true;
  out[6].c.chunk = 5;
  out[6].cpp.chunk = 5;
  return out;
}

/// Both folders have the same files, with the same bytes. Returns how many.
std::size_t check_same_files(std::filesystem::path const& got, std::filesystem::path const& want) {
  std::size_t count = 0, extra = 0;
  for (auto const& one : std::filesystem::recursive_directory_iterator{want}) {
    if (!one.is_regular_file()) continue;
    std::filesystem::path const name = std::filesystem::relative(one.path(), want);
    CAPTURE(name.string());
    REQUIRE(std::filesystem::exists(got / name));
    CHECK(read_raw(got / name) == read_raw(one.path()));
    ++count;
  }
  for (auto const& one : std::filesystem::recursive_directory_iterator{got})
    if (one.is_regular_file()) ++extra;
  CHECK(extra == count);
  return count;
}

}  // namespace

TEST_CASE("C export: whatever the options, the file is the C++ writer's of the model's file, byte by byte") {
  opened const model;
  tensor_file const file{micro_file};
  scratch_folder const folder;
  std::vector<std::string> files;
  for (choice const& one : choices()) {
    CAPTURE(files.size());
    std::string const number = std::to_string(files.size());
    std::filesystem::path const got = folder / ("c" + number), want = folder / ("cpp" + number);
    std::filesystem::create_directory(got);
    std::filesystem::create_directory(want);
    REQUIRE_MESSAGE(dm2_export_onnx(model, (got / "m.onnx").c_str(), &one.c) == DM2_OK, dm2_last_error());
    (void)write_onnx(presets::micro, file, one.cpp, want / "m.onnx");
    CHECK(check_same_files(got, want) == (one.c.external_data != 0 ? 2 : 1));
    files.push_back(read_raw(got / "m.onnx"));
  }
  for (std::size_t i = 1; i < files.size(); ++i) CHECK(files[i] != files[0]);  // each option says something
}

TEST_CASE("C export: no options are the defaults, and a file that is there is replaced") {
  opened const model;
  scratch_folder const folder;
  std::string const path = folder / "m.onnx";
  write_raw(path, "older");
  dm2_export_options const defaults = DM2_EXPORT_OPTIONS;
  REQUIRE(dm2_export_onnx(model, path.c_str(), nullptr) == DM2_OK);
  std::string const first = read_raw(path);
  CHECK(first.size() > 500'000);
  REQUIRE(dm2_export_onnx(model, path.c_str(), &defaults) == DM2_OK);
  CHECK(read_raw(path) == first);
}

TEST_CASE("C export: class names are the caller's, else the model's") {
  scratch_folder const folder;
  std::vector<std::string> own(10, "own \xc3\xa4");
  auto const net = micro_network();
  run::save(*net, folder / "named.safetensors", {{class_names_key, class_names_text(own)}});
  opened const model{folder / "named.safetensors"};
  std::string const path = folder / "m.onnx";
  REQUIRE(dm2_export_onnx(model, path.c_str(), nullptr) == DM2_OK);
  CHECK(read_raw(path).find(class_names_text(own)) != std::string::npos);
  std::array<char const*, 10> const given{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"};
  dm2_export_options options = DM2_EXPORT_OPTIONS;
  options.class_names = given.data();
  REQUIRE(dm2_export_onnx(model, path.c_str(), &options) == DM2_OK);
  CHECK(read_raw(path).find(R"(["a","b","c","d","e","f","g","h","i","j"])") != std::string::npos);
  CHECK(read_raw(path).find("own ") == std::string::npos);
}

TEST_CASE("C export: a hub's folder has the program's files, and a filled-in card is kept") {
  opened const model;
  tensor_file const file{micro_file};
  scratch_folder const folder;
  std::filesystem::path const got = folder / "c" / "hub", want = folder / "cpp" / "hub";
  choice one;
  one.c.input = DM2_EXPORT_BYTES;
  one.cpp.input = onnx_input::bytes;
  REQUIRE_MESSAGE(dm2_export_hub(model, got.c_str(), &one.c) == DM2_OK, dm2_last_error());
  (void)write_hub_folder(presets::micro, file, one.cpp, want);
  CHECK(check_same_files(got, want) == 4);
  write_raw(got / "README.md", "filled in");
  REQUIRE(dm2_export_hub(model, got.c_str(), nullptr) == DM2_OK);
  CHECK(read_raw(got / "README.md") == "filled in");
  opened const again{got / "model.safetensors"};
  dm2_description d{};
  d.size = sizeof d;
  REQUIRE(dm2_describe(again, &d) == DM2_OK);
  CHECK(d.classes == 10);
}
