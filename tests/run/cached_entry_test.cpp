#include <dm2/run/cached_entry.hpp>

#include "run/stub_compiler.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <string>

using namespace dm2::test;
using dm2::run::found_entry, dm2::run::find_entry;

namespace {

/// A stated file with the bytes of `object`.
std::filesystem::path stated(scratch_folder const& in, std::string const& object, std::string const& identity) {
  write_raw(in / "entry.so", object);
  dm2::run::entry_statement s{"a title,\nof two lines", identity};
  s.took_ms = 31'234;
  dm2::run::state_entry(in / "entry.so", s, 1'790'000'000);
  return in / "entry.so";
}

}  // namespace

TEST_CASE("cached entry: says what it was told, and its object stands first") {
  private_scratch const scratch;
  for (std::size_t const size : {1u, 7u, 262'143u, 262'144u, 262'145u}) {
    std::string const object(size, 'o'), identity = std::string{"two\nlines\nidentity\n\xff\0end", 24};
    auto const path = stated(scratch, object, identity);
    found_entry const found = find_entry(path);
    REQUIRE(found.state == found_entry::kind::whole);
    CHECK(found.statement.title == "a title, of two lines");
    CHECK(found.statement.identity == identity);
    CHECK(found.statement.bytes == size);
    CHECK(found.statement.made == 1'790'000'000);
    CHECK(found.statement.took_ms == 31'234);
    CHECK(read_raw(path).substr(0, size) == object);
  }
}

TEST_CASE("cached entry: every changed byte and every truncation is found out") {
  private_scratch const scratch;
  auto const path = stated(scratch, "the object's bytes", "identity");
  std::string const good = read_raw(path);
  auto const is_bad = [&](std::string const& bytes) {
    write_raw(path, bytes);
    return find_entry(path).state == found_entry::kind::bad;
  };
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::string changed = good;
    changed[i] = char(changed[i] ^ 4);
    CHECK(is_bad(changed));
    CHECK(is_bad(good.substr(0, i)));
  }
  CHECK(is_bad(good + '\n'));
  CHECK_FALSE(is_bad(good));
}

TEST_CASE("cached entry: a link, a folder and a file that others may write are no entries") {
  private_scratch const scratch;
  auto const path = stated(scratch, "object", "identity");
  std::filesystem::create_symlink(path, scratch / "link.so");
  CHECK(find_entry(scratch / "link.so").problem == "is a link");
  std::filesystem::create_directory(scratch / "folder.so");
  CHECK(find_entry(scratch / "folder.so").problem == "is no regular file");
  ::chmod(path.c_str(), 0620);
  CHECK(find_entry(path).problem == "may be written by others (mode 0620)");
  CHECK(find_entry(scratch / "none.so").state == found_entry::kind::missing);
}

TEST_CASE("cached entry: no file and an empty file of the linker are refused") {
  private_scratch const scratch;
  dm2::run::entry_statement s{"title", "identity"};
  CHECK_THROWS_AS(dm2::run::state_entry(scratch / "none.so", s, 0), dm2::file_error);
  write_raw(scratch / "empty.so", "");
  CHECK_THROWS_AS(dm2::run::state_entry(scratch / "empty.so", s, 0), dm2::file_error);
}
