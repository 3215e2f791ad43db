// Writes event files for tensorboard_check.py: a run that is stopped after step 3 and resumed at step 2.
#include <dm2/train/log/tensorboard_log.hpp>

#include <cstdint>
#include <cstdio>
#include <exception>
#include <limits>

namespace {

/// red = 3 x, green = 5 y, blue = 100
dm2::picture ramp(int height, int width) {
  dm2::picture p{height, width};
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) {
      std::uint8_t* const at = p.row(y) + 3 * x;
      at[0] = static_cast<std::uint8_t>(3 * x);
      at[1] = static_cast<std::uint8_t>(5 * y);
      at[2] = 100;
    }
  return p;
}

void write(char const* folder) {
  {
    dm2::tensorboard_log log{folder};
    log.text("configuration", 0, "| epochs | 300 |\n\u00fc");
    for (int step = 0; step < 4; ++step) log.scalar("loss/train", step, 8.0 / (step + 1));
    log.scalar("only/lost", 3, 1);
    log.scalar("odd/nan", 1, std::numeric_limits<double>::quiet_NaN());
    log.scalar("odd/infinity", 1, -std::numeric_limits<double>::infinity());
    log.image("maps", 1, ramp(20, 30));
    log.image("maps", 3, ramp(4, 4));
  }
  dm2::tensorboard_log log{folder, 1};
  for (int step = 2; step < 300; ++step) log.scalar("loss/train", step, step == 299 ? 1e-30 : -step);
  log.scalar("loss/train", std::int64_t{5'000'000'000}, 0.1);
  log.image("maps", 299, ramp(50, 70));
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2) return 2;
  write(argv[1]);
  return 0;
} catch (std::exception const& problem) {
  std::fprintf(stderr, "%s\n", problem.what());
  return 1;
}
