// What the example programs share: text, tables, the progress bar, messages.
#include "../examples/support/command_line.hpp"
#include "../examples/support/progress.hpp"
#include "../examples/support/results.hpp"
#include "../examples/support/table.hpp"
#include "../examples/support/text.hpp"

#include <doctest/doctest.h>

#include <sstream>
#include <string>

using namespace dm2::example;

TEST_CASE("text: widths, numbers and sizes are as people write them") {
  CHECK(text_width("\xC3\xA9t\xC3\xA9") == 3);
  CHECK(grouped(0) == "0");
  CHECK(grouped(999) == "999");
  CHECK(grouped(1000) == "1,000");
  CHECK(grouped(9514032) == "9,514,032");
  CHECK(counted(0, "picture") == "0 pictures");
  CHECK(counted(1, "picture") == "1 picture");
  CHECK(counted(9514032, "class", "classes") == "9,514,032 classes");
  CHECK(counted(1, "class", "classes") == "1 class");
  CHECK(byte_size(1) == "1 byte");
  CHECK(byte_size(1023) == "1,023 bytes");
  CHECK(byte_size(1536) == "1.5 KiB");
  CHECK(byte_size(38056128) == "36.3 MiB");
  CHECK(percent(0.12345f) == "12.35 %");
  CHECK(shortest(0.1f) == "0.1");
}

TEST_CASE("table: columns are aligned by what is seen, not by bytes") {
  table t{{{"name"}, {"n", true}}};
  t.fit(0, "\xC3\xA9t\xC3\xA9s");
  t.fit(1, "100");
  std::ostringstream out;
  t.print_titles(out);
  t.print_row(out, {"\xC3\xA9t\xC3\xA9s", "7"});
  t.print_row(out, {"a", "100"});
  CHECK(out.str() == "name    n\n\xC3\xA9t\xC3\xA9s    7\na     100\n");
}

TEST_CASE("csv: fields are quoted where they hold a comma, a quote or the end of a line") {
  CHECK(csv_field("plain text") == "plain text");
  CHECK(csv_field("a,b") == "\"a,b\"");
  CHECK(csv_field("say \"x\"") == "\"say \"\"x\"\"\"");
  CHECK(csv_field("a\nb") == "\"a\nb\"");
}

TEST_CASE("json: numbers are as short as a float allows, and null where they are none") {
  CHECK(json_number(0.1f).dump() == "0.1");
  CHECK(json_number(1.0f).dump() == "1.0");
  CHECK(json_number(std::nanf("")).dump() == "null");
}

TEST_CASE("progress: the line says how much is done and how long the rest takes") {
  progress_bar const bar{240, false};
  CHECK(bar.line(0, 0) == "[..............................]  0 / 240 pictures");
  CHECK(bar.line(120, 4) == "[###############...............]  120 / 240 pictures  30.0/s  0:04 left");
  CHECK(bar.line(240, 8) == "[##############################]  240 / 240 pictures  30.0/s  0:00 left");
}

TEST_CASE("messages: a long one is cut after whole lines, and says how many are left out") {
  CHECK(first_lines("a", 2) == "a");
  CHECK(first_lines("a\nb", 2) == "a\nb");
  CHECK(first_lines("a\nb\nc\nd", 2) == "a\nb\n  ... and 2 more");
}
