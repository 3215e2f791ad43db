#include <dm2/cuda/finite_guard.cuh>
#include <dm2/cuda/gradient_norm.cuh>

#include <doctest/doctest.h>

#include "cuda/optimizer_case.cuh"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
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
    cuda::measure_gradients(device.ctx, device.gradients.data(), device.lines.data(), device.n, limit,
                            device.measure.data(), {}, scale);
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

TEST_CASE("cuda measure_gradients: finite gradients whose squares float does not hold have a norm") {
  for (double size : {1e25, 1e-25}) {
    cuda::context<cuda::precision::fp32> ctx;
    device_array<float> const g{std::vector<double>(128, size)};
    device_records<std::uint16_t> const lines{{cuda::update_line::moved, cuda::update_line::moved}};
    device_records<cuda::gradient_measure> const measure{{{}}};
    cuda::measure_gradients(ctx, g.data(), lines.data(), 128, 0, measure.data());
    CHECK(measure.read()[0].norm == doctest::Approx(double(float(size)) * std::sqrt(128.0)).epsilon(1e-12));
  }
}

TEST_CASE("cuda first_not_finite: names the first tensor of the wanted kinds") {
  host_run<little, float> host{lion, 0.75};
  device_run<little, cuda::precision::bf16> device{host};
  std::span<parameter_entry const> const table = host.net.table();
  auto const first = [&](auto... kinds) {
    auto const ranges = cuda::table_ranges(table, kinds...);
    device_records<cuda::number_range> const on_device{ranges};
    device_records<int> const found{{-7}};
    cuda::first_not_finite(device.ctx, device.weights.data(), on_device.data(), int(ranges.size()), found.data());
    return found.read()[0];
  };
  auto const spoil = [&](std::size_t entry, std::size_t at) {
    float const bad = -INFINITY;
    cuda::check(cudaMemcpy(device.weights.data() + table[entry].offset + at, &bad, sizeof bad, cudaMemcpyHostToDevice),
                "spoil");
  };
  auto const entry_of = [&](entry_kind kind, std::size_t from) {
    while (table[from].kind != kind) ++from;
    return from;
  };
  CHECK(first(entry_kind::parameter, entry_kind::statistic) == -1);
  std::size_t const last = table.size() - 1, weight = entry_of(entry_kind::parameter, 30);
  spoil(last, table[last].size - 1);
  CHECK(first(entry_kind::parameter) == int(last));
  spoil(weight, 0);
  CHECK(first(entry_kind::parameter) == int(weight));
  std::size_t const statistic = entry_of(entry_kind::statistic, 0);
  CHECK(first(entry_kind::statistic) == -1);
  spoil(statistic, 1);
  CHECK(first(entry_kind::statistic) == int(statistic));
  CHECK(first(entry_kind::parameter) == int(weight));
}
