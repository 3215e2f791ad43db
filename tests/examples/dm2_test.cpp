// The program dm2: its commands, its completion, and a model that is told on the command line, compiled and kept.
#include "examples/picture_folder.hpp"
#include "io/refusal.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <vector>

using namespace dm2::test;
namespace fs = std::filesystem;

namespace {

outcome dm2_program(std::vector<std::string> const& words) { return run_program(DM2_DM2, words); }

/// A model that nobody has compiled in: micro for pictures of 32 x 32, of as many classes as there are folders.
std::vector<std::string> const odd_model{"--model", "micro", "--img-size", "32", "--depth", "2", "--attn-layers", "1"};

/// dm2 in a folder of pictures, with a cache of its own.
struct own_cache {
  picture_folder pictures{7};

  [[nodiscard]] outcome run(std::vector<std::string> const& words) const {
    std::vector<std::string> all{"XDG_CACHE_HOME=" + (pictures.folder / "cache").string(), DM2_DM2};
    all.insert(all.end(), words.begin(), words.end());
    return run_program("env", all, pictures.folder.path());
  }
  [[nodiscard]] outcome train(std::vector<std::string> const& more) const {
    std::vector<std::string> words{"train", "data", "-b", "7", "--grad-accum-steps", "1", "--epochs", "1", "-j", "1"};
    words.insert(words.end(), odd_model.begin(), odd_model.end());
    words.insert(words.end(), more.begin(), more.end());
    return run(words);
  }
};

}  // namespace

TEST_CASE("dm2: each command has help, which names its exit codes, and help for it is the same") {
  outcome const all = dm2_program({"--help"});
  CHECK(all.code == 0);
  for (char const* command : {"train", "evaluate", "classify", "convert", "pack", "models", "plot", "make-shapes"}) {
    CAPTURE(command);
    CHECK(contains(all.out, std::string{"\n  "} + command));
    outcome const one = dm2_program({command, "--help"});
    CHECK(one.code == 0);
    CHECK(contains(one.out, "Exit codes:"));
    CHECK(contains(one.out, "Usage: dm2 " + std::string{command}));
    CHECK(dm2_program({"help", command}).out == one.out);
  }
}

TEST_CASE("dm2: what is no command is refused, on stderr, with code 2") {
  for (std::vector<std::string> const& words :
       {std::vector<std::string>{}, {"trian"}, {"help", "trian"}, {"completion"}}) {
    outcome const refused = dm2_program(words);
    CHECK(refused.code == 2);
    CHECK(refused.out == "");
    CHECK(refused.err != "");
  }
}

TEST_CASE("dm2: a message begins with the command's word, whoever says it") {
  scratch_folder const folder;
  write_raw(folder / "m.toml", "dept = 3\n");
  std::vector<std::vector<std::string>> const wrong{
      {"train", "--nonsense"},                                                              // said by CLI11
      {"train", "nowhere", "--processes", "2", "--gpus", "0"},                              // by the command
      {"models", "--compile", (folder / "m.toml").string(), "--device", "cpu"},             // by a file
      {"classify", "--weights", "nowhere.safetensors", "nowhere.png", "--device", "cpu"}};  // by the library
  for (auto const& words : wrong) {
    CAPTURE(words.front());
    outcome const refused = dm2_program(words);
    CHECK(refused.code != 0);
    CHECK(refused.err.starts_with(words.front() + ": "));
  }
}

TEST_CASE("dm2: bash completes commands, and the flags of the command before") {
  scratch_folder const folder;
  write_raw(folder / "complete.sh", "eval \"$(" + quoted(DM2_DM2) + " completion bash)\"\n" + "try() { COMP_WORDS=(" +
                                        quoted(DM2_DM2) + " \"$@\"); COMP_CWORD=$#; _dm2 " + quoted(DM2_DM2) +
                                        "; echo \"${COMPREPLY[*]}\"; }\n" +
                                        "try cl\ntry help mo\ntry train --num-cl\ntry classify --heat\n");
  outcome const got = run_program("bash", {(folder / "complete.sh").string()});
  CHECK(got.err == "");
  CHECK(got.out == "classify\nmodels\n--num-classes\n--heatmap\n");
}

TEST_CASE("dm2: a model that is told is compiled once, trains, and its checkpoint needs no flags") {
  own_cache const here;
  outcome const first = here.train({});
  CAPTURE(first.err);
  REQUIRE(first.code == 0);
  CHECK(contains(first.err, "compiling micro with image 32 x 32, depth 2, classes 7, attn_layers 1, cpu"));
  CHECK(contains(first.err, "compiled in "));
  outcome const again = here.train({"--experiment", "again"});
  CHECK(again.code == 0);
  CHECK(!contains(again.err, "compil"));
  fs::path const runs = here.pictures.folder / "runs";
  CHECK(read_raw(runs / "micro/last.safetensors") == read_raw(runs / "again/last.safetensors"));

  outcome const seen = here.run({"classify", "--weights", "runs/micro/best.safetensors", "data/val/class3/p0.png"});
  CHECK(seen.code == 0);
  CHECK(seen.err == "");
  CHECK(lines_of(seen.out).size() == 6);
  CHECK(here.run({"evaluate", "data", "--weights", "runs/micro/best.safetensors"}).code == 0);
  CHECK(here.run({"train", "data", "--model", "micro", "--resume", "auto", "--epochs", "2", "-j", "1"}).code == 2);
  outcome const longer =
      here.run({"train", "data", "--experiment", "micro", "--resume", "auto", "--epochs", "2", "-j", "1"});
  CAPTURE(longer.err);
  CHECK(longer.code == 0);

  outcome const listed = here.run({"models"});
  CHECK(listed.code == 0);
  CHECK(contains(listed.out, "micro with image 32 x 32, depth 2, classes 7, attn_layers 1, cpu: "));
  CHECK(contains(here.run({"models", "--prune"}).out, "removed the code of 1 model, "));
  CHECK(!contains(here.run({"models"}).out, "micro with image"));
}

TEST_CASE("dm2: a model that breaks a rule is refused by flag and rule before anything is compiled") {
  own_cache const here;
  outcome const refused = here.train({"--dim", "50"});
  CHECK(refused.code == 2);
  CHECK(contains(refused.err, "dm2::config: expand * dim must be a multiple of headdim: --dim 50"));
  CHECK(!fs::exists(here.pictures.folder / "cache"));
  CHECK(!fs::exists(here.pictures.folder / "runs"));
}

TEST_CASE("dm2: a cache where others may write is refused, and says what to do") {
  own_cache const here;
  fs::create_directories(here.pictures.folder / "cache/dm2");
  fs::permissions(here.pictures.folder / "cache/dm2", fs::perms::all);
  outcome const refused = here.train({});
  CHECK(refused.code == 3);
  CHECK(contains(refused.err, "chmod"));
}
