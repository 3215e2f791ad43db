// The program dm2: its commands, its completion, and a model that is told on the command line, compiled and kept.
#include "examples/picture_folder.hpp"
#include "io/refusal.hpp"

#include <doctest/doctest.h>

#include <algorithm>
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

TEST_CASE("dm2: a mistyped command or flag is named alone, with the nearest, whatever else is missing") {
  struct {
    std::vector<std::string> words;
    std::string start;
  } const cases[] = {
      {{"trian"}, "dm2: there is no command trian; the nearest is train\n"},
      {{"help", "modles"}, "dm2: there is no command modles; the nearest is models\n"},
      {{"train", "--epoch", "3", "pictures"}, "train: --epoch is no flag; the nearest is --epochs\n"},
      {{"classify", "--wieghts=a.ckpt", "a.png"}, "classify: --wieghts is no flag; the nearest is --weights\n"},
      {{"plot", "-t", "--title", "a.csv", "--outptu", "b"}, "plot: --outptu is no flag; the nearest is --output\n"}};
  for (auto const& wrong : cases) {
    outcome const refused = dm2_program(wrong.words);
    CHECK(refused.code == 2);
    CHECK(refused.err.substr(0, wrong.start.size()) == wrong.start);
  }
  outcome const negated = dm2_program({"train", "nowhere", "--no-model-ema", "--no-mix-token", "-b", "8"});
  CHECK(contains(negated.err, "nowhere/train: does not exist"));
}

TEST_CASE("dm2: make_shapes is make-shapes, and the examples of a command's help begin with dm2") {
  CHECK(dm2_program({"make_shapes", "--help"}).out == dm2_program({"make-shapes", "--help"}).out);
  for (std::string const command : {"train", "classify", "make-shapes", "plot"}) {
    std::vector<std::string> const lines = lines_of(dm2_program({"help", command}).out);
    auto at = std::find(lines.begin(), lines.end(), "Examples:");
    REQUIRE(at != lines.end());
    REQUIRE(++at != lines.end());
    for (; at != lines.end(); ++at) CHECK(at->starts_with("  dm2 " + command + " "));
  }
}

TEST_CASE("dm2: what is wrong in a file of --config is told with the file's name") {
  scratch_folder const folder;
  std::string const file = (folder / "recipe.toml").string();
  auto const told = [&](std::string const& text, std::string const& what) {
    write_raw(file, text);
    outcome const refused = dm2_program({"train", "nowhere", "--config", file});
    CAPTURE(refused.err);
    CHECK(refused.code == 2);
    CHECK(refused.err.starts_with("train: "));
    CHECK(contains(refused.err, what));
    CHECK(contains(refused.err, file));
  };
  told("epoch = 3\n", file + ": 'epoch' is no flag; the nearest is epochs");
  told("[model]\nlr = 3\n", file + ": 'model.lr' is no flag");
  told("{\"lr\": 0.001}\n", " is no flag");
  told("lr = fast\n", "--lr: fast is not a number of at least 0 (in ");
  told("opt-betas = [0.9, 0.95", file + ": ends inside a list");
  write_raw(file, "; don't [\n# nor [ this\nopt-betas = [0.9, 0.95] # [\nb = 6\n");
  CHECK(contains(dm2_program({"train", "nowhere", "--config", file}).err, "nowhere/train: does not exist"));
}

TEST_CASE("dm2: classes that the model does not have are code 2, as help says") {
  scratch_folder const folder;
  draw_pictures(folder / "data", 14, 1);
  outcome const others =
      dm2_program({"evaluate", (folder / "data").string(), "-w", DM2_QUICK_WEIGHTS, "--device", "cpu"});
  CHECK(others.code == 2);
  CHECK(contains(others.err, "data/class0: is none of the 14 classes, checkered_disc to triangle"));
}

#ifndef DM2_EXAMPLES_CUDA
TEST_CASE("dm2: --gpus is refused by a program without CUDA, which would train on the CPU") {
  own_cache const here;
  outcome const refused = here.train({"--gpus", "0"});
  CHECK(refused.code == 2);
  CHECK(contains(refused.err, "--gpus 0: this program was built without CUDA"));
  CHECK(!fs::exists(here.pictures.folder / "runs"));
}
#endif

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
