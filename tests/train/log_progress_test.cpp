/// @file
/// Meters, status lines and picture grids.
#include <dm2/train/log/picture_grid.hpp>
#include <dm2/train/log/progress.hpp>
#include <dm2/train/log/training_meter.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

using namespace dm2;

namespace {
bool near(double got, double want) { return std::abs(got - want) <= 1e-9 * std::abs(want); }
}  // namespace

TEST_CASE("training_meter: steps of one kind give that kind's numbers from the first on") {
  training_meter m;
  CHECK(m.loss() == 0);
  CHECK(m.images_per_second() == 0);
  CHECK(m.waiting_share() == 0);
  CHECK(m.seconds_for(10) == 0);
  for (int i = 0; i < 200; ++i) {
    m.add({2.5, 64, 0.1, 0.5});
    CHECK(near(m.loss(), 2.5));
    CHECK(near(m.images_per_second(), 128));
    CHECK(near(m.waiting_share(), 0.2));
    CHECK(near(m.seconds_for(7), 3.5));
  }
}

TEST_CASE("training_meter: the loss is the mean over images, restarted; the speeds follow a change and go on") {
  training_meter m;
  m.add({1, 30, 0, 1});
  m.add({4, 10, 0, 1});
  CHECK(near(m.loss(), 1.75));
  CHECK(m.images() == 40);
  m.restart();
  CHECK(m.images() == 0);
  CHECK(m.loss() == 0);
  CHECK(near(m.seconds_for(3), 3));
  for (int i = 0; i < 1000; ++i) m.add({1, 20, 0, 2});
  for (int i = 0; i < 50; ++i) m.add({1, 20, 0, 4});
  CHECK(std::abs(m.seconds_for(1) - (4 - 2 / std::exp(1.0))) < 1e-6);
  m.add({std::numeric_limits<double>::quiet_NaN(), 20, 0, 2});
  CHECK(std::isnan(m.loss()));
}

TEST_CASE("progress: durations read as a clock does") {
  CHECK(duration_text(0) == "0:00");
  CHECK(duration_text(59.4) == "0:59");
  CHECK(duration_text(59.6) == "1:00");
  CHECK(duration_text(3599) == "59:59");
  CHECK(duration_text(3600) == "1:00:00");
  CHECK(duration_text(2 * 86400 + 3 * 3600 + 12 * 60) == "2 d 03:12");
  for (double const odd : {-1.0, 1e300, std::numeric_limits<double>::quiet_NaN()}) CHECK(duration_text(odd) == "?");
}

TEST_CASE("progress: the bar is full at the end only") {
  CHECK(bar_text(0, 10, 4) == "[....]");
  CHECK(bar_text(5, 10, 4) == "[##..]");
  CHECK(bar_text(9, 10, 4) == "[###.]");
  CHECK(bar_text(10, 10, 4) == "[####]");
  CHECK(bar_text(11, 10, 4) == "[####]");
  CHECK(bar_text(0, 0, 4) == "[####]");
}

TEST_CASE("progress: the training line holds epoch, loss, speed, rate, share of waiting and the run's time left") {
  training_meter m;
  for (int i = 0; i < 3; ++i) m.add({5.12341, 128, 0.003, 0.1});
  training_position const at{3, 4, 120, 480, 8e-4};
  CHECK(at.steps_left() == 480 + 360);
  CHECK(training_line(at, m) ==
        "epoch 3/4 [##........] 120/480  loss 5.1234  1280 img/s  lr 8.0e-04  data 3 %  1:24 left");
}

TEST_CASE("progress: a line that is switched off draws nothing") {
  status_line line{false};
  CHECK_FALSE(line.due());
  line.show("text");
  line.clear();
}

TEST_CASE("picture_grid: pictures in rows, smaller ones in the middle of their cells, paper between") {
  auto const plain = [](int height, int width, int grey) {
    picture p{height, width};
    std::fill(p.pixels.begin(), p.pixels.end(), static_cast<std::uint8_t>(grey));
    return p;
  };
  std::vector<picture> const pictures{plain(2, 3, 10), plain(2, 1, 20), plain(2, 3, 30)};
  picture const grid = picture_grid(pictures, 2, 1, 9);
  REQUIRE(grid.height == 5);
  REQUIRE(grid.width == 7);
  std::string const want =
      "aaa..b."
      "aaa..b."
      "......."
      "ccc...."
      "ccc....";
  for (int y = 0; y < 5; ++y)
    for (int x = 0; x < 7; ++x) {
      char const is = want[static_cast<std::size_t>(7 * y + x)];
      int const grey = is == 'a' ? 10 : is == 'b' ? 20 : is == 'c' ? 30 : 9;
      for (int c = 0; c < 3; ++c) CHECK(grid.row(y)[3 * x + c] == grey);
    }
  CHECK(picture_grid(pictures, 8, 0).width == 9);
  CHECK(picture_grid(std::vector{pictures[0]}, 3, 5) == pictures[0]);
  CHECK_THROWS_AS((void)picture_grid({}, 2, 1), shape_error);
  CHECK_THROWS_AS((void)picture_grid(pictures, 0, 1), shape_error);
  CHECK_THROWS_AS((void)picture_grid(pictures, 2, -1), shape_error);
  CHECK_THROWS_AS((void)picture_grid(pictures, 3, std::numeric_limits<int>::max()), shape_error);
  CHECK_THROWS_AS((void)picture_grid(std::vector{picture{}}, 2, 1), shape_error);
}
