/// @file
/// Class folders, and the samples in them.
#include <dm2/core/error.hpp>
#include <dm2/data/dataset.hpp>
#include <dm2/data/natural_order.hpp>

#include <doctest/doctest.h>

#include "data/golden_images.hpp"
#include "io/refusal.hpp"

#include <algorithm>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

using namespace dm2;
using namespace dm2::test;
namespace fs = std::filesystem;

namespace {

/// A folder with empty files of these names.
struct tree : scratch_folder {
  explicit tree(std::vector<std::string> const& names) {
    for (std::string const& name : names) {
      fs::create_directories((path() / name).parent_path());
      write_file(path() / name, "");
    }
  }
};

std::vector<std::string> names_of(dataset const& set) { return {set.class_names().begin(), set.class_names().end()}; }

/// "LABEL relative/path" of every sample.
std::vector<std::string> samples_of(dataset const& set) {
  std::vector<std::string> out;
  for (std::size_t i = 0; i < set.size(); ++i)
    out.push_back(std::to_string(set.label(i)) + " " + set.image(i).lexically_relative(set.root()).generic_string());
  return out;
}

}  // namespace

TEST_CASE("natural_less: sorts numbers by value, text without case, as timm's natural_key does") {
  // sorted(names, key=lambda s: [int(x) if x.isdigit() else x for x in re.split(r'(\d+)', s.lower())]) in Python
  std::vector<std::string> const want{"",
                                      "2",
                                      "10",
                                      "0300",
                                      "a",
                                      "a1",
                                      "A2",
                                      "a2b",
                                      "a10",
                                      "a10b9",
                                      "a10b10",
                                      "a-1",
                                      "class",
                                      "class2",
                                      "Class10",
                                      "class99999999999999999999",
                                      "class100000000000000000000",
                                      "z"};
  std::vector<std::string> got = want;
  std::reverse(got.begin(), got.end());
  std::sort(got.begin(), got.end(), natural_less);
  CHECK(got == want);
}

TEST_CASE("natural_less: names that differ in leading zeros or case alone still have one order") {
  for (auto const& [a, b] : {std::pair{"a01", "a1"}, {"A1", "a1"}, {"a1B", "a1b"}, {"a001", "a01"}}) {
    CHECK(natural_less(a, b));
    CHECK_FALSE(natural_less(b, a));
    CHECK_FALSE(natural_less(a, a));
  }
}

TEST_CASE("class_folders: natural or plain order, files and hidden folders passed over, links followed") {
  tree const t{{"class10/a.png", "class2/a.png", "file.png", ".cache/a.png"}};
  scratch_folder const elsewhere;
  fs::create_directory_symlink(elsewhere.path(), t.path() / "class1");
  CHECK(class_folders(t.path()) == std::vector<std::string>{"class1", "class2", "class10"});
  CHECK(class_folders(t.path(), class_order::plain) == std::vector<std::string>{"class1", "class10", "class2"});
}

TEST_CASE("dataset: what other systems leave in a set is neither a class nor a sample, at any depth") {
  tree const t{{"c1/a.png", "c1/._a.png", "c1/.hidden/b.png", "c1/@eaDir/a.png/thumb.png", "c1/deep/__MACOSX/x.png",
                "c1/deep/b.png", "c1/Thumbs.db", "c1/.DS_Store", "__MACOSX/c1/a.png", "@eaDir/a.png", ".git/a.png",
                "c2/.png", "c2/c.png"}};
  dataset const set{t.path()};
  CHECK(samples_of(set) == std::vector<std::string>{"0 c1/a.png", "0 c1/deep/b.png", "1 c2/c.png"});
}

TEST_CASE("dataset: classes without a sample are named, in the order of their numbers") {
  tree const t{{"c10/notes.txt", "c2/a.png", "c1/._a.png"}};
  CHECK(dataset{t.path()}.empty_classes() == std::vector<std::string>{"c1", "c10"});
  CHECK(dataset{t.path(), {.classes = {"c1", "c2", "c10", "c3"}}}.empty_classes() ==
        std::vector<std::string>{"c1", "c10", "c3"});
}

TEST_CASE("dataset: the fingerprint tells names and classes apart, not folders") {
  std::vector<std::string> const names{"c1/a.png", "c1/b.png", "c2/c.png"};
  tree const one{names}, same{names}, renamed{{"c1/a.png", "c1/bb.png", "c2/c.png"}},
      moved{{"c1/a.png", "c2/b.png", "c2/c.png"}}, fewer{{"c1/a.png", "c2/c.png"}},
      classes{{"c1/a.png", "c1/b.png", "c3/c.png"}}, joined{{"c1/a.pngb.png", "c2/c.png"}};
  auto const want = dataset{one.path()}.fingerprint();
  CHECK(dataset{same.path()}.fingerprint() == want);
  for (tree const* other : {&renamed, &moved, &fewer, &classes, &joined})
    CHECK(dataset{other->path()}.fingerprint() != want);
  CHECK(dataset{one.path(), {.classes = {"c2", "c1"}}}.fingerprint() != want);
}

TEST_CASE("dataset: samples are sorted by class and path, by extension in any case, however deep") {
  tree const t{{"c10/z.png", "c2/b.JPG", "c2/a.jpeg", "c2/deep/er/x.PNG", "c2/notes.txt", "c1/a.b.png"}};
  for (int threads : {1, 3}) {
    dataset const set{t.path(), {.threads = threads}};
    CHECK(set.classes() == 3);
    CHECK(names_of(set) == std::vector<std::string>{"c1", "c2", "c10"});
    CHECK(samples_of(set) ==
          std::vector<std::string>{"0 c1/a.b.png", "1 c2/a.jpeg", "1 c2/b.JPG", "1 c2/deep/er/x.PNG", "2 c10/z.png"});
    CHECK(set.samples_of(1) == 3);
    CHECK_FALSE(set.has_label_maps());
    CHECK_THROWS_AS((void)set.label_map(0), std::logic_error);
  }
}

TEST_CASE("dataset: a root with a slash at its end names the same files") {
  tree const t{{"a/x.png"}};
  dataset const set{t.path() / ""};
  CHECK(set.image(0) == t.path() / "a" / "x.png");
}

TEST_CASE("dataset: label maps are named by the picture's name up to its first dot") {
  tree const t{{"n.1/plain.jpg", "n.1/two.dots.JPEG", "n.1/sub.d/x.y.png"}};
  dataset const set{t.path(), {.label_maps = "/maps"}};
  REQUIRE(set.size() == 3);
  CHECK(set.has_label_maps());
  CHECK(set.label_map(0) == fs::path{"/maps/n.1/plain.pt"});
  CHECK(set.label_map(1) == fs::path{"/maps/n.1/sub.d/x.pt"});
  CHECK(set.label_map(2) == fs::path{"/maps/n.1/two.pt"});
}

TEST_CASE("dataset: with given classes indices are theirs, and classes may have no folder") {
  tree const t{{"class10/a.png", "class2/a.png", "class2/b.png"}};
  dataset const set{t.path(), {.classes = {"class2", "absent", "class10", "last"}}};
  CHECK(set.classes() == 4);
  CHECK(samples_of(set) == std::vector<std::string>{"0 class2/a.png", "0 class2/b.png", "2 class10/a.png"});
  CHECK(set.samples_of(1) == 0);
  CHECK(set.samples_of(3) == 0);
}

TEST_CASE("dataset: a class folder that is not among the given classes is named") {
  tree const t{{"a/a.png", "b/a.png"}};
  std::string const why = refusal(t.path() / "b", [&] { dataset{t.path(), {.classes = {"a", "c"}}}; });
  CHECK(contains(why, "is none of the 2 classes"));
  CHECK_THROWS_AS((dataset{t.path(), {.classes = {"a", "c"}}}), unknown_class);
  CHECK_THROWS_AS((dataset{t.path(), {.classes = {"a", "b", "a"}}}), std::invalid_argument);
}

TEST_CASE("dataset: an empty class is a class; a root without folders or pictures is refused") {
  tree const t{{"a/notes.txt", "b/a.png"}};
  dataset const set{t.path()};
  CHECK(names_of(set) == std::vector<std::string>{"a", "b"});
  CHECK(set.samples_of(0) == 0);
  CHECK(set.label(0) == 1);
  tree const no_pictures{{"a/notes.txt"}}, no_folders{{"a.png"}};
  auto const refused = [](fs::path const& p) { return refusal(p, [&] { dataset{p}; }); };
  CHECK(contains(refused(no_pictures.path()), "has no .jpg, .jpeg or .png file"));
  CHECK(contains(refused(no_folders.path()), "has no class folder"));
  CHECK(contains(refused(t.path() / "missing"), "cannot be listed"));
}

TEST_CASE("dataset: the list takes about the characters of its names") {
  std::vector<std::string> names;
  for (int i = 0; i < 2000; ++i)
    names.push_back("n0" + std::to_string(i % 20) + "/picture_" + std::to_string(10000 + i) + ".png");
  tree const t{names};
  dataset const set{t.path()};
  CHECK(set.size() == 2000);
  CHECK(set.bytes() <= 2000 * (17 + sizeof(std::size_t)) + 1000);
}
