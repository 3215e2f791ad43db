#include <dm2/io/atomic_file.hpp>

#include "io/scratch.hpp"

#include <doctest/doctest.h>

#include <csignal>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include <sys/resource.h>
#include <sys/stat.h>

using namespace dm2::test;

namespace {
std::span<std::byte const> bytes(std::string const& s) { return std::as_bytes(std::span{s}); }

/// No file may grow past `limit` bytes while this lives: writing on then fails as on a full disk.
struct file_size_limit {
  explicit file_size_limit(rlim_t limit) {
    std::signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    rlimit const now{limit, before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &now);
  }
  ~file_size_limit() { setrlimit(RLIMIT_FSIZE, &before); }
  rlimit before{};
};
}  // namespace

TEST_CASE("atomic_file: shows the old content until commit, the new one after it, and leaves nothing else") {
  scratch_folder const folder;
  write_raw(folder / "f", "old");
  {
    dm2::atomic_file file{folder / "f"};
    file.write(bytes("new "));
    file.write(bytes("content"));
    CHECK(read_raw(folder / "f") == "old");
    file.commit();
    CHECK(read_raw(folder / "f") == "new content");
  }
  CHECK(read_raw(folder / "f") == "new content");
  CHECK(folder.files() == 1);
}

TEST_CASE("atomic_file: without commit the old file stays, and nothing else") {
  scratch_folder const folder;
  write_raw(folder / "f", "old");
  {
    dm2::atomic_file file{folder / "f"};
    file.write(bytes("half"));
    dm2::atomic_file other{folder / "g"};
    CHECK(folder.files() == 3);
  }
  CHECK(read_raw(folder / "f") == "old");
  CHECK(folder.files() == 1);
}

TEST_CASE("atomic_file: a write that fails leaves the old file whole and names the target") {
  scratch_folder const folder;
  write_raw(folder / "f", "old");
  std::string const much(100'000, 'x');
  try {
    file_size_limit const limit{1000};
    dm2::atomic_file file{folder / "f"};
    file.write(bytes(much));
    FAIL("the write should have failed");
  } catch (dm2::file_error const& error) {
    CHECK(error.path() == folder / "f");
    CHECK(std::string{error.what()}.find("cannot be written") != std::string::npos);
  }
  CHECK(read_raw(folder / "f") == "old");
  CHECK(folder.files() == 1);
}

TEST_CASE("atomic_file: two writers of one name do not meet") {
  scratch_folder const folder;
  dm2::atomic_file one{folder / "f"}, two{folder / "f"};
  one.write(bytes("one"));
  two.write(bytes("two"));
  one.commit();
  CHECK(read_raw(folder / "f") == "one");
  two.commit();
  CHECK(read_raw(folder / "f") == "two");
}

TEST_CASE("atomic_file: follows a link, and refuses folders, devices and missing folders") {
  scratch_folder const folder;
  write_raw(folder / "real", "old");
  std::filesystem::create_symlink("real", folder / "link");
  {
    dm2::atomic_file file{folder / "link"};
    file.write(bytes("new"));
    file.commit();
  }
  CHECK(std::filesystem::is_symlink(folder / "link"));
  CHECK(read_raw(folder / "real") == "new");
  CHECK_THROWS_AS(dm2::atomic_file{folder.path()}, dm2::file_error);
  CHECK_THROWS_AS(dm2::atomic_file{"/dev/null"}, dm2::file_error);
  CHECK_THROWS_AS(dm2::atomic_file{folder / "none/f"}, dm2::file_error);
  CHECK(folder.files() == 2);
}

TEST_CASE("atomic_file: the mode of a file that is replaced is kept, whatever the umask") {
  scratch_folder const folder;
  using std::filesystem::perms;
  ::mode_t const before = ::umask(022);
  for (perms const mode : {perms{0600}, perms{0640}, perms{0666}, perms{0444}, perms{0755}}) {
    CAPTURE(int(mode));
    write_raw(folder / "f", "old");
    std::filesystem::permissions(folder / "f", mode);
    dm2::atomic_file file{folder / "f"};
    file.write(bytes("new"));
    file.commit();
    CHECK(std::filesystem::status(folder / "f").permissions() == mode);
    CHECK(read_raw(folder / "f") == "new");
  }
  dm2::atomic_file fresh{folder / "g"};
  fresh.commit();
  CHECK(std::filesystem::status(folder / "g").permissions() == perms{0644});
  ::umask(before);
}

TEST_CASE("atomic_file: a link that leads to no file is followed, and a ring of links is refused") {
  scratch_folder const folder;
  std::filesystem::create_directory(folder / "sub");
  std::filesystem::create_symlink("sub/second", folder / "first");
  std::filesystem::create_symlink("real", folder / "sub/second");
  {
    dm2::atomic_file file{folder / "first"};
    CHECK(file.target() == folder / "sub/real");
    file.write(bytes("new"));
    file.commit();
  }
  CHECK(std::filesystem::is_symlink(folder / "first"));
  CHECK(std::filesystem::is_symlink(folder / "sub/second"));
  CHECK(read_raw(folder / "first") == "new");
  std::filesystem::create_symlink("ring", folder / "ring");
  CHECK_THROWS_AS(dm2::atomic_file{folder / "ring"}, dm2::file_error);
}
