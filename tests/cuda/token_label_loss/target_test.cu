#include <dm2/cuda/token_label_loss.cuh>
#include <dm2/io/half.hpp>

#include <doctest/doctest.h>

#include "cuda/support/device_array.cuh"
#include "cuda/token_label_loss/label_map_case.cuh"
#include "support/golden.hpp"
#include "support/views.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

/// The targets that a loss had: with equal logits, mass / K - gradient / weight.
template <int K, int Side>
struct read_targets {
  static constexpr int tokens = Side * Side;
  golden file{"targets.safetensors"};
  std::string name;
  std::vector<double> maps, crops, labels;
  int height, width;
  cuda::context<cuda::precision::fp32> ctx;

  read_targets(std::string const& n, int h, int w)
      : name{n},
        maps{file.get(name + "/top5")},
        crops{file.get(name + "/crop")},
        labels{file.get(name + "/label")},
        height{h},
        width{w} {}

  /// [B, K, columns] of the file to [B, columns, K], without the ground truth.
  [[nodiscard]] std::vector<double> want(std::string const& kind) const {
    auto const t = file.get(name + "/" + kind);
    std::vector<double> rows;
    for (std::size_t b = 0; b < labels.size(); ++b)
      for (std::size_t r = 1; r < 2 + tokens; ++r)
        for (std::size_t c = 0; c < K; ++c) rows.push_back(t[(b * K + c) * (2 + tokens) + r]);
    return rows;
  }

  [[nodiscard]] std::vector<double> got(std::vector<cuda::label_sample> const& samples, double mass) {
    std::size_t const batch = labels.size(), one = std::size_t{tokens} * K;
    device_array<float> const cls{std::vector<double>(batch * K, 0.0)}, aux{std::vector<double>(batch * one, 0.0)};
    device_array<float> const values{maps};
    device_records<cuda::label_sample> const records{samples};
    device_records<cuda::token_label_sums> const sums{{{}}};
    cuda::label_maps<float> const m{values.data(), records.data(), std::max(height, width), Side, Side, 0.1};
    cuda::token_label_loss(ctx, rows<float const, K, space::device>{cls.as_rows<K>()}, aux.as_rows<K>(), m, nullptr,
                           cls.as_rows<K>(), aux.as_rows<K>(), sums.data(), {.scale = double(batch)});
    auto const dcls = cls.read(), daux = aux.read();
    std::vector<double> rows;
    for (std::size_t b = 0; b < batch; ++b) {
      for (std::size_t c = 0; c < K; ++c) rows.push_back(mass / K - dcls[b * K + c]);
      for (std::size_t i = 0; i < one; ++i) rows.push_back(mass / K - tokens * daux[b * one + i]);
    }
    return rows;
  }

  void check(crop_convention convention) {
    std::vector<cuda::label_sample> samples;
    std::size_t const size = maps.size() / labels.size();
    for (std::size_t b = 0; b < labels.size(); ++b)
      samples.push_back(cuda::make_label_sample(b * size, height, width,
                                                {crops[4 * b], crops[4 * b + 1], crops[4 * b + 2], crops[4 * b + 3]},
                                                int(labels[b]), Side, Side, convention));
    auto const kind = convention == crop_convention::published ? "published" : "aligned";
    CHECK(relative_error(got(samples, 1 + 0.1 / K), want(kind)) < 1e-6);
  }
  void check_hard() {
    std::vector<cuda::label_sample> samples;
    for (double label : labels) samples.push_back(cuda::make_label_sample(int(label)));
    CHECK(relative_error(got(samples, 1), want("hard")) < 1e-6);
  }
};

/// A case whose one flaw makes the loss NaN.
struct flawed_case {
  label_map_case<cuda::precision::bf16, 10> f{3, 2, 2};
  device_records<cuda::finite_guard> guard{{{0, cuda::bad_number::none, 0}}};
  device_records<std::int64_t> step{{7}};

  [[nodiscard]] cuda::finite_guard after(int micro_batch) {
    auto const r = f.got({}, {.check = {guard.data(), step.data(), micro_batch}});
    CAPTURE(r.loss);
    return guard.read()[0];
  }
};

}  // namespace

TEST_CASE("cuda token_label_loss: the targets equal the reference's in both crop conventions") {
  read_targets<20, 14> square{"square", 18, 18};
  read_targets<8, 5> tall{"tall", 12, 9};
  for (auto convention : {crop_convention::published, crop_convention::aligned}) {
    square.check(convention);
    tall.check(convention);
  }
}

TEST_CASE("cuda token_label_loss: the targets without label maps equal the reference's") {
  read_targets<20, 14>{"square", 18, 18}.check_hard();
  read_targets<8, 5>{"tall", 12, 9}.check_hard();
  read_targets<6, 1>{"single", 9, 9}.check_hard();
}

TEST_CASE("cuda token_label_loss: what is not finite is reported once, with its step and micro-batch") {
  flawed_case c;
  CHECK(c.after(1).step == 0);
  double const was = c.f.aux[5];
  c.f.aux[5] = std::numeric_limits<double>::quiet_NaN();
  auto first = c.after(2);
  CHECK(first.step == 7);
  CHECK(first.what == cuda::bad_number::loss);
  CHECK(first.micro_batch == 2);
  c.step.write({8});
  CHECK(c.after(3).step == 7);
  CHECK(c.after(3).micro_batch == 2);
  c.f.aux[5] = was;
  c.guard.write({{0, cuda::bad_number::none, 0}});
  CHECK(c.after(0).step == 0);
  c.f.cls[3] = std::numeric_limits<double>::infinity();
  CHECK(c.after(0).step == 8);
}

TEST_CASE("cuda token_label_loss: a class that is out of range makes the loss NaN, in a map or as a label") {
  for (float bad : {-1.f, 10.f, 1e30f, std::nanf("")}) {
    flawed_case c;
    for (std::size_t i = 5 * 18 * 18; i < 10 * 18 * 18; ++i) c.f.maps[i] = bad;
    CHECK(c.after(0).step == 7);
  }
  for (int bad : {-1, 10}) {
    flawed_case c;
    c.f.samples[2] = cuda::make_label_sample(bad);
    CHECK(c.after(0).step == 7);
  }
}

TEST_CASE("cuda token_label_loss: row counts that disagree are refused by name, and nothing is written") {
  constexpr int K = 10;
  cuda::context<cuda::precision::bf16> ctx;
  device_array<float> const cls(3 * K);
  device_array<__nv_bfloat16> const aux(12 * K);
  auto const run = [&](std::size_t samples, std::size_t patches, std::size_t dcls, std::size_t daux, int grid_rows) {
    cuda::label_maps<float> const maps{nullptr, nullptr, 18, grid_rows, 2, 0.1};
    cuda::token_label_loss(ctx, rows<float const, K, space::device>{cls.data(), samples}, {aux.data(), patches}, maps,
                           nullptr, {cls.data(), dcls}, rows<__nv_bfloat16, K, space::device>{aux.data(), daux},
                           nullptr);
  };
  CHECK(shape_message([&] { run(3, 11, 3, 12, 2); }) == "token_label_loss.aux rows: got 11, expected 9");
  CHECK(shape_message([&] { run(3, 12, 2, 12, 2); }) == "token_label_loss.dcls rows: got 2, expected 3");
  CHECK(shape_message([&] { run(3, 12, 3, 11, 2); }) == "token_label_loss.daux rows: got 11, expected 12");
  CHECK(shape_message([&] { run(0, 0, 0, 0, 2); }) == "token_label_loss: no samples or no patches");
  CHECK(shape_message([&] { run(3, 12, 3, 12, 3); }) == "token_label_loss.maps: patches: got 6, expected 4");
  for (double v : cls.read()) CHECK(std::isnan(v));
  for (double v : aux.read()) CHECK(std::isnan(v));
}
