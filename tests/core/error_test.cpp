#include <dm2/core/error.hpp>

#include <doctest/doctest.h>

#include <string>

using namespace dm2;

TEST_CASE("error: a wrong extent names the tensor and both sizes") {
  CHECK_NOTHROW(require_extent("op.x rows", 4, 4));
  CHECK_THROWS_WITH_AS(require_extent("op.x rows", 3, 4), "op.x rows: got 3, expected 4", shape_error);
  CHECK_THROWS_AS(require_extent("op.x rows", 3, 4), std::invalid_argument);
}

TEST_CASE("error: a file's error begins with its path") {
  file_error const e{"/some/where.pt", "not a file of that kind"};
  CHECK(std::string{e.what()} == "/some/where.pt: not a file of that kind");
  CHECK(e.path() == "/some/where.pt");
}

TEST_CASE("error: a name from a file can neither cut a file's error short nor move a terminal's cursor") {
  file_error const e{"f", std::string{"\0a\x1B[2J\xE9 is no name\nsecond line", 30}};
  CHECK(std::string{e.what()} == "f: ?a?[2J\\xE9 is no name\nsecond line");
}
