/// @file
/// Listing picture files.
#include <dm2/core/error.hpp>
#include <dm2/data/image_folder.hpp>

#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "data/golden_images.hpp"

using namespace dm2;
using namespace dm2::test;
namespace fs = std::filesystem;

namespace {

/// The listed paths relative to root, with '/'.
std::vector<std::string> listed(std::vector<fs::path> const& found, fs::path const& root) {
  std::vector<std::string> names;
  for (fs::path const& p : found) names.push_back(p.lexically_relative(root).generic_string());
  return names;
}

struct tree : scratch_folder {
  tree() {
    fs::create_directories(path() / "b" / "deep");
    fs::create_directories(path() / "empty");
    for (char const* name : {"z.png", "a.JPG", "b/deep/1.Jpeg", "b/2.PnG", "b/notes.txt", "b/png", "c.jpg.bak"})
      write_file(path() / name, "x");
  }
};

}  // namespace

TEST_CASE("list_images: folders are walked to the bottom, by extension in any case, sorted") {
  tree const t;
  CHECK(listed(list_images(t.path()), t.path()) ==
        std::vector<std::string>{"a.JPG", "b/2.PnG", "b/deep/1.Jpeg", "z.png"});
}

TEST_CASE("list_images: several paths keep their order, and a file named is taken whatever its name") {
  tree const t;
  std::vector<fs::path> const asked{t.path() / "z.png", t.path() / "b", t.path() / "b" / "notes.txt"};
  CHECK(listed(list_images(asked), t.path()) ==
        std::vector<std::string>{"z.png", "b/2.PnG", "b/deep/1.Jpeg", "b/notes.txt"});
  CHECK(list_images(std::span<fs::path const>{}).empty());
}

TEST_CASE("list_images: hidden files and folders are passed over, unless they are named") {
  tree const t;
  for (char const* folder : {".hidden", "__MACOSX", "@eaDir"}) {
    fs::create_directories(t.path() / "b" / folder);
    write_file(t.path() / "b" / folder / "x.png", "x");
  }
  write_file(t.path() / "b/._2.png", "x");
  fs::create_symlink(t.path() / "z.png", t.path() / ".link.png");
  CHECK(listed(list_images(t.path() / "b"), t.path()) == std::vector<std::string>{"b/2.PnG", "b/deep/1.Jpeg"});
  CHECK(listed(list_images(t.path() / "b/._2.png"), t.path()) == std::vector<std::string>{"b/._2.png"});
  CHECK(listed(list_images(t.path() / "b/.hidden"), t.path()) == std::vector<std::string>{"b/.hidden/x.png"});
}

TEST_CASE("list_images: links are followed, and loops of them end") {
  tree const t;
  fs::create_directory_symlink(t.path(), t.path() / "b" / "deep" / "up");
  fs::create_directory_symlink(".", t.path() / "b" / "self");
  fs::create_symlink(t.path() / "z.png", t.path() / "link.png");
  scratch_folder const elsewhere;
  write_file(elsewhere.path() / "far.png", "x");
  fs::create_directory_symlink(elsewhere.path(), t.path() / "y");
  CHECK(listed(list_images(t.path()), t.path()) ==
        std::vector<std::string>{"a.JPG", "b/2.PnG", "b/deep/1.Jpeg", "link.png", "y/far.png", "z.png"});
}

TEST_CASE("list_images: a folder that many links lead to is listed once") {
  scratch_folder const root;
  for (int i = 0; i < 40; ++i) {  // 2^40 ways from the first to the last
    fs::path const here = root.path() / std::to_string(i);
    fs::create_directory(here);
    write_file(here / "one.png", "x");
    for (char const* link : {"p", "q"})
      fs::create_directory_symlink(root.path() / std::to_string((i + 1) % 40), here / link);
  }
  CHECK(list_images(root.path()).size() == 40);
  CHECK(list_images(root.path() / "0").size() == 40);
}

TEST_CASE("list_images: what is missing or holds no picture is named") {
  tree const t;
  for (auto const& [name, reason] : {std::pair{"nothing", "does not exist"}, {"empty", "has no .jpg, .jpeg or .png"}}) {
    fs::path const path = t.path() / name;
    try {
      (void)list_images(std::vector<fs::path>{t.path(), path});
      FAIL("expected file_error");
    } catch (file_error const& e) {
      CHECK(e.path() == path);
      CHECK(std::string{e.what()}.find(reason) != std::string::npos);
    }
  }
}
