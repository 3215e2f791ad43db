/// @file
/// Charts: lines cover what geometry says, axes hold their data, curves stand where their values are.
#include <dm2/train/log/axis.hpp>
#include <dm2/train/log/canvas.hpp>
#include <dm2/train/log/chart.hpp>
#include <dm2/train/log/chart_text.hpp>
#include <dm2/train/log/curve.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numbers>
#include <set>
#include <string>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::detail;

namespace {

constexpr ink white{255, 255, 255}, black{0, 0, 0};

/// How many pixels' worth of black there is on white.
double darkness(picture const& p) {
  double sum = 0;
  for (auto const v : p.pixels) sum += (255 - v) / (3 * 255.0);
  return sum;
}

/// Mean place of the pixels of exactly this colour; NaN without any.
point centre(picture const& p, ink colour, int first_column, int last_column) {
  double x = 0, y = 0, count = 0;
  for (int row = 0; row < p.height; ++row)
    for (int column = first_column; column < last_column; ++column) {
      auto const* const at = p.row(row) + 3 * column;
      if (at[0] != colour.red || at[1] != colour.green || at[2] != colour.blue) continue;
      x += column + 0.5;
      y += row + 0.5;
      ++count;
    }
  return {x / count, y / count};
}

std::vector<std::string> labels(axis const& a, double count) {
  std::vector<std::string> out;
  for (tick const& t : ticks(a, count)) out.push_back(t.label);
  return out;
}

using words = std::vector<std::string>;
double const not_a_number = std::numeric_limits<double>::quiet_NaN();

}  // namespace

TEST_CASE("canvas: a line's ink is its length times its width and its two half discs, in every direction") {
  for (double angle = 0; angle < 3; angle += 0.37)
    for (double const width : {2.0, 3.5, 9.0}) {
      canvas c{200, 200, white};
      double const x = 70 * std::cos(angle), y = 70 * std::sin(angle);
      std::vector<point> const path{{100.3 - x, 100.1 - y}, {100, 100}, {100.3 + x, 100.1 + y}};
      c.stroke(path, width, black);
      double const want = 140 * width + std::numbers::pi * width * width / 4;
      CHECK(std::abs(darkness(c.drawn()) - want) <= 0.02 * want);
    }
}

TEST_CASE("canvas: a line that crosses itself covers no more there, and half an ink covers half") {
  std::vector<point> const path{{10, 50}, {90, 50}, {10, 50}, {90, 50}};
  canvas once{100, 100, white}, again{100, 100, white}, half{100, 100, white};
  once.stroke(std::vector<point>(path.begin(), path.begin() + 2), 4, black);
  again.stroke(path, 4, black);
  half.stroke(path, 4, {0, 0, 0, 0.5});
  CHECK(once.drawn() == again.drawn());
  CHECK(std::abs(darkness(half.drawn()) - darkness(once.drawn()) / 2) < 2);
}

TEST_CASE("canvas: boxes cover parts of pixels; nothing is drawn outside of the clip box or the picture") {
  canvas c{20, 20, white};
  c.fill({2.5, 3, 7.25, 9}, black);
  CHECK(std::abs(darkness(c.drawn()) - 4.75 * 6) < 0.1);
  canvas d{20, 20, white};
  d.clip({5, 5, 10, 10});
  d.fill({-100, -100, 100, 100}, black);
  CHECK(darkness(d.drawn()) == doctest::Approx(25));
  canvas e{20, 20, white};
  e.stroke(std::vector<point>{{-1e6, -3e6}, {1e6, 3e6}}, 2, black);
  e.stroke(std::vector<point>{{-500, -500}, {-400, 900}}, 2, black);
  CHECK(darkness(e.drawn()) > 0);
}

TEST_CASE("text: every character but the space has ink of its own, inside of its line and its width") {
  std::set<std::vector<std::uint8_t>> shapes;
  for (char ch = '!'; ch <= '~'; ++ch) {
    CAPTURE(ch);
    canvas c{80, 80, white};
    draw_text(c, {20, 50}, std::string(1, ch), {28, black, 2.2});
    CHECK(darkness(c.drawn()) > 3);
    CHECK(shapes.insert(c.drawn().pixels).second);
    canvas outside{80, 80, white};
    outside.clip({20 - 2.5, 50 - 24, 20 + text_width(std::string(1, ch), 28) + 2.5, 50 + 8});
    draw_text(outside, {20, 50}, std::string(1, ch), {28, black, 2.2});
    CHECK(outside.drawn() == c.drawn());
  }
  CHECK(text_width("ab", 28) > text_width("a", 28) + text_width("b", 28));
  CHECK(text_width("\xC3\xBC", 28) == text_width("?", 28));
  CHECK(text_width("", 28) == 0);
}

TEST_CASE("axis: ticks are round values inside of the axis, with as few digits as tell them apart") {
  CHECK(labels({0, 1}, 5) == words{"0", "0.2", "0.4", "0.6", "0.8", "1.0"});
  CHECK(labels({-0.1, 0.1}, 4) == words{"-0.10", "-0.05", "0", "0.05", "0.10"});
  CHECK(labels({0, 24000}, 5) == words{"0", "5k", "10k", "15k", "20k"});
  CHECK(labels({1e6, 2e6}, 4) == words{"1.0M", "1.5M", "2.0M"});
  CHECK(labels({0, 8e-5}, 4) == words{"0", "2e-5", "4e-5", "6e-5", "8e-5"});
  CHECK(labels({1e-6, 1e-3, true}, 6) == words{"1e-6", "1e-5", "1e-4", "1e-3"});
  CHECK(labels({0.5, 20, true}, 8) == words{"0.5", "1", "2", "5", "10", "20"});
  CHECK(labels({1e-12, 1, true}, 4) == words{"1e-12", "1e-9", "1e-6", "1e-3", "1e0"});
}

TEST_CASE("axis: holds its data and at least two ticks, whatever the data") {
  for (bool const log : {false, true})
    for (double const low : {1e-99, 3e-7, 0.93, 7.0, 1e16, 3e99})
      for (double const factor : {1.0, 1 + 1e-15, 1.001, 1.7, 40.0, 1e12})
        for (double const sign : {1.0, -1.0}) {
          if (log && sign < 0) continue;
          double const a = std::min(sign * low, sign * low * factor), b = std::max(sign * low, sign * low * factor);
          CAPTURE(a);
          CAPTURE(b);
          axis const x = axis_over(a, b, log, true, 6);
          CHECK(x.low <= a + 1e-6 * (x.high - x.low));
          CHECK(x.high >= b - 1e-6 * (x.high - x.low));
          CHECK(x.low < x.high);
          auto const marks = ticks(x, 6);
          CHECK(marks.size() >= 2);
          CHECK(marks.size() <= 12);
          for (tick const& t : marks) CHECK((x.place(t.value) > -1e-3 && x.place(t.value) < 1 + 1e-3));
        }
}

TEST_CASE("axis: a range of denormal numbers is a constant") {
  double const tiny = 5e-324;
  for (auto const& ends : {std::pair{0.0, tiny}, {-tiny, tiny}, {tiny, 2 * tiny}, {0.0, 1e-300}, {-1e-310, 0.0}})
    for (bool const round : {false, true}) {
      CAPTURE(ends.second);
      axis const x = axis_over(ends.first, ends.second, false, round, 6);
      CHECK(x.high - x.low >= 1);
      CHECK(ticks(x, 6).size() >= 2);
      CHECK(x.place(ends.second) == x.place(ends.first));
    }
  chart c;
  c.panels = {{"a", {{"a", {0, tiny}, {0, tiny}}, {"b", {1e-300, 2e-300}, {1, 2}}}, false}};
  CHECK(darkness(draw_chart(c)) > 0);
}

TEST_CASE("smooth: a constant stays, a step becomes e^-1 of itself at one reach, sparse points stay") {
  axis const across{0, 1000};
  std::vector<point> flat, step, sparse{{0, 1}, {500, 9}, {1000, 3}};
  for (int i = 0; i <= 1000; ++i) {
    flat.push_back({double(i), 2.5});
    step.push_back({double(i), i < 500 ? 0.0 : 1.0});
  }
  auto const before = sparse;
  smooth(flat, 0.02, true, across);
  smooth(step, 0.02, false, across);
  smooth(sparse, 0.02, false, across);
  CHECK(std::all_of(flat.begin(), flat.end(), [](point p) { return std::abs(p.y - 2.5) < 1e-12; }));
  for (std::size_t i = 0; i < 3; ++i) CHECK(std::abs(sparse[i].y - before[i].y) < 1e-9);
  // Two-sided exponential of reach 20 points: 0.5 e^-1 is left 20 points before the step, as much is missing after it.
  CHECK(std::abs(step[479].y - 0.5 * std::exp(-1)) < 0.01);
  CHECK(std::abs(1 - step[520].y - 0.5 * std::exp(-1)) < 0.01);
}

TEST_CASE("thinned: a curve of many points in a column draws the same picture") {
  std::vector<point> all;
  for (int i = 0; i < 20000; ++i) all.push_back({i * 0.01, 50 + 40 * std::sin(i * 0.8) * std::cos(i * 0.0003)});
  auto const few = thinned(all);
  CHECK(few.size() <= 8 * 200);
  canvas a{100, 200, white}, b{100, 200, white};
  a.stroke(all, 2, black);
  b.stroke(few, 2, black);
  double different = 0;
  for (std::size_t i = 0; i < a.drawn().pixels.size(); ++i)
    different += std::abs(a.drawn().pixels[i] - b.drawn().pixels[i]) > 64 ? 1 : 0;
  CHECK(different < 0.01 * double(a.drawn().pixels.size()));
}

TEST_CASE("chart: a curve's points stand at their values, those that cannot be shown are left out") {
  ink const blue = chart_look{}.curves[0];
  chart c;
  c.panels = {{"", {{"", {0, 500, 700, 800, 1000}, {0, 50, not_a_number, 1e200, 100}}}, false}};
  picture const p = draw_chart(c);
  CHECK(p.width == 1200);
  // A straight line: its middle is half way between its ends, in each part of the panel.
  point const left = centre(p, blue, 300, 400), middle = centre(p, blue, 600, 700), right = centre(p, blue, 900, 1000);
  CHECK(std::abs((left.y + right.y) / 2 - middle.y) < 0.5);
  CHECK(left.y > middle.y + 50);
  c.panels[0].curves[0].y = {not_a_number, not_a_number, not_a_number, not_a_number, not_a_number};
  CHECK(draw_chart(c).pixels.size() == p.pixels.size());
}

TEST_CASE("chart: odd charts are drawn, senseless ones refused") {
  chart c;
  CHECK_THROWS_AS((void)draw_chart(c), shape_error);
  c.panels = {{"a title that is much longer than the panel is wide, and goes on and on", {}, true},
              {"empty", {{"none", {}, {}}, {std::string(200, 'w'), {1}, {-1}}}, true},
              {"", {{"constant", {5, 5, 5}, {1e99, 1e99, 1e99}}}, false},
              {"tiny", {{"t", {-1e99, 1e99}, {1e-99, 2e-99}}}, true}};
  c.title = "title";
  c.x_title = "x";
  c.panel_width = 300;
  c.panel_height = 200;
  for (bool const log : {false, true})
    for (double const smoothing : {0.0, 0.1}) {
      c.log_x = log;
      c.smoothing = smoothing;
      CHECK(darkness(draw_chart(c)) > 0);
    }
  c.smoothing = not_a_number;
  CHECK_THROWS_AS((void)draw_chart(c), shape_error);
  c.smoothing = 0;
  c.panels[0].curves = {{"uneven", {1, 2}, {1}}};
  CHECK_THROWS_AS((void)draw_chart(c), shape_error);
  c.panels[0].curves.clear();
  c.panel_width = 20;
  CHECK_THROWS_AS((void)draw_chart(c), shape_error);
}
