// examples/convert as a user runs it.
#include <dm2/io/safetensors_write.hpp>
#include <dm2/io/tensor_file.hpp>

#include <nlohmann/json.hpp>

#include "examples/run_program.hpp"
#include "io/refusal.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

using namespace dm2::test;

namespace {
outcome convert(std::vector<std::string> const& arguments) { return run_program(DM2_CONVERT, arguments); }

/// Whether both files hold the same tensors, in one order, with the same bits.
bool same_tensors(std::filesystem::path const& a, std::filesystem::path const& b, bool names = true) {
  dm2::tensor_file const one{a}, two{b};
  if (one.tensors().size() != two.tensors().size()) return false;
  for (std::size_t i = 0; i < one.tensors().size(); ++i) {
    auto const& x = one.tensors()[i];
    auto const* const y = names ? two.find(x.name) : &two.tensors()[i];
    if (y == nullptr || x.shape != y->shape || x.type != y->type || !x.contiguous() || !y->contiguous()) return false;
    if (std::memcmp(x.data, y->data, x.size() * dm2::size_of(x.type)) != 0) return false;
  }
  return true;
}
}  // namespace

TEST_CASE("convert: a checkpoint's weights and averages become what Python wrote beside them, bit for bit") {
  scratch_folder const folder;
  auto const raw = folder / "raw.safetensors", ema = folder / "ema.safetensors", again = folder / "again.safetensors";
  CHECK(convert({raw_checkpoint, raw.string(), "--raw"}).code == 0);
  CHECK(convert({raw_checkpoint, ema.string(), "--ema"}).code == 0);
  CHECK(convert({raw.string(), again.string()}).code == 0);
  CHECK(same_tensors(raw, golden_file("lightning/epoch=0-step=2.safetensors")));
  CHECK(same_tensors(ema, golden_file("lightning/epoch=0-step=2-EMA.safetensors")));
  CHECK_FALSE(same_tensors(raw, ema));
  CHECK(read_raw(again) == read_raw(raw));
}

TEST_CASE("convert: torch files of any layout become the same contiguous tensor") {
  for (char const* name : {"zip.pt", "legacy.pt", "contiguous.pt"}) {
    scratch_folder const folder;
    CAPTURE(name);
    CHECK(convert({std::string{"token_labels/"} + name, (folder / "l.safetensors").string()}).code == 0);
    CHECK(same_tensors(folder / "l.safetensors", golden_file("token_labels/expected.safetensors"), false));
  }
}

TEST_CASE("convert: the configuration and class names go along, and classify finds them") {
  scratch_folder const folder;
  auto const file = folder / "m.safetensors";
  write_raw(folder / "n.txt", "a\nb\nc\nd\ne\nf\ng\nh\nthe ninth\nj\n");
  CHECK(convert({raw_checkpoint, file.string(), "--names", (folder / "n.txt").string()}).code == 0);
  auto const all = nlohmann::json::parse(convert({file.string(), "--metadata"}).out);
  CHECK(all["format"] == "safetensors");
  auto const& metadata = all["metadata"];
  CHECK(metadata["format"] == "pt");
  CHECK(metadata["config"]["image"] == nlohmann::json{64, 64});
  CHECK(metadata["config"]["variant"] == "published");
  CHECK(metadata["class_names"][8] == "the ninth");
  CHECK(metadata["hyper_parameters"] ==
        nlohmann::json::parse(convert({raw_checkpoint, "--metadata"}).out)["hyper_parameters"]);
  auto const named = run_program(DM2_CLASSIFY, {"-w", file.string(), "images/photo.jpg"});
  CHECK(contains(named.out, "  8  the ninth\n"));
}

TEST_CASE(
    "convert: a file that says nothing of its model gets the configuration that its shapes tell, or that it is told") {
  scratch_folder const folder;
  std::string const file = (folder / "m.safetensors").string();
  auto const wrong = convert({"lightning/epoch=0-step=2.safetensors", file, "--model", "small"});
  CHECK(wrong.code == 2);
  CHECK(
      contains(wrong.err, "--model small (depth 24) contradicts epoch=0-step=2.safetensors, whose model has depth 4"));
  CHECK_FALSE(std::filesystem::exists(file));
  CHECK(convert({"lightning/epoch=0-step=2.safetensors", file}).code == 0);
  CHECK(nlohmann::json::parse(convert({file, "--metadata"}).out)["metadata"]["config"]["depth"] == 4);
  CHECK(convert({"lightning/epoch=0-step=2.safetensors", file, "--model", "micro", "--force"}).code == 0);
  CHECK(nlohmann::json::parse(convert({file, "--metadata"}).out)["metadata"]["config"]["depth"] == 4);
}

TEST_CASE("convert: the list has a line for each tensor and their total") {
  auto const lines = lines_of(convert({ema_checkpoint, "--list"}).out);
  dm2::tensor_file const file{golden_file("lightning/epoch=0-step=2-EMA.safetensors")};
  REQUIRE(lines.size() == file.tensors().size() + 2);
  CHECK(lines[1].starts_with("cls_token "));
  CHECK(lines[1].ends_with("  F32       [1, 1, 32]       32"));
  std::size_t numbers = 0;
  for (auto const& t : file.tensors()) numbers += t.size();
  std::string total = lines.back();
  total.erase(std::remove(total.begin(), total.end(), ','), total.end());
  CHECK(contains(total, std::to_string(file.tensors().size()) + " tensors " + std::to_string(numbers) + " numbers"));
}

TEST_CASE("convert: names from a file cannot move the terminal's cursor") {
  scratch_folder const folder;
  std::string const file = (folder / "f").string(), name = "a\x1B[2J";
  float const one = 1;
  dm2::write_safetensors(
      file, std::vector{dm2::stored_tensor{name, dm2::dtype::f32, {1}, {1}, reinterpret_cast<std::byte const*>(&one)}});
  CHECK(contains(convert({file, "--list"}).out, "a?[2J  F32"));
  auto const misfit = run_program(DM2_CLASSIFY, {"-w", file, "-m", "micro", "images/photo.jpg"});
  CHECK(misfit.code == 3);
  CHECK_FALSE(contains(misfit.err, "\x1B"));
}

TEST_CASE("convert: what exists stays, unless it is forced") {
  scratch_folder const folder;
  auto const file = folder / "f.safetensors";
  write_raw(file, "precious");
  auto const refused = convert({raw_checkpoint, file.string()});
  CHECK(refused.code == 2);
  CHECK(contains(refused.err, "exists; --force replaces it"));
  CHECK(read_raw(file) == "precious");
  CHECK(convert({raw_checkpoint, file.string(), "--force"}).code == 0);
  std::string const before = read_raw(file);
  CHECK(contains(convert({file.string(), file.string()}).err, "is INPUT itself"));
  CHECK(convert({file.string(), file.string(), "--force"}).code == 0);
  CHECK(read_raw(file) == before);
  CHECK(folder.files() == 1);
}

TEST_CASE("convert: what is wrong is said, with its exit code, and nothing is written") {
  scratch_folder const folder;
  std::string const out = (folder / "out.safetensors").string();
  struct {
    int code;
    std::vector<std::string> arguments;
    std::string message;
  } const cases[] = {
      {2, {}, "INPUT is required"},
      {2, {raw_checkpoint}, "nothing to do"},
      {2, {raw_checkpoint, "--list", "--names", "README.md"}, "needs an OUTPUT"},
      {2, {raw_checkpoint, out, "--ema", "--raw"}, "excludes"},
      {3, {"gone.ckpt", out}, "gone.ckpt: cannot be opened"},
      {3, {"images/photo.jpg", out}, "is none of safetensors"},
      {3, {"token_labels/bad_code.pt", out}, "nothing was run"},
      {3, {"token_labels/bad_truncated.pt", out}, "bad_truncated.pt: "},
      {3, {"layers.safetensors", out, "--ema"}, "EMA weights cannot be chosen"},
      {3, {raw_checkpoint, out, "--names", "../../examples/imagenet_classes.txt"}, "the model has 10 classes"},
      {3, {raw_checkpoint, (folder / "no/such/f").string()}, "cannot be created"},
  };
  for (auto const& wrong : cases) {
    auto const got = convert(wrong.arguments);
    CAPTURE(wrong.message);
    CAPTURE(got.err);
    CHECK(got.code == wrong.code);
    CHECK(got.err.starts_with("convert: "));
    CHECK(contains(got.err, wrong.message));
    CHECK(folder.files() == 0);
  }
}
