#include <dm2/cuda/optimizer_step.cuh>

#include <doctest/doctest.h>

#include "cuda/optimizer_case.cuh"

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

optimizer_options const lion{.kind = optimizer_kind::lion};

}  // namespace

TEST_CASE("cuda measure_gradients: norm, factor and scale, of the lines that move, in two runs the same bytes") {
  host_run<little, float> host{lion, 0.75};
  double square = 0;
  for (float g : host.gradients) square += double(g) * double(g);
  for (parameter_entry const& e : host.net.table())  // no one's gradients
    if (e.kind == entry_kind::statistic || e.kind == entry_kind::unused) host.gradients[e.offset] = NAN;
  device_run<little, cuda::precision::bf16> device{host};
  auto const measured = [&](double limit, double scale) {
    cuda::measure_gradients(device.ctx, device.gradients.data(), device.lines.data(), device.n,
                            {.limit = limit, .scale = scale}, device.measure.data());
    return device.measure.read()[0];
  };
  double const norm = std::sqrt(square);
  CHECK(measured(0, 1).norm == doctest::Approx(norm).epsilon(1e-12));
  CHECK(measured(0, 1).factor == 1.f);
  CHECK(measured(0, 0.5).norm == doctest::Approx(0.5 * norm).epsilon(1e-12));
  CHECK(measured(0, 0.5).factor == 0.5f);
  CHECK(measured(2 * norm, 1).factor == 1.f);
  CHECK(measured(norm / 2, 1).factor == float(norm / 2 / (norm + 1e-6)));
  CHECK(measured(norm / 2, 0.25).factor == 0.25f);
  CHECK(measured(norm / 8, 0.25).factor == float(0.25 * (norm / 8 / (0.25 * norm + 1e-6))));
  CHECK(measured(1, 1).norm == measured(1, 1).norm);
}

TEST_CASE(
    "cuda measure_gradients: from the squares of lines, wherever they were summed, it is the same to the last bit") {
  host_run<little, float> host{lion, 0.75};
  device_run<little, cuda::precision::bf16> device{host};
  cuda::measure_options const o{.limit = 0.3, .scale = 0.5};
  cuda::measure_gradients(device.ctx, device.gradients.data(), device.lines.data(), device.n, o, device.measure.data());
  auto const whole = device.measure.read()[0];
  REQUIRE(whole.norm > 0);
  cuda::device_memory const memory{device.n / 64 * sizeof(double)};
  double* const sums = reinterpret_cast<double*>(memory.data());
  std::size_t const cut = device.n / 64 / 3 * 64;
  std::array<std::pair<std::size_t, std::size_t>, 2> const pieces{{{cut, device.n}, {0, cut}}};
  for (auto const& [first, end] : pieces)
    cuda::measure_line_squares(device.ctx, device.gradients.data() + first, device.lines.data() + first / 64,
                               end - first, sums + first / 64);
  cuda::measure_from_lines(device.ctx, sums, device.lines.data(), device.n, o, device.measure.data());
  auto const parts = device.measure.read()[0];
  CHECK(parts.norm == whole.norm);
  CHECK(parts.factor == whole.factor);
}

TEST_CASE("cuda measure_gradients: finite gradients whose squares float does not hold have a norm") {
  for (double size : {1e25, 1e-25}) {
    cuda::context<cuda::precision::fp32> ctx;
    device_array<float> const g{std::vector<double>(128, size)};
    device_records<std::uint16_t> const lines{{cuda::update_line::moved, cuda::update_line::moved}};
    device_records<cuda::gradient_measure> const measure{{{}}};
    cuda::measure_gradients(ctx, g.data(), lines.data(), 128, {}, measure.data());
    CHECK(measure.read()[0].norm == doctest::Approx(double(float(size)) * std::sqrt(128.0)).epsilon(1e-12));
  }
}
