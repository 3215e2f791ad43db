#include <dm2/run/cache.hpp>

#include "run/stub_compiler.hpp"

#include <doctest/doctest.h>

#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

using namespace dm2::test;
using namespace std::chrono_literals;
namespace fs = std::filesystem;

namespace {

/// Writes its process's number, then half of an object, slowly: 10 ms a unit and more, both at once.
constexpr char const* slow = R"(echo $$ >> "$0"; for i in 1 2; do echo half >> "$4"; sleep 0.005; done; cp "$2" "$4")";

/// Starts f in a process of its own, with which it ends; exit code 0 where nothing is thrown.
template <class F>
pid_t in_process(F const& f) {
  pid_t const child = ::fork();
  REQUIRE(child >= 0);
  if (child != 0) return child;
  ::alarm(60);
  try {
    f();
  } catch (...) {
    ::_exit(1);
  }
  ::_exit(0);
}

bool ended_well(pid_t child) {
  int status = 0;
  return ::waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/// Waits, ten seconds at most, until f is true.
template <class F>
bool soon(F const& f) {
  for (int i = 0; i < 2000; ++i, std::this_thread::sleep_for(5ms))
    if (f()) return true;
  return false;
}

bool has_file(stub_cache const& c, std::string const& ending) {
  auto const files = c.files();
  return std::any_of(files.begin(), files.end(), [&](auto const& name) { return name.ends_with(ending); });
}

/// The numbers that `slow` has written.
std::vector<pid_t> compilers(stub_cache const& c) {
  std::vector<pid_t> out;
  std::ifstream in{c.counted};
  for (pid_t id = 0; in >> id;) out.push_back(id);
  return out;
}

}  // namespace

TEST_CASE("cache processes: of twenty starts at once one compiles, and all have the entry") {
  stub_cache c;
  auto const request = stub_request(c.counted, "one", R"(echo x >> "$0"; sleep 0.3; cp "$2" "$4")");
  std::vector<pid_t> children;
  for (int i = 0; i < 20; ++i)
    children.push_back(in_process([&] {
      if (!c.whole(c.models.find_or_compile(request))) throw 1;
    }));
  for (pid_t const child : children) CHECK(ended_well(child));
  CHECK(c.compiled() == 2);  // units
  CHECK(c.files().size() == 1);
}

TEST_CASE("cache processes: of eight threads at once one compiles, and the others say that they wait") {
  stub_cache c;
  auto const request = stub_request(c.counted, "one", R"(echo x >> "$0"; sleep 0.2; cp "$2" "$4")");
  std::atomic<int> waits = 0, good = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&] {
      auto const say = [&](std::string const& line) { waits += has(line, "another process compiles model one"); };
      good += c.whole(c.models.find_or_compile(request, say));
    });
  for (std::thread& t : threads) t.join();
  CHECK(good == 8);
  CHECK(waits <= 7);
  CHECK(waits >= 1);
  CHECK(c.compiled() == 2);
}

TEST_CASE("cache processes: killed at a hundred random moments, nothing is left of it, and the cache is whole") {
  stub_cache c;
  auto const begin = std::chrono::steady_clock::now();
  c.make(stub_request(c.counted, "another", slow));
  auto const takes = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begin);
  std::mt19937 random{13};
  double limit = double(takes.count());  // follows the machine's load, so that a fifth are done before the kill
  int broken = 0, finished = 0, without_compiler = 0;
  for (int i = 0; i < 100; ++i) {
    auto const request = stub_request(c.counted, "number " + std::to_string(i), slow);
    fs::remove(c.counted);
    pid_t const child = in_process([&] { c.models.find_or_compile(request); });
    std::this_thread::sleep_for(std::chrono::microseconds{std::uniform_int_distribution<int>{0, int(limit)}(random)});
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    CHECK(soon([&] { return !has_file(c, ".part"); }));
    for (pid_t const id : compilers(c)) CHECK(soon([id] { return ::kill(id, 0) != 0; }));
    without_compiler += compilers(c).empty();
    bool const made = c.models.find(request.identity).has_value();
    limit *= made ? 0.8 : 1.05;
    finished += made;
    broken += !made;
  }
  // a lock file without a process may be there where the kill came between its making and the watcher's
  for (auto const& model : c.models.list()) CHECK(model.problem.empty());
  CHECK(c.models.find("another"));
  CHECK(broken > 0);  // all kinds happened
  CHECK(finished > 0);
  CHECK(without_compiler < 100);
  MESSAGE("finished ", finished, ", broken off ", broken, ", before a compiler ", without_compiler);
  c.make("last");
  for (std::string const& name : c.files()) CHECK(name.ends_with(".so"));
}

TEST_CASE("cache processes: one that waits for a killed one compiles by itself") {
  stub_cache c;
  auto const forever = stub_request(c.counted, "one", R"(echo $$ >> "$0"; sleep 60)");
  pid_t const first = in_process([&] { c.models.find_or_compile(forever); });
  REQUIRE(soon([&] { return compilers(c).size() == 2; }));
  pid_t const second = in_process([&] { c.models.find_or_compile(stub_request(c.counted)); });
  std::this_thread::sleep_for(50ms);
  ::kill(first, SIGKILL);
  ::waitpid(first, nullptr, 0);
  CHECK(ended_well(second));
  CHECK(c.models.find("one"));
  CHECK(c.files().size() == 1);
}

TEST_CASE("cache processes: the compiler's own children are killed with it") {
  stub_cache c;
  auto const request = stub_request(c.counted, "one", R"(sleep 60 & echo $! >> "$0"; wait)");
  pid_t const child = in_process([&] { c.models.find_or_compile(request); });
  REQUIRE(soon([&] { return compilers(c).size() == 2; }));
  ::kill(child, SIGHUP);
  ::waitpid(child, nullptr, 0);
  for (pid_t const id : compilers(c)) CHECK(soon([id] { return ::kill(id, 0) != 0; }));
  CHECK(soon([&] { return c.files().empty(); }));
}

TEST_CASE("cache processes: a unit that fails ends the others") {
  stub_cache c;
  auto const request =
      stub_request(c.counted, "one", R"(case $2 in *first*) exit 9;; esac; echo $$ >> "$0"; exec sleep 60)");
  auto const begin = std::chrono::steady_clock::now();
  CHECK(has(message_of<dm2::run::compile_error>([&] { c.make(request); }), "exit code 9"));
  CHECK(std::chrono::steady_clock::now() - begin < 30s);
  for (pid_t const id : compilers(c)) CHECK(::kill(id, 0) != 0);
  CHECK(c.files().empty());
}

TEST_CASE("cache processes: a stop flag ends the compiling, and leaves nothing") {
  stub_cache c;
  std::atomic<bool> stop = false;
  auto const request = stub_request(c.counted, "one", R"(echo $$ >> "$0"; sleep 60)");
  std::thread other{[&] { CHECK_THROWS_AS(c.models.find_or_compile(request, {}, &stop), dm2::run::compile_stopped); }};
  CHECK(soon([&] { return compilers(c).size() == 2; }));
  stop = true;
  other.join();
  for (pid_t const id : compilers(c)) CHECK(::kill(id, 0) != 0);
  CHECK(c.files().empty());
}

TEST_CASE("cache processes: a stop flag ends the waiting for another process, which goes on") {
  stub_cache c;
  auto const request =
      stub_request(c.counted, "one", R"(echo $$ >> "$0"; until [ -e "$0.go" ]; do sleep 0.01; done; cp "$2" "$4")");
  pid_t const first = in_process([&] { c.models.find_or_compile(request); });
  REQUIRE(soon([&] { return compilers(c).size() == 2; }));
  std::atomic<bool> stop = true;
  CHECK_THROWS_AS(c.models.find_or_compile(request, {}, &stop), dm2::run::compile_stopped);
  write_raw(c.counted.string() + ".go", "");
  CHECK(ended_well(first));
  CHECK(c.models.find("one"));
}

TEST_CASE("cache processes: what is being compiled is not pruned, and told") {
  stub_cache c;
  fs::path const other = c.make("other");
  auto const request = stub_request(c.counted, "one", slow);
  pid_t const first = in_process([&] { c.models.find_or_compile(request); });
  REQUIRE(soon([&] { return has_file(c, ".part"); }));
  dm2::run::prune_report const pruned = c.models.prune();
  CHECK(pruned.models == 1);
  CHECK(pruned.busy == 1);
  CHECK(ended_well(first));
  CHECK(c.models.find("one"));
  CHECK_FALSE(fs::exists(other));
  CHECK(c.models.prune().busy == 0);
}

TEST_CASE("cache processes: the caller's ignored signals, closed input and open files do not reach the compiler") {
  stub_cache c;
  int const leaked = ::dup2(0, 77);  // without O_CLOEXEC
  REQUIRE(leaked == 77);
  auto const before = ::signal(SIGTERM, SIG_IGN);
  auto const request =
      stub_request(c.counted, "one", R"(ls /proc/$$/fd >> "$0"; grep SigIgn /proc/$$/status >> "$0"; cp "$2" "$4")");
  c.make(request);
  ::signal(SIGTERM, before);
  ::close(leaked);
  std::string const seen = read_raw(c.counted);
  CHECK(has(seen, "SigIgn:\t0000000000000000"));
  CHECK_FALSE(has(seen, "77\n"));
}

TEST_CASE("cache processes: children that the caller ignores (SIGCHLD) are no hindrance") {
  stub_cache c;
  pid_t const child = in_process([&] {
    ::signal(SIGCHLD, SIG_IGN);
    c.models.find_or_compile(stub_request(c.counted));
  });
  CHECK(ended_well(child));
  CHECK(c.models.find("one"));
}

TEST_CASE("cache processes: a file size limit is a clear error, and leaves nothing") {
  stub_cache c;
  pid_t const child = in_process([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    ::rlimit const most{4096, 4096};
    ::setrlimit(RLIMIT_FSIZE, &most);
    auto request = stub_request(c.counted, "one", R"(head -c 3000 /dev/zero > "$4")");
    std::string const linked = message_of<dm2::run::compile_error>([&] { c.models.find_or_compile(request); });
    request.units.pop_back();
    request.units[0].text.assign(5000, 'x');
    std::string const unit = message_of<dm2::file_error>([&] { c.models.find_or_compile(request); });
    bool const clear = has(linked, "signal 25") || has(linked, "File too large") || has(linked, "exit code");
    if (!clear || !has(unit, "first.cpp: cannot be written: File too large")) throw 1;
  });
  CHECK(ended_well(child));
  CHECK(c.files().empty());
}

TEST_CASE("cache processes: a full disk is a clear error, and leaves nothing") {
  stub_cache c;
  fs::create_directory(c.folder);
  if (::geteuid() != 0 || ::mount("tmpfs", c.folder.c_str(), "tmpfs", 0, "size=64k,mode=0700") != 0)
    return;  // root's test
  auto const request = stub_request(c.counted, "one", R"(head -c 100000 /dev/zero > "$4")");
  std::string const compiler = message_of<dm2::run::compile_error>([&] { c.make(request); });
  CHECK(has(compiler, "the disk of " + c.folder.string() + " is full. Free some"));
  CHECK(c.files().empty());
  auto large = stub_request(c.counted);
  large.units[0].text.assign(100'000, 'x');
  CHECK(has(message_of<dm2::file_error>([&] { c.make(large); }), "cannot be written: No space left on device"));
  CHECK(c.files().empty());
  CHECK(c.whole(c.make("small")));
  CHECK(::umount2(c.folder.c_str(), MNT_DETACH) == 0);
}
