#include <dm2/core/version.hpp>
#include <dm2/run/toolchain.hpp>

#include "run/stub_compiler.hpp"

#include <doctest/doctest.h>

#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

using namespace dm2::test;
using dm2::run::header_kind, dm2::run::headers_hash, dm2::run::toolchain;
namespace fs = std::filesystem;

namespace {

/// An include folder with two headers, and a build that was made from it by a compiler that is there.
struct fake_build {
  private_scratch scratch;
  std::string folder = (scratch / "include").string(), compiler = (scratch / "compiler").string();
  dm2::run::built_with build;

  fake_build() {
    fs::create_directories(scratch / "include" / "dm2" / "core");
    write_raw(scratch / "include" / "dm2" / "one.hpp", "one");
    write_raw(scratch / "include" / "dm2" / "core" / "two.hpp", "two");
    write_raw(compiler, "");
    fs::permissions(compiler, fs::perms::owner_all);
    build.version = "0.1.0";
    build.source_folder = folder.c_str();
    build.cpp = {compiler.c_str(), "GNU 12", "-O3\nSHELL:-a b\n", "NAME=1", "", "", hash(header_kind::cpp)};
    build.cpp.folders = folder.c_str();
  }
  [[nodiscard]] std::uint64_t hash(header_kind kind) const { return headers_hash(scratch / "include" / "dm2", kind); }
  [[nodiscard]] toolchain tools(std::vector<std::string> more = {}) const {
    return toolchain{header_kind::cpp, more, build, scratch / "bin" / "program"};
  }
};

/// A tiny unit that includes a header of dm2.
dm2::run::build_request tiny_request(toolchain const& tools) {
  dm2::run::build_request r{"tiny unit", "tiny unit\n" + tools.identity()};
  r.units = {{"tiny.cpp",
              "#include <dm2/core/version.hpp>\nextern \"C\" char const* dm2_tiny() { return dm2::version_text; }\n"}};
  r.compile = tools.compile(), r.link = tools.link(), r.libraries = tools.libraries();
  r.check = [&tools] { tools.require(); };
  return r;
}

}  // namespace

TEST_CASE("headers_hash: changes with every content, name and place of a header, and with nothing else") {
  fake_build const f;
  fs::path const dm2 = f.scratch / "include" / "dm2";
  auto const before = f.hash(header_kind::cpp);
  write_raw(dm2 / "notes.txt", "text");
  CHECK(f.hash(header_kind::cpp) == before);
  write_raw(dm2 / "kernel.cuh", "text");
  CHECK(f.hash(header_kind::cpp) == before);
  CHECK(f.hash(header_kind::cuda) != before);
  write_raw(dm2 / "one.hpp", "onf");
  CHECK(f.hash(header_kind::cpp) != before);
  write_raw(dm2 / "one.hpp", "one");
  CHECK(f.hash(header_kind::cpp) == before);
  fs::rename(dm2 / "one.hpp", dm2 / "core" / "one.hpp");
  CHECK(f.hash(header_kind::cpp) != before);
  CHECK_THROWS_AS((void)headers_hash(f.scratch / "none", header_kind::cpp), dm2::file_error);
}

TEST_CASE("toolchain: says what lacks, and how to have it") {
  fake_build f;
  CHECK(f.tools().lacks().empty());
  CHECK_NOTHROW(f.tools().require());
  toolchain const cuda{header_kind::cuda, {}, f.build};
  CHECK(has(cuda.lacks(), "built without CUDA"));
  write_raw(f.scratch / "include" / "dm2" / "one.hpp", "changed");
  CHECK(has(f.tools().lacks(), f.folder + "/dm2 are not those that this program was built from: build it again"));
  CHECK_THROWS_AS((void)f.tools().compile(), dm2::run::toolchain_error);
  fs::remove_all(f.folder);
  CHECK(has(f.tools().lacks(), "dm2's headers are not at "));
  CHECK(has(f.tools().lacks(), f.folder + "; the package dm2-dev or a clone"));
  fs::remove(f.compiler);
  CHECK(has(f.tools().lacks(), "no compiler: GNU 12 is not at " + f.compiler));
}

TEST_CASE("toolchain: headers that a build has fetched and are gone are missed") {
  fake_build f;
  std::string const folders = f.folder + "\n/no/such/eigen";
  f.build.cpp.folders = folders.c_str();
  CHECK(has(f.tools().lacks(), "not at /no/such/eigen"));
}

TEST_CASE(
    "toolchain: headers beside the program's folder come before the source tree's, where they are the right ones") {
  fake_build const f;
  fs::create_directories(f.scratch / "installed" / "bin");
  write_raw(f.scratch / "installed" / "bin" / "dm2", "");
  fs::copy(f.folder, f.scratch / "installed" / "include", fs::copy_options::recursive);
  toolchain const tools{header_kind::cpp, {}, f.build, f.scratch / "installed" / "bin" / "dm2"};
  CHECK(tools.headers() == fs::canonical(f.scratch / "installed" / "include"));
  write_raw(f.scratch / "installed" / "include" / "dm2" / "one.hpp", "another version");
  CHECK(tools.headers() == f.folder);
}

TEST_CASE("toolchain: words are the build's flags, definitions and folders, and the caller's flags") {
  fake_build const f;
  std::vector<std::string> const want{f.compiler, "-O3", "-a", "b", "-DNAME=1", "-more", "-I" + f.folder};
  CHECK(f.tools({"-more"}).compile() == want);
  auto const link = f.tools().link();
  CHECK(std::find(link.begin(), link.end(), "-shared") != link.end());
}

TEST_CASE("toolchain: the identity follows the compiler's file, the flags, the headers and CPATH") {
  fake_build f;
  std::string const before = f.tools().identity();
  CHECK(f.tools().identity() == before);
  CHECK(f.tools({"-more"}).identity() != before);
  f.build.cpp.headers += 1;
  CHECK(f.tools().identity() != before);
  f.build.cpp.headers -= 1;
  ::setenv("CPATH", "/x", 1);
  CHECK(f.tools().identity() != before);
  ::unsetenv("CPATH");
  CHECK(f.tools().identity() == before);
  fs::last_write_time(f.compiler, fs::last_write_time(f.compiler) + std::chrono::seconds{1});
  CHECK(f.tools().identity() != before);
}

TEST_CASE("toolchain: the processor belongs to the identity where -march=native does") {
  fake_build const f;
  CHECK_FALSE(dm2::run::processor_text().empty());
  CHECK(has(f.tools({"-march=native"}).identity(), dm2::run::processor_text()));
  CHECK_FALSE(has(f.tools().identity(), dm2::run::processor_text()));
  write_raw(f.scratch / "cpuinfo",
            "processor\t: 0\nflags\t\t: fpu sse\ncpu MHz : 1\n\nprocessor\t: 1\nflags\t\t: other\n");
  CHECK(dm2::run::processor_text((f.scratch / "cpuinfo").c_str()) == "flags\t\t: fpu sse\n");
  CHECK(dm2::run::processor_text("/no/such/file").empty());
}

TEST_CASE("toolchain: the build's own compiler makes an object that loads, of twenty starts at once once") {
  toolchain const tools{header_kind::cpp};
  REQUIRE(tools.lacks() == "");
  stub_cache c;
  auto const request = tiny_request(tools);
  std::vector<pid_t> children;
  for (int i = 0; i < 20; ++i)
    if (children.push_back(::fork()); children.back() == 0) {
      int said = 0;
      c.models.find_or_compile(request, [&](std::string const& line) { said += has(line, "compiling "); });
      ::_exit(said);
    }
  int compiled = 0, status = 0;
  for (pid_t const child : children) {
    CHECK(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFEXITED(status));
    compiled += WEXITSTATUS(status);
  }
  CHECK(compiled == 1);
  fs::path const path = c.models.find(request.identity).value();
  void* const object = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  REQUIRE_MESSAGE(object != nullptr, ::dlerror());
  auto* const tiny = reinterpret_cast<char const* (*)()>(::dlsym(object, "dm2_tiny"));
  REQUIRE(bool(tiny != nullptr));
  CHECK(std::string{tiny()} == dm2::version_text);
  ::dlclose(object);
}

TEST_CASE("toolchain: the real compiler's message reaches the error") {
  toolchain const tools{header_kind::cpp};
  stub_cache c;
  auto request = tiny_request(tools);
  request.units[0].text = "#error this model is wrong\n";
  std::string const what = message_of<dm2::run::compile_error>([&] { c.make(request); });
  CHECK(has(what, "tiny.cpp:1:2: error: "));
  CHECK(has(what, "this model is wrong"));
  CHECK(c.files().empty());
}
