#include <dm2/run/cache.hpp>

#include "run/stub_compiler.hpp"

#include <doctest/doctest.h>

#include <sys/stat.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

using namespace dm2::test;
namespace fs = std::filesystem;

TEST_CASE("cache: a model is compiled once, all its units are in it, and two lines say so") {
  stub_cache c;
  fs::path const path = c.make();
  CHECK(read_raw(path).starts_with("first of one\nsecond\n"));
  CHECK(c.compiled() == 2);  // units
  REQUIRE(c.said.size() == 2);
  CHECK(c.said[0] == "compiling model one, to be kept in " + path.string());
  CHECK(has(c.said[1], "compiled in "));
  CHECK(c.make() == path);
  CHECK(c.models.find("one") == path);
  CHECK(c.compiled() == 2);
  CHECK(c.said.size() == 2);
  CHECK(c.files() == std::vector<std::string>{path.filename().string()});
  CHECK(fs::status(path).permissions() == (fs::perms::owner_read | fs::perms::owner_write));
}

TEST_CASE("cache: another identity is another entry, and looking for one makes nothing") {
  stub_cache c;
  CHECK_FALSE(c.models.find("one"));
  CHECK_FALSE(fs::exists(c.folder));
  CHECK(c.make("one") != c.make("two"));
  CHECK_FALSE(c.models.find("three"));
  CHECK(c.files().size() == 2);
}

TEST_CASE("cache: a damaged, truncated or empty entry is made again, and the line says why") {
  stub_cache c;
  fs::path const path = c.make();
  std::string const good = read_raw(path);
  std::string damaged = good;
  damaged[3] = '?';
  for (std::string const& bad : {damaged, good.substr(0, good.size() / 2), std::string{}}) {
    write_raw(path, bad);
    c.said.clear();
    CHECK_FALSE(c.models.find("one"));
    CHECK(c.make() == path);
    CHECK(read_raw(path).starts_with("first of one\nsecond\n"));
    REQUIRE(c.said.size() == 2);
    CHECK(has(c.said[0], "(what is there is "));
    CHECK(c.files().size() == 1);
  }
}

TEST_CASE("cache: another model's entry under this name is made again") {
  stub_cache c;
  fs::path const one = c.make("one"), two = c.make("two");
  fs::copy_file(two, one, fs::copy_options::overwrite_existing);
  CHECK_FALSE(c.models.find("one"));
  CHECK(c.make("one") == one);
  CHECK(read_raw(one).starts_with("first of one\n"));
  CHECK(c.models.find("two") == two);
}

TEST_CASE("cache: a link in an entry's place is replaced, and what it leads to is left alone") {
  stub_cache c;
  fs::path const path = c.make();
  fs::rename(path, c.scratch / "elsewhere");
  std::string const before = read_raw(c.scratch / "elsewhere");
  fs::create_symlink(c.scratch / "elsewhere", path);
  CHECK(c.make() == path);
  CHECK(fs::is_regular_file(fs::symlink_status(path)));
  CHECK(read_raw(c.scratch / "elsewhere") == before);
}

TEST_CASE("cache: a folder in an entry's place is replaced") {
  stub_cache c;
  fs::path const path = c.make();
  fs::remove(path);
  fs::create_directory(path);
  write_raw(path / "file", "text");
  CHECK(c.make() == path);
  CHECK(c.whole(path));
}

TEST_CASE("cache: identities of one hash live side by side, and eight of them are the most") {
  stub_cache c;
  c.models = dm2::run::cache{c.folder, [](std::string_view) { return std::uint64_t{7}; }};
  std::vector<fs::path> paths;
  for (int i = 0; i < 8; ++i) paths.push_back(c.make("model " + std::to_string(i)));
  for (int i = 0; i < 8; ++i) CHECK(c.models.find("model " + std::to_string(i)) == paths[std::size_t(i)]);
  CHECK(paths[1].filename() == "0000000000000007-1.so");
  CHECK(c.make("one more") == paths[0]);  // over the first
  CHECK(c.files().size() == 8);
}

TEST_CASE("cache: a compiler that fails is told with its command, exit code and message, and nothing changes") {
  stub_cache c;
  auto const request = stub_request(c.counted, "one", R"(echo "unit: error: no such thing" >&2; exit 3)");
  std::string const what = message_of<dm2::run::compile_error>([&] { c.make(request); });
  CHECK(has(what, "model one cannot be compiled: /bin/sh -c "));
  CHECK(has(what, "ended with exit code 3:\nunit: error: no such thing"));
  CHECK(c.files().empty());
  write_raw(c.folder / "0123456789abcdef.so", "not mine to judge");
  CHECK_THROWS_AS(c.make(request), dm2::run::compile_error);
  CHECK(c.files() == std::vector<std::string>{"0123456789abcdef.so"});
}

TEST_CASE("cache: of a long message the first thirty lines are told") {
  stub_cache c;
  auto const request =
      stub_request(c.counted, "one", "i=0; while [ $i -lt 99 ]; do i=$((i+1)); echo line $i; done; exit 1");
  std::string const what = message_of<dm2::run::compile_error>([&] { c.make(request); });
  CHECK(has(what, "line 30"));
  CHECK_FALSE(has(what, "line 31"));
}

TEST_CASE("cache: a compiler that is killed, one that is not there, and a linker that writes nothing are told apart") {
  stub_cache c;
  auto const killed = stub_request(c.counted, "one", "kill -9 $$");
  CHECK(has(message_of<dm2::run::compile_error>([&] { c.make(killed); }), "was ended by signal 9"));
  auto none = stub_request(c.counted);
  none.compile = {"/no/such/compiler"};
  CHECK(
      has(message_of<dm2::run::compile_error>([&] { c.make(none); }), "cannot be started: No such file or directory"));
  auto idle = stub_request(c.counted);
  idle.link = {"/bin/true"};
  CHECK(has(message_of<dm2::file_error>([&] { c.make(idle); }), "the linker has left no file"));
  CHECK(c.files().empty());
}

TEST_CASE("cache: the compiler runs in the unfinished folder, with its TMPDIR there and nothing to read") {
  stub_cache c;
  auto const request = stub_request(c.counted, "one", R"(pwd > "$0"; echo $TMPDIR >> "$0"; cat >> "$0"; cp "$2" "$4")");
  std::string const key = c.make(request).stem().string(), line = (c.folder / (key + ".part")).string() + "\n";
  CHECK(has(read_raw(c.counted), line + line));
  CHECK_FALSE(fs::exists(c.folder / (key + ".part")));
}

TEST_CASE("cache: the request's check is asked before compiling and after, and nothing is kept where it throws") {
  stub_cache c;
  auto request = stub_request(c.counted);
  for (int const allowed : {0, 1}) {
    int asked = 0;
    request.check = [&] {
      if (asked++ == allowed) throw std::runtime_error{"other headers"};
    };
    CHECK(message_of<std::runtime_error>([&] { c.make(request); }) == "other headers");
    CHECK(c.compiled() == std::size_t(2 * allowed));
    CHECK(c.files().empty());
  }
}

TEST_CASE("cache: requests that are none are refused by name") {
  stub_cache c;
  auto const refused = [&](auto const& change) {
    auto request = stub_request(c.counted);
    change(request);
    return message_of<std::invalid_argument>([&] { c.make(request); });
  };
  CHECK(has(refused([](auto& r) { r.units.clear(); }), "has no units"));
  CHECK(has(refused([](auto& r) { r.units[0].name = "../up.cpp"; }), "unit \"../up.cpp\" is no plain name"));
  CHECK(has(refused([](auto& r) { r.units[0].name = "-o.cpp"; }), "is no plain name"));
  CHECK(has(refused([](auto& r) { r.units[0].name = "second.cpp"; }), "two units are called \"second.cpp\""));
  CHECK_FALSE(fs::exists(c.folder));
}

TEST_CASE("cache: lists its entries, damaged ones too, and nothing else") {
  stub_cache c;
  CHECK(c.models.list().empty());
  fs::path const two = c.make("two"), one = c.make("one"), three = c.make("three");
  write_raw(three, "damaged");
  write_raw(c.folder / "notes.txt", "mine");
  auto const listed = c.models.list();
  REQUIRE(listed.size() == 3);
  CHECK(listed[0].path == three);
  CHECK_FALSE(listed[0].problem.empty());
  CHECK(listed[1].statement.title == "model one");
  CHECK(listed[2].statement.title == "model two");
  CHECK(listed[1].bytes == fs::file_size(one));
  CHECK(listed[1].problem.empty());
  CHECK(listed[2].path == two);
}

TEST_CASE("cache: pruning removes what is picked, counts it, and leaves other files") {
  stub_cache c;
  CHECK(c.models.prune().models == 0);
  c.make("one");
  fs::path const two = c.make("two");
  auto const bytes = fs::file_size(two);
  write_raw(c.folder / "notes.txt", "mine");
  auto const picked = c.models.prune([](auto const& m) { return m.statement.identity == "two"; });
  CHECK(picked.models == 1);
  CHECK(picked.bytes == bytes);
  CHECK(c.models.find("one"));
  CHECK(c.models.prune().models == 1);
  CHECK(c.files() == std::vector<std::string>{"notes.txt"});
}

TEST_CASE("cache: what a loss of power left is swept by the next one that compiles") {
  stub_cache c;
  fs::path const path = c.make();
  std::string const key = path.stem().string();
  fs::remove(path);
  for (std::string const& of : {key, std::string(16, 'a')}) {
    fs::create_directories(c.folder / (of + ".part") / "deeper");
    write_raw(c.folder / (of + ".part") / "deeper" / "object.o", "half");
    write_raw(c.folder / (of + ".lock"), "");
  }
  fs::create_directory_symlink(c.scratch.path(), c.folder / (key + ".part") / "link");
  CHECK(c.make() == path);
  CHECK(c.files() == std::vector<std::string>{path.filename().string()});
  CHECK(fs::exists(c.counted));  // links were not followed
}

TEST_CASE("cache: a folder that others may write is refused by everything that would use it") {
  stub_cache c;
  c.make();
  ::chmod(c.folder.c_str(), 0777);
  CHECK_THROWS_AS((void)c.models.find("one"), dm2::file_error);
  CHECK_THROWS_AS(c.make(), dm2::file_error);
  CHECK_THROWS_AS((void)c.models.list(), dm2::file_error);
  CHECK_THROWS_AS(c.models.prune(), dm2::file_error);
  ::chmod(c.folder.c_str(), 0700);
  CHECK(c.models.find("one"));
}

TEST_CASE("cache: the default folder follows XDG_CACHE_HOME, and HOME where that is not absolute") {
  auto const folder = [](char const* xdg, char const* home) {
    ::setenv("XDG_CACHE_HOME", xdg, 1), ::setenv("HOME", home, 1);
    return dm2::run::cache::default_folder();
  };
  std::string const home = std::getenv("HOME") != nullptr ? std::getenv("HOME") : "";
  CHECK(folder("/x", "/h") == "/x/dm2");
  CHECK(folder("", "/h") == "/h/.cache/dm2");
  CHECK(folder("relative", "/h") == "/h/.cache/dm2");
  CHECK_THROWS_WITH_AS(folder("", ""), doctest::Contains("XDG_CACHE_HOME"), std::runtime_error);
  ::setenv("HOME", home.c_str(), 1), ::unsetenv("XDG_CACHE_HOME");
}
