#include <dm2/io/class_list.hpp>

#include "io/refusal.hpp"
#include "io/scratch.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <set>
#include <string>
#include <vector>

using dm2::read_class_list;
using namespace dm2::test;

namespace {
struct list_file {
  scratch_folder folder;
  std::filesystem::path path = folder / "names.txt";

  std::vector<std::string> read(std::string_view text) {
    write_raw(path, text);
    return read_class_list(path);
  }
  std::string why(std::string_view text) {
    return refusal(path, [&] { (void)read(text); });
  }
};
using names = std::vector<std::string>;
}  // namespace

TEST_CASE_FIXTURE(list_file, "class list: a name a line, whatever ends the lines and the file") {
  CHECK(read("cat\ngreat white shark\ndog\n") == names{"cat", "great white shark", "dog"});
  CHECK(read("cat\r\n  dog \t\r\n\r\n\n") == names{"cat", "dog"});
  CHECK(read("\xEF\xBB\xBF"
             "cat\ndog") == names{"cat", "dog"});
  CHECK(read("\xC3\xA9t\xC3\xA9") == names{"\xC3\xA9t\xC3\xA9"});
}

TEST_CASE_FIXTURE(list_file, "class list: WordNet numbers are taken off where every line has one") {
  CHECK(read("n01440764\ttench, Tinca tinca\nn01443537\tgoldfish\n") == names{"tench, Tinca tinca", "goldfish"});
  CHECK(read("n01440764 tench, Tinca tinca\nn01443537   goldfish\n") == names{"tench, Tinca tinca", "goldfish"});
  CHECK(read("n01440764\nn01443537\n") == names{"n01440764", "n01443537"});
  CHECK(read("n01440764 tench\nshark\n") == names{"n01440764 tench", "shark"});
  CHECK(read("n0144076 a\nn014407645 b\n") == names{"n0144076 a", "n014407645 b"});
}

TEST_CASE_FIXTURE(list_file, "class list: a line that is no name is refused by its number") {
  CHECK(contains(why("cat\n\ndog\n"), "line 2 is empty"));
  CHECK(contains(why("cat\nd\xFFg\n"), "line 2 is not UTF-8"));
  CHECK(contains(why("cat\ndog\n\x1B[2J\n"), "line 3 has a control character"));
  CHECK(contains(why(std::string{"cat\nd\0g\n", 8}), "line 2 has a control character"));
  CHECK(contains(why(std::string(1001, 'x')), "line 1 is longer"));
  CHECK(contains(why(""), "holds no class name"));
  CHECK(contains(why("\n\n"), "holds no class name"));
  CHECK(contains(why(std::string(1'000'001, '\n')), "is too large"));
}

TEST_CASE_FIXTURE(list_file, "class list: the number of names is held against the model's classes") {
  write_raw(path, "cat\ndog\n");
  CHECK(read_class_list(path, 2).size() == 2);
  CHECK(refusal(path, [&] { (void)read_class_list(path, 3); }) == "has 2 class names, the model has 3 classes");
}

TEST_CASE("class list: the ImageNet list beside the examples has a thousand names in the model's order") {
  std::filesystem::path const path = DM2_GOLDEN_DIR "/../../examples/imagenet_classes.txt";
  auto const list = read_class_list(path, 1000);
  CHECK(list[0] == "tench, Tinca tinca");
  CHECK(list[207] == "golden retriever");
  CHECK(list[281] == "tabby, tabby cat");
  CHECK(list[999] == "toilet tissue, toilet paper, bathroom tissue");
  CHECK(list[134] == "crane");  // the bird
  CHECK(list[517] == "crane");  // the machine
  CHECK(std::set<std::string>(list.begin(), list.end()).size() == 999);
}
