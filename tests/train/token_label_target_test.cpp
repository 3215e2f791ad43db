#include <dm2/train/token_label_target.hpp>

#include "support/golden.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

struct target_case {
  char const* name;
  int height, width, classes, size;
};
constexpr target_case golden_cases[]{{"square", 18, 18, 20, 14}, {"tall", 12, 9, 8, 5}};

/// [B, columns, classes] from the golden [B, classes, columns].
std::vector<double> classes_last(std::vector<double> const& t, int batch, int classes) {
  std::size_t const k = std::size_t(classes), columns = t.size() / std::size_t(batch) / k;
  std::vector<double> out(t.size());
  for (std::size_t b = 0; b < std::size_t(batch); ++b)
    for (std::size_t c = 0; c < k; ++c)
      for (std::size_t i = 0; i < columns; ++i) out[(b * columns + i) * k + c] = t[(b * k + c) * columns + i];
  return out;
}

std::vector<double> flat_map(int height, int width, double score, int index) {
  std::size_t const n = std::size_t(height) * std::size_t(width);
  std::vector<double> map(10 * n, 0.0);
  for (std::size_t k = 0; k < 5; ++k)
    for (std::size_t i = 0; i < n; ++i) {
      map[k * n + i] = k == 0 ? score : 0.0;
      map[(5 + k) * n + i] = double((index + int(k)) % 7);
    }
  return map;
}

}  // namespace

TEST_CASE("token_label_target: equals the reference in both crop conventions") {
  golden const g{"targets.safetensors"};
  for (target_case const& c : golden_cases) {
    std::string const name{c.name};
    CAPTURE(name);
    auto const maps = g.get(name + "/top5"), crops = g.get(name + "/crop"), labels = g.get(name + "/label");
    int const batch = int(labels.size());
    std::size_t const map_size = maps.size() / labels.size();
    for (auto convention : {crop_convention::published, crop_convention::aligned}) {
      std::size_t const one = std::size_t(2 + c.size * c.size) * std::size_t(c.classes);
      std::vector<double> got(labels.size() * one, std::numeric_limits<double>::quiet_NaN());
      std::vector<double> scores(std::size_t(c.classes));
      for (std::size_t b = 0; b < labels.size(); ++b) {
        label_map<double> const map{std::span{maps}.subspan(b * map_size, map_size), c.height, c.width};
        token_label_target(map, {crops[4 * b], crops[4 * b + 1], crops[4 * b + 2], crops[4 * b + 3]}, int(labels[b]),
                           {c.classes, c.size, c.size}, 0.1, convention, std::span{scores},
                           std::span{got}.subspan(b * one, one));
      }
      auto const want = g.get(name + (convention == crop_convention::published ? "/published" : "/aligned"));
      CHECK(relative_error(got, classes_last(want, batch, c.classes)) < 1e-9);
    }
  }
}

TEST_CASE("hard_label_target: equals the reference") {
  golden const g{"targets.safetensors"};
  for (target_case const& c : {golden_cases[0], golden_cases[1], target_case{"single", 9, 9, 6, 1}}) {
    std::string const name{c.name};
    auto const labels = g.get(name + "/label");
    std::size_t const one = std::size_t(2 + c.size * c.size) * std::size_t(c.classes);
    std::vector<double> got(labels.size() * one, std::numeric_limits<double>::quiet_NaN());
    for (std::size_t b = 0; b < labels.size(); ++b)
      hard_label_target(int(labels[b]), c.classes, c.size * c.size, 0.1, std::span{got}.subspan(b * one, one));
    CHECK(relative_error(got, classes_last(g.get(name + "/hard"), int(labels.size()), c.classes)) < 1e-12);
  }
}

TEST_CASE(
    "token_label_target: a map that is the same everywhere gives every token the same target, whatever the crop") {
  auto const data = flat_map(6, 5, 2.0, 3);
  label_map<double> const map{std::span{data}, 6, 5};
  std::vector<double> scores(7), target(std::size_t(2 + 3 * 2) * 7);
  token_label_target(map, {0.2, 0.3, 0.4, 0.5}, 3, {7, 3, 2}, 0.1, crop_convention::aligned, std::span{scores},
                     std::span{target});
  double const z = std::exp(2.0) + 6, on = 0.9 + 0.1 / 7, off = 0.1 / 7;
  for (std::size_t row = 1; row < 8; ++row)
    for (std::size_t c = 0; c < 7; ++c)
      CHECK(target[row * 7 + c] == doctest::Approx((c == 3 ? std::exp(2.0) : 1.0) / z * on + off).epsilon(1e-12));
}

TEST_CASE("token_label_target: a rectangular grid sums to the same mass in every row") {
  golden const g{"targets.safetensors"};
  auto const maps = g.get("tall/top5");
  label_map<double> const map{std::span{maps}.first(maps.size() / 6), 12, 9};
  std::vector<double> scores(8), target(std::size_t(2 + 4 * 7) * 8);
  token_label_target(map, {0, 0.1, 0.9, 0.6}, 2, {8, 4, 7}, 0.1, crop_convention::published, std::span{scores},
                     std::span{target});
  for (std::size_t row = 0; row < 30; ++row) {
    double const mass = std::accumulate(&target[row * 8], &target[row * 8] + 8, 0.0);
    CHECK(mass == doctest::Approx(row == 0 ? 1.0 : 0.9 + 0.1 / 8 + 0.1).epsilon(1e-12));
  }
}

TEST_CASE("token_label_target: wrong sizes and classes out of range are named, and nothing is written") {
  auto data = flat_map(4, 4, 1.0, 0);
  std::vector<double> scores(7), target(std::size_t(2 + 4) * 7, -1.0);
  auto const call = [&](int label, int height) {
    token_label_target(label_map<double>{std::span<double const>{data}, height, 4}, {}, label, {7, 2, 2}, 0.1,
                       crop_convention::aligned, std::span{scores}, std::span{target});
  };
  CHECK_THROWS_WITH_AS(call(0, 5), "token_label_target.map: got 160, expected 200", shape_error);
  CHECK_THROWS_WITH_AS(call(7, 4), "token_label_target.label: got class 7, expected 0..6", shape_error);
  data.back() = 7;
  CHECK_THROWS_WITH_AS(call(0, 4), "token_label_target.map: got class 7, expected 0..6", shape_error);
  data.back() = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_AS(call(0, 4), shape_error);
  for (double v : target) CHECK(v == -1.0);
  CHECK_THROWS_AS(hard_label_target(-1, 7, 4, 0.1, std::span{target}), shape_error);
}
