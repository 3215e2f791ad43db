// Draws docs/pictures/roofline_h100.png from the times in results/h100.md; bytes and FLOPs are computed.
//
//   dm2_roofline docs/pictures/roofline_h100.png
#include <dm2/data/encode_png.hpp>
#include <dm2/train/log/chart.hpp>

#include "support/bytes.hpp"
#include "support/flops.hpp"

#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

namespace {

using namespace dm2;
using namespace dm2::bench;

// results/h100.md, one H100 80 GB HBM3: the device's ceilings, and what was measured with the device's full clock.
constexpr double copy = 2.43e12, product = 800e12;

struct measured {
  std::string name;
  double flops, bytes, seconds;
};

template <config C>
measured network(std::string const& name, double batch, double milliseconds) {
  return {name, forward_flops<C>() * batch, evaluation_bytes<C>{batch}.total(), milliseconds * 1e-3};
}

std::vector<measured> figures() {
  using size = sizes<tiny>;
  constexpr mixer_shape m = size::mixer;
  evaluation_bytes<tiny> const bytes{256};
  core_widths const w = widths_of<tiny>(0);
  return {{"mixer core", 256 * mixer_core_flops(m, size::length), bytes.core(w), 181.7e-6},
          {"project_add_norm", 256 * mixer_projection_flops<tiny>(), bytes.project_add_norm(w, w), 118.6e-6},
          {"scan, 256 x 197", 256 * scan_flops(m, 197), scan_bytes(m, 256 * 197), 60.8e-6},
          {"scan, 64 x 3137", 64 * chunked_scan_flops(m, 3137), scan_bytes(m, 64 * 3137), 331.6e-6},
          network<tiny>("Tiny, batch 256", 256, 8.649),
          network<small>("Small, batch 256", 256, 16.023),
          network<tiny>("Tiny, batch 1", 1, 0.348)};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 || argv[1][0] == '-') {
    std::fputs("dm2_roofline FILE.png\n", stderr);
    return 2;
  }
  try {
    double const least = 20, knee = product / copy, most = 1000;
    chart c{.title = "H100: what was measured, under the device's own copy and product",
            .x_title = "floating-point operations a byte",
            .panels = {{.title = "TFLOP/s", .curves = {}, .log_y = true}},
            .panel_height = 700,
            .log_x = true};
    auto& curves = c.panels[0].curves;
    curves.push_back({"device", {least, knee, most}, {least * copy / 1e12, product / 1e12, product / 1e12}});
    std::puts("| | GFLOP | MB | FLOP a byte | us | TFLOP/s | TB/s | roofline us | of it |");
    std::puts("|---|---:|---:|---:|---:|---:|---:|---:|---:|");
    for (measured const& f : figures()) {
      double const rate = f.flops / f.seconds, floor = std::max(f.bytes / copy, f.flops / product);
      std::printf("| %s | %.2f | %.1f | %.0f | %.1f | %.1f | %.2f | %.1f | %.0f %% |\n", f.name.c_str(), f.flops / 1e9,
                  f.bytes / 1e6, f.flops / f.bytes, f.seconds * 1e6, rate / 1e12, f.bytes / f.seconds / 1e12,
                  floor * 1e6, 100 * floor / f.seconds);
      curves.push_back({f.name, {f.flops / f.bytes}, {rate / 1e12}});
    }
    write_png(argv[1], draw_chart(c));
  } catch (std::exception const& problem) {
    std::fprintf(stderr, "dm2_roofline: %s\n", problem.what());
    return 1;
  }
}
