// examples/classify as a user runs it.
#include <dm2/data/decode.hpp>

#include <nlohmann/json.hpp>

#include "examples/run_program.hpp"
#include "io/refusal.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

using namespace dm2::test;

namespace {
outcome classify(std::vector<std::string> arguments, std::string const& weights = ema_checkpoint) {
  if (!weights.empty()) arguments.insert(arguments.begin(), {"--weights", weights});
  arguments.insert(arguments.begin(), {"--device", "cpu"});
  return run_program(DM2_CLASSIFY, arguments);
}
/// A file of ten names, two of which need quotes in CSV.
void write_names(std::filesystem::path const& path) {
  write_raw(path, "cat\ndog, hound\na \"bird\"\nfish\nfrog\nhorse\ndeer\nship\ntruck\nplane\n");
}
}  // namespace

TEST_CASE("classify: a table has a row for each class, the probabilities fall and sum to one") {
  auto const [code, out, err] = classify({"images/photo.jpg", "--top", "99"});
  CHECK(code == 0);
  CHECK(err == "");
  auto const lines = lines_of(out);
  REQUIRE(lines.size() == 11);
  CHECK(lines[0] == "picture           rank  probability  class");
  CHECK(lines[1].substr(0, 22) == "images/photo.jpg     1");
  double total = 0, last = 100;
  for (std::size_t i = 1; i < lines.size(); ++i) {
    CHECK(lines[i].size() == lines[0].size());
    double const percent = std::stod(lines[i].substr(22));
    CHECK(percent <= last);
    last = percent;
    total += percent;
  }
  CHECK(std::abs(total - 100) < 0.1);
}

TEST_CASE("classify: JSON has every picture of a folder, and those that failed with the reason") {
  auto const [code, out, err] = classify({"images", "gone.png", "--json", "--top", "3", "--batch", "5"});
  CHECK(code == 1);
  auto const list = nlohmann::json::parse(out);
  REQUIRE(list.size() == 17);
  int good = 0;
  for (auto const& one : list) {
    std::string const name = one["picture"];
    CAPTURE(name);
    bool const bad = contains(name, "bad_") || name == "gone.png";
    CHECK(one.contains("error") == bad);
    CHECK(one.contains("predictions") != bad);
    if (bad) CHECK(contains(err, "classify: " + one["error"].get<std::string>() + "\n"));
    if (bad) continue;
    ++good;
    REQUIRE(one["predictions"].size() == 3);
    CHECK(one["predictions"][0]["probability"] >= one["predictions"][1]["probability"]);
  }
  CHECK(good == 12);
  CHECK(lines_of(err).size() == 5);
}

TEST_CASE("classify: batch size, threads and the model's name do not change what is seen") {
  auto const expected = nlohmann::json::parse(classify({"images", "--json", "--top", "10"}).out);
  for (std::vector<std::string> const& more : {std::vector<std::string>{"--batch", "1"},
                                               {"--batch", "64", "--threads", "1"},
                                               {"--model", "micro"},
                                               {"--ema"}}) {
    std::vector<std::string> arguments{"images", "--json", "--top", "10"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    auto const got = nlohmann::json::parse(classify(arguments, raw_checkpoint).out);
    REQUIRE(got.size() == expected.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      if (!expected[i].contains("predictions")) continue;
      for (std::size_t k = 0; k < 10; ++k) {
        auto const &g = got[i]["predictions"][k], &e = expected[i]["predictions"][k];
        CHECK(g["class"] == e["class"]);
        CHECK(g["probability"].get<double>() == doctest::Approx(e["probability"].get<double>()).epsilon(1e-5));
      }
    }
  }
}

TEST_CASE("classify: --raw takes the other weights of a checkpoint") {
  auto const averaged = classify({"images/photo.jpg", "--csv"}, raw_checkpoint),
             raw = classify({"images/photo.jpg", "--csv", "--raw"}, raw_checkpoint);
  CHECK(raw.code == 0);
  CHECK(raw.out != averaged.out);
  CHECK(averaged.out == classify({"images/photo.jpg", "--csv"}).out);
}

TEST_CASE("classify: names stand in the table, in JSON and, quoted where they must be, in CSV") {
  scratch_folder const folder;
  write_names(folder / "n.txt");
  std::vector<std::string> const common{"images/photo.jpg", "--top", "10", "--names", (folder / "n.txt").string()};
  auto const with = [&](std::string const& option) {
    std::vector<std::string> all = common;
    if (!option.empty()) all.push_back(option);
    return classify(all);
  };
  CHECK(contains(with("").out, "  2  a \"bird\"\n"));
  auto const lines = lines_of(with("--csv").out);
  REQUIRE(lines.size() == 11);
  CHECK(lines[0] == "picture,rank,class,name,probability");
  CHECK(lines[1].starts_with("images/photo.jpg,1,8,truck,0.123"));
  CHECK(lines[2].starts_with("images/photo.jpg,2,2,\"a \"\"bird\"\"\",0.110"));
  CHECK(contains(with("--csv").out, ",1,\"dog, hound\",0.0"));
  auto const list = nlohmann::json::parse(with("--json").out);
  CHECK(list[0]["predictions"][1]["class"] == 2);
  CHECK(list[0]["predictions"][1]["name"] == "a \"bird\"");
}

TEST_CASE("classify: what is wrong with the command line or the model is said, with its exit code") {
  struct {
    int code;
    std::vector<std::string> arguments;
    std::string weights, message;
  } const cases[] = {
      {2, {}, ema_checkpoint, "PICTURE is required"},
      {2, {"images/photo.jpg"}, "", "--weights is required"},
      {2, {"images/photo.jpg", "--top", "0"}, ema_checkpoint, "--top: Value 0 not in range"},
      {2, {"images/photo.jpg", "--json", "--csv"}, ema_checkpoint, "excludes"},
      {2, {"images/photo.jpg", "--ema", "--raw"}, ema_checkpoint, "excludes"},
      {2, {"images/photo.jpg", "--model", "huge"}, ema_checkpoint, "huge"},
      {2, {"images/photo.jpg", "--class", "1"}, ema_checkpoint, "--heatmap"},
      {2, {"images/photo.jpg", "--class", "10", "--heatmap", "m.png"}, ema_checkpoint, "classes are 0 to 9"},
      {2, {"images/photo.jpg", "--heatmap", "images/photo.jpg"}, ema_checkpoint, "must end in .png"},
      {2, {"images/rgb.png", "--heatmap", "images/../images/rgb.png"}, ema_checkpoint, "would overwrite a picture"},
      {2,
       {"images/rgb.png", "images/wide.png", "--heatmap", "m.png"},
       ema_checkpoint,
       "is one file, there are 2 pictures"},
      {3, {"images/photo.jpg"}, "gone.ckpt", "gone.ckpt: cannot be opened"},
      {3, {"images/photo.jpg"}, "images/photo.jpg", "images/photo.jpg: is none of safetensors"},
      {3, {"images/photo.jpg"}, "token_labels/bad_code.pt", "nothing was run"},
      {3, {"images/photo.jpg"}, "layers.safetensors", "holds no DeMansia 2: none of its 117 names"},
      {2, {"images/photo.jpg", "--model", "tiny"}, ema_checkpoint, "--model tiny (depth 24) contradicts"},
      {3, {"images/photo.jpg", "--names", "README.md"}, ema_checkpoint, "README.md: line 2 is empty"},
      {3,
       {"images/photo.jpg", "--names", "../../examples/imagenet_classes.txt"},
       ema_checkpoint,
       "has 1000 class names"},
      {2, {"images/rgb.png", "--heatmap", "README.md/maps/"}, ema_checkpoint, "README.md/maps/ cannot be made"},
      {1, {"images/bad_text.jpg"}, ema_checkpoint, "images/bad_text.jpg: is neither a JPEG nor a PNG"},
      {1, {"lightning"}, ema_checkpoint, "lightning: has no .jpg"},
      {1, {"images/rgb.png", "--heatmap", "no/such/folder/m.png"}, ema_checkpoint, "no/such/folder/m.png"},
  };
  for (auto const& wrong : cases) {
    auto const got = classify(wrong.arguments, wrong.weights);
    CAPTURE(wrong.message);
    CAPTURE(got.err);
    CHECK(got.code == wrong.code);
    CHECK(got.err.starts_with("classify: "));
    CHECK(contains(got.err, wrong.message));
    CHECK(lines_of(got.err).size() <= 15);
  }
}

TEST_CASE("classify: help and version are no errors, and full output is") {
  auto const help = run_program(DM2_CLASSIFY, {"--help"}), version = run_program(DM2_CLASSIFY, {"--version"});
  CHECK(help.code == 0);
  for (char const* word :
       {"--weights", "--model", "--ema", "--raw", "--names", "--top", "--json", "--csv", "--heatmap", "--class",
        "--threads", "--batch", "--device", "--precision", "--workers", "--speed", "Exit codes"})
    CHECK(contains(help.out, word));
  CHECK(version.code == 0);
  CHECK(version.out == "classify (dm2) " DM2_PROJECT_VERSION "\n");
  if (std::filesystem::exists("/dev/full")) {
    std::string const command = quoted(DM2_CLASSIFY) + " --weights " + quoted(DM2_GOLDEN_DIR "/" + ema_checkpoint) +
                                " " + quoted(DM2_GOLDEN_DIR "/images/photo.jpg") + " > /dev/full 2> /dev/null";
    CHECK(WEXITSTATUS(std::system(command.c_str())) == 1);
  }
}
