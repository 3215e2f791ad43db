#include <dm2/core/utf8.hpp>

#include <doctest/doctest.h>

#include <string_view>

TEST_CASE("is_utf8: accepts what JSON may hold, and nothing else") {
  using dm2::detail::is_utf8;
  for (char const* good : {"", "plain", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80", "\xEF\xBF\xBF"})
    CHECK(is_utf8(good));
  for (char const* bad : {"\x80", "\xC3", "\xC0\x80", "\xE0\x80\x80", "\xED\xA0\x80", "\xF0\x80\x80\x80",
                          "\xF4\x90\x80\x80", "\xF8\x88\x80\x80\x80", "\xE2\x82", "a\xFF"})
    CHECK_FALSE(is_utf8(bad));
}

TEST_CASE("printable: nothing that a file may hold reaches the terminal as a control") {
  using dm2::detail::printable;
  CHECK(printable("a\x1B[2Jb\r\n\x7F") == "a?[2Jb???");
  CHECK(printable("\xC3\xA9t\xC3\xA9") == "\xC3\xA9t\xC3\xA9");
  CHECK(printable("\xC3\xA9 \xFF") == "\xC3\xA9 \\xFF");
  CHECK(printable("st\xE9r") == "st\\xE9r");
  CHECK(printable("\xE2\x82") == "\\xE2\\x82");
  CHECK(printable("\xE2\x82\xAC\xED\xA0\x80") == "\xE2\x82\xAC\\xED\\xA0\\x80");  // a surrogate is no character
  CHECK(printable("a\xC2\x9B"
                  "2J\xC2\xA0") == "a??2J\xC2\xA0");
  CHECK(printable("a\nb\r\xC2", true) == "a\nb?\\xC2");
  CHECK(printable(std::string_view{"\0name", 5}) == "?name");  // a C string would end there
  CHECK(printable("").empty());
}
