#include <dm2/io/zip.hpp>

#include "io/make_torch.hpp"
#include "io/refusal.hpp"

#include <doctest/doctest.h>

#include <span>
#include <string>
#include <utility>
#include <vector>

using namespace dm2::test;

namespace {
using entries = std::vector<std::pair<std::string, std::string>>;
entries const three{{"b/two", "second"}, {"a", ""}, {"c", std::string(1000, 'x')}};

dm2::zip_archive open(std::string const& bytes) { return {std::as_bytes(std::span{bytes}), "f"}; }
std::string refused(std::string const& bytes) {
  return refusal("f", [&] { (void)open(bytes); });
}
std::string text_of(dm2::zip_archive const& zip, std::string const& name) {
  auto const found = zip.find(name);
  REQUIRE(found.has_value());
  return {reinterpret_cast<char const*>(found->data()), found->size()};
}
}  // namespace

TEST_CASE("zip: entries are found by name, in plain and ZIP64 archives, with and without a comment") {
  for (zip_options const& o :
       {zip_options{}, zip_options{.zip64 = true}, zip_options{.comment = "a comment PK\5\6 here"},
        zip_options{.flags = 0x808, .zip64 = true}}) {
    std::string const bytes = make_zip(three, o);
    auto const zip = open(bytes);
    CHECK(zip.entries().size() == 3);
    for (auto const& [name, content] : three) CHECK(text_of(zip, name) == content);
    CHECK_FALSE(zip.find("b").has_value());
  }
  CHECK(open(make_zip({})).entries().empty());
}

TEST_CASE("zip: compressed, encrypted and repeated entries are refused by name") {
  CHECK(refused(make_zip(three, {.method = 8})) ==
        "zip: entry 'b/two' is compressed (method 8); only stored entries are read");
  CHECK(refused(make_zip(three, {.flags = 1})) == "zip: entry 'b/two' is encrypted");
  CHECK(refused(make_zip({{"x", "1"}, {"x", "2"}})) == "zip: entry 'x' is there twice");
}

TEST_CASE("zip: sizes and places that do not lie in the file are refused") {
  std::string const good = make_zip({{"name", "content"}});
  std::size_t const central = good.find("PK\1\2"), end = good.find("PK\5\6");
  auto const patched = [&](std::size_t at, auto value) {
    std::string bytes = good;
    bytes.replace(at, sizeof value, raw(value));
    return bytes;
  };
  CHECK(contains(refused(patched(central + 42, std::uint32_t{4})), "is not where the table of contents says"));
  CHECK(contains(refused(patched(central + 42, std::uint32_t{0xFFFFFF00})), "is not where the table of contents says"));
  CHECK(contains(refused(patched(central + 24, std::uint32_t{8})), "its two sizes differ"));
  std::string large = patched(central + 20, std::uint32_t{0xFFFFFF00});
  large.replace(central + 24, 4, raw(std::uint32_t{0xFFFFFF00}));
  CHECK(contains(refused(large), "of 4294967040 bytes passes the end of the file"));
  CHECK(contains(refused(patched(end + 10, std::uint16_t{60000})), "table of contents does not lie in the file"));
  CHECK(contains(refused(patched(end + 10, std::uint16_t{2})), "table of contents does not lie in the file"));
  CHECK(contains(refused(patched(end + 12, std::uint32_t{0x7FFFFFFF})), "table of contents does not lie in the file"));
  CHECK(contains(refused(patched(end + 16, std::uint32_t{1})), "table of contents is damaged at byte 1"));
  CHECK(contains(refused(patched(central + 28, std::uint16_t{500})), "table of contents is damaged"));
  CHECK(contains(refused(good.substr(0, good.size() - 1)), "truncated"));
  CHECK(contains(refused(""), "truncated"));
}
