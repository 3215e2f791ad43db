/// @file
/// CSV logs: what is written reads back, and a resumed run leaves the file of one that was never stopped.
#include <dm2/train/log/append_file.hpp>
#include <dm2/train/log/csv_log.hpp>
#include <dm2/train/log/csv_table.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "io/refusal.hpp"
#include "io/scratch.hpp"

using namespace dm2;
using namespace dm2::test;

namespace {
std::vector<std::string> const names{"loss", "top1"};

void steps(std::filesystem::path const& path, int from, int until, std::optional<std::int64_t> resume_after) {
  csv_log log{path, "step", names, resume_after};
  for (int step = from; step < until; ++step)
    log.append(step, {1.0 / (step + 3), step % 2 == 0 ? std::optional<double>{} : step});
}
}  // namespace

TEST_CASE("csv_log: a row is in the file as soon as append returns") {
  scratch_folder const folder;
  csv_log log{folder / "a.csv", "step", names};
  CHECK(read_raw(folder / "a.csv") == "step,loss,top1\n");
  log.append(10, {0.5, std::nullopt});
  CHECK(read_raw(folder / "a.csv") == "step,loss,top1\n10,0.5,\n");
  log.append(-11, {std::numeric_limits<double>::quiet_NaN(), -std::numeric_limits<double>::infinity()});
  CHECK(read_raw(folder / "a.csv") == "step,loss,top1\n10,0.5,\n-11,nan,-inf\n");
}

TEST_CASE("csv_log: numbers read back as the same doubles") {
  scratch_folder const folder;
  std::vector<double> const values{0.1, 1.0 / 3, -2.2250738585072014e-308, 5e-324, 1.7976931348623157e308, 123456789};
  csv_log log{folder / "a.csv", "step", names};
  for (double const v : values) log.append(1, {v, -v});
  csv_table const table = read_csv(folder / "a.csv");
  REQUIRE(table.names == std::vector<std::string>{"step", "loss", "top1"});
  REQUIRE(table.columns[1].size() == values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    CHECK(std::bit_cast<std::uint64_t>(table.columns[1][i]) == std::bit_cast<std::uint64_t>(values[i]));
    CHECK(table.columns[2][i] == -values[i]);
  }
}

TEST_CASE("csv_log: a run resumed after any step, and killed in any byte, leaves the file of one never stopped") {
  scratch_folder const folder;
  auto const whole = folder / "whole.csv", part = folder / "part.csv";
  steps(whole, 0, 12, std::nullopt);
  std::string const want = read_raw(whole);
  for (std::size_t size = 0; size <= want.size(); ++size) {
    write_raw(part, want.substr(0, size));
    std::int64_t const kept = [&] {  // steps whose rows are whole
      std::int64_t lines = -2;
      for (char const c : want.substr(0, size)) lines += c == '\n' ? 1 : 0;
      return std::max<std::int64_t>(lines, -1);
    }();
    for (std::int64_t const checkpoint : {std::int64_t{-1}, kept / 2, kept}) {
      if (checkpoint > kept) continue;
      write_raw(part, want.substr(0, size));
      steps(part, static_cast<int>(checkpoint) + 1, 12, checkpoint);
      CHECK(read_raw(part) == want);
    }
  }
}

TEST_CASE("csv_log: without a step to resume after, the log begins anew; a missing file is created") {
  scratch_folder const folder;
  steps(folder / "a.csv", 0, 9, std::nullopt);
  steps(folder / "a.csv", 0, 2, std::nullopt);
  steps(folder / "b.csv", 0, 2, 7);
  CHECK(read_raw(folder / "a.csv") == read_raw(folder / "b.csv"));
}

TEST_CASE("csv_log: what it cannot go on from is refused and stays as it is") {
  scratch_folder const folder;
  write_raw(folder / "a.csv", "step,loss\n1,2\n");
  auto const reason = refusal(folder / "a.csv", [&] { csv_log{folder / "a.csv", "step", names, 5}; });
  CHECK(contains(reason, "'step,loss'"));
  CHECK(contains(reason, "'step,loss,top1'"));
  CHECK(read_raw(folder / "a.csv") == "step,loss\n1,2\n");
  std::filesystem::create_directory(folder / "sub");
  CHECK(contains(refusal(folder / "sub", [&] { csv_log{folder / "sub", "step", names}; }), "not a regular file"));
  auto const missing = folder.path() / "no" / "a.csv";
  CHECK(contains(refusal(missing, [&] { csv_log{missing, "step", names}; }), "cannot be opened"));
  for (char const* name : {"", "a,b", "a\nb", "\"a\""})
    CHECK_THROWS_AS((csv_log{folder / "c.csv", "step", {name}}), shape_error);
  csv_log log{folder / "d.csv", "step", names};
  CHECK_THROWS_AS(log.append(1, {1.0}), shape_error);
  CHECK(read_raw(folder / "d.csv") == "step,loss,top1\n");
}

#ifdef __linux__
TEST_CASE("append_file: a full disk is an error of the write that met it") {
  append_file full{"/dev/full", append_file::mode::extend};
  CHECK(contains(refusal("/dev/full", [&] { full.write("row\n"); }), "cannot be written"));
}
#endif

TEST_CASE("read_csv: spaces, quotes and carriage returns around cells are dropped, what is no number is a NaN") {
  scratch_folder const folder;
  write_raw(folder / "a.csv", "\"epoch\", loss ,note\r\n1, 2.5,fine\r\n\r\n2,,-1e3\r\n3,nan,4x");
  csv_table const t = read_csv(folder / "a.csv");
  CHECK(t.names == std::vector<std::string>{"epoch", "loss", "note"});
  CHECK(t.columns[0] == std::vector<double>{1, 2, 3});
  CHECK(t.columns[1][0] == 2.5);
  CHECK(std::isnan(t.columns[1][1]));
  CHECK(std::isnan(t.columns[2][0]));
  CHECK(t.columns[2][1] == -1000);
  CHECK(std::isnan(t.columns[2][2]));
  CHECK(t.find("loss") == 1);
  CHECK(t.find("none") == 3);
}

TEST_CASE("read_csv: a row of another length is refused by its line, a last one that is cut off is left out") {
  scratch_folder const folder;
  write_raw(folder / "a.csv", "a,b\n1,2\n3\n4,5\n");
  CHECK(contains(refusal(folder / "a.csv", [&] { (void)read_csv(folder / "a.csv"); }), "line 3 has 1 cells"));
  write_raw(folder / "a.csv", "a,b\n1,2\n3");
  CHECK(read_csv(folder / "a.csv").columns[0] == std::vector<double>{1});
  write_raw(folder / "a.csv", "");
  CHECK(contains(refusal(folder / "a.csv", [&] { (void)read_csv(folder / "a.csv"); }), "no header"));
}

TEST_CASE("csv log: a link under its name is refused, and what it leads to is left alone") {
  scratch_folder const folder;
  write_raw(folder / "mine.txt", "something else");
  for (char const* target : {"mine.txt", "not_there"}) {
    CAPTURE(target);
    std::filesystem::remove(folder / "steps.csv");
    std::filesystem::create_symlink(target, folder / "steps.csv");
    CHECK_THROWS_WITH_AS((csv_log{folder / "steps.csv", "step", {"loss"}}), doctest::Contains("is a link"), file_error);
    CHECK_THROWS_WITH_AS((append_file{folder / "steps.csv", append_file::mode::extend}), doctest::Contains("is a link"),
                         file_error);
  }
  CHECK(read_raw(folder / "mine.txt") == "something else");
  CHECK_FALSE(std::filesystem::exists(folder / "not_there"));
}
