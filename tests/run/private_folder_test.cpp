#include <dm2/run/private_folder.hpp>

#include "run/stub_compiler.hpp"

#include <doctest/doctest.h>

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>

using namespace dm2::test;
namespace fs = std::filesystem;

namespace {

fs::path folder_of(scratch_folder const& in, std::string const& name, ::mode_t mode) {
  fs::create_directory(in / name);
  REQUIRE(::chmod((in / name).c_str(), mode) == 0);
  return in / name;
}

std::string refusal(fs::path const& folder) {
  return message_of<dm2::file_error>([&] { (void)dm2::run::detail::make_private(folder); });
}

}  // namespace

TEST_CASE("cache folder: is made for the user alone, with the folders above it, whatever the umask") {
  private_scratch const scratch;
  ::mode_t const before = ::umask(0);
  dm2::run::detail::make_private(scratch / "a" / "b");
  ::umask(before);
  for (fs::path const& made : {scratch / "a", scratch / "a" / "b"})
    CHECK(fs::status(made).permissions() == fs::perms::owner_all);
}

TEST_CASE("cache folder: one that its group or everybody may write is refused, and the message says what to do") {
  private_scratch const scratch;
  fs::path const group = folder_of(scratch, "group", 0770), all = folder_of(scratch, "all", 01777);
  CHECK(has(refusal(group), "its group (mode 0770): chmod go-w " + group.string()));
  CHECK(has(refusal(all), "everybody (mode 1777): chmod go-w " + all.string()));
  CHECK(has(refusal(all), "XDG_CACHE_HOME"));
}

TEST_CASE("cache folder: one below a folder that others may write is refused, unless that one has the sticky bit") {
  private_scratch const scratch;
  fs::path const open = folder_of(scratch, "open", 0777), sticky = folder_of(scratch, "sticky", 01777);
  CHECK(has(refusal(open / "dm2"), open.string() + " may be written by everybody"));
  CHECK_FALSE(fs::exists(open / "dm2"));
  CHECK(dm2::run::detail::make_private(sticky / "dm2") == sticky / "dm2");
}

TEST_CASE("cache folder: a file in its place is refused") {
  private_scratch const scratch;
  write_raw(scratch / "file", "text");
  CHECK(has(refusal(scratch / "file"), "is no folder"));
  CHECK(has(refusal(scratch / "file" / "dm2"), "is no folder"));
}

TEST_CASE("cache folder: the user's own links are followed, and what they lead to is checked") {
  private_scratch const scratch;
  fs::path const good = folder_of(scratch, "good", 0700), bad = folder_of(scratch, "bad", 0777);
  fs::create_directory_symlink(good, scratch / "to_good");
  fs::create_directory_symlink("bad", scratch / "to_bad");
  fs::create_directory_symlink("loop", scratch / "loop");
  CHECK(dm2::run::detail::make_private(scratch / "to_good" / "x") == good / "x");
  CHECK(has(refusal(scratch / "to_bad" / "x"), bad.string() + " may be written"));
  CHECK(has(refusal(scratch / "loop"), "cannot be followed"));
}

TEST_CASE("cache folder: another user's folder is refused, below it too, and so is another user's link") {
  if (::geteuid() != 0) return;  // only root can give a folder away
  private_scratch const scratch;
  fs::path const theirs = folder_of(scratch, "theirs", 0755), mine = folder_of(scratch, "mine", 0755);
  REQUIRE(::chown(theirs.c_str(), 4321, 4321) == 0);
  CHECK(has(refusal(theirs), "belongs to user 4321, not to you (user 0)"));
  CHECK(has(refusal(theirs / "dm2"), theirs.string() + " belongs to user 4321"));
  fs::create_directory_symlink(mine, scratch / "link");
  REQUIRE(::lchown((scratch / "link").c_str(), 4321, 4321) == 0);
  CHECK(has(refusal(scratch / "link"), "is a link of user 4321"));
}
