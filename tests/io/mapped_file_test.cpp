#include <dm2/io/mapped_file.hpp>

#include "io/scratch.hpp"

#include <doctest/doctest.h>

#include <string>
#include <utility>

using namespace dm2::test;

namespace {
std::string content(dm2::mapped_file const& file) {
  return {reinterpret_cast<char const*>(file.bytes().data()), file.bytes().size()};
}
}  // namespace

TEST_CASE("mapped_file: gives the file's bytes, and none for an empty file") {
  scratch_folder const folder;
  std::string const bytes = std::string{"a\0b\n", 4} + std::string(100'000, 'x');
  write_raw(folder / "some", bytes);
  write_raw(folder / "empty", "");
  CHECK(content(dm2::mapped_file{folder / "some"}) == bytes);
  CHECK(dm2::mapped_file{folder / "empty"}.bytes().empty());
}

TEST_CASE("mapped_file: moving keeps the bytes where they are") {
  scratch_folder const folder;
  write_raw(folder / "one", "first");
  write_raw(folder / "two", "second");
  dm2::mapped_file one{folder / "one"}, two{folder / "two"};
  auto const* const at = two.bytes().data();
  one = std::move(two);
  CHECK(one.bytes().data() == at);
  CHECK(content(one) == "second");
  CHECK(one.path() == folder / "two");
  dm2::mapped_file const three{std::move(one)};
  CHECK(three.bytes().data() == at);
  CHECK(content(three) == "second");
}

TEST_CASE("mapped_file: refuses what is missing or no regular file, and names it") {
  scratch_folder const folder;
  auto const missing = folder / "missing";
  CHECK_THROWS_WITH_AS(dm2::mapped_file{missing},
                       (missing.string() + ": cannot be opened: No such file or directory").c_str(), dm2::file_error);
  CHECK_THROWS_WITH_AS(dm2::mapped_file{folder.path()}, (folder.path().string() + ": is a folder, not a file").c_str(),
                       dm2::file_error);
  if (std::filesystem::exists("/dev/zero")) CHECK_THROWS_AS(dm2::mapped_file{"/dev/zero"}, dm2::file_error);
}

TEST_CASE("mapped_file: a file that is read keeps its bytes when another program cuts it in place") {
  scratch_folder const folder;
  std::string const whole(100'000, 'x');
  write_raw(folder / "f", whole);
  dm2::mapped_file const file{folder / "f"};
  std::filesystem::resize_file(folder / "f", 10);
  CHECK(content(file) == whole);
}

TEST_CASE("mapped_file: beyond the size up to which it is read a file is mapped, and gives the same bytes") {
  scratch_folder const folder;
  write_raw(folder / "f", std::string(5000, 'y'));
  for (std::size_t const most : {std::size_t{0}, std::size_t{4999}, std::size_t{5000}}) {
    dm2::mapped_file first{folder / "f", most};
    dm2::mapped_file const second{std::move(first)};
    CHECK(content(second) == std::string(5000, 'y'));
  }
}
