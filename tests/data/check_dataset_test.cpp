/// @file
/// Finding what is wrong with a set before training.
#include <dm2/data/check_dataset.hpp>
#include <dm2/data/dataset.hpp>

#include <doctest/doctest.h>

#include "data/make_label_map.hpp"
#include "data/picture_set.hpp"
#include "io/refusal.hpp"

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

using namespace dm2;
using namespace dm2::test;
namespace fs = std::filesystem;

namespace {

std::vector<std::string> messages(check_report const& report) {
  std::vector<std::string> out;
  for (file_error const& problem : report.listed) out.push_back(problem.what());
  return out;
}

/// 200 pictures, more than one block of work, five of which have something wrong, and one both.
struct broken_set : picture_set {
  broken_set() : picture_set{200} {
    write_file(images() / "c1/p103.png", "no picture");
    fs::remove(maps() / "c1/p103.pt");
    fs::resize_file(images() / "c1/p160.png", 60);
    fs::remove(maps() / "c2/p101.pt");
    write_label_map(maps() / "c2/p104.pt", label_map_values(2, 3, 5), 2, 3);
    write_file(images() / "c10/p297.png", "");
    fs::create_directory(images() / "c11");
  }
};

}  // namespace

TEST_CASE("check: a good set has no problem, and every sample is seen") {
  picture_set const files{70};
  check_report const report = check(files.with_maps());
  CHECK(report.samples == 70);
  CHECK(report.problems == 0);
  CHECK(report.listed.empty());
}

TEST_CASE("check: every problem is found and listed in the order of the samples, for any number of threads") {
  broken_set const files;
  dataset const set = files.with_maps();
  for (int threads : {1, 4}) {
    check_report const report = check(set, {.threads = threads});
    CHECK(report.samples == 200);
    CHECK(report.problems == 7);
    REQUIRE(report.listed.size() == 7);
    std::vector<fs::path> const want{files.images() / "c11",         files.images() / "c1/p103.png",
                                     files.maps() / "c1/p103.pt",    files.images() / "c1/p160.png",
                                     files.maps() / "c2/p101.pt",    files.maps() / "c2/p104.pt",
                                     files.images() / "c10/p297.png"};
    for (std::size_t i = 0; i < want.size(); ++i) CHECK(report.listed[i].path() == want[i]);
    CHECK(contains(report.listed[1].what(), "neither a JPEG nor a PNG"));
    CHECK(contains(report.listed[5].what(), "class index"));
  }
}

TEST_CASE("check: label maps are not asked for where the set has none") {
  broken_set const files;
  CHECK(check(files.plain()).problems == 4);
}

TEST_CASE("check: at most the asked number is listed, the first ones, and all are counted") {
  broken_set const files;
  dataset const set = files.with_maps();
  auto const all = messages(check(set));
  for (std::size_t limit : {std::size_t{0}, std::size_t{1}, std::size_t{3}}) {
    check_report const report = check(set, {.threads = 3, .listed = limit});
    CHECK(report.problems == 7);
    CHECK(messages(report) == std::vector<std::string>(all.begin(), all.begin() + std::ptrdiff_t(limit)));
  }
}

TEST_CASE("check: without decoding, a picture's first bytes are looked at") {
  broken_set const files;
  check_report const report = check(files.plain(), {.decode = false});
  CHECK(report.problems == 3);  // all but the truncated one
}

TEST_CASE("check: progress grows to the number of samples, and can stop it") {
  picture_set const files{200};
  dataset const set = files.plain();
  std::size_t last = 0;
  bool grows = true;
  (void)check(set, {.threads = 3, .progress = [&](std::size_t done) {
                      grows = grows && done > last;
                      last = done;
                      return true;
                    }});
  CHECK(grows);
  CHECK(last == 200);
  check_report const report = check(set, {.threads = 1, .progress = [](std::size_t) { return false; }});
  CHECK(report.samples == 64);
}
