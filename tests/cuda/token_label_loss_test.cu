#include <dm2/cuda/device/stream.cuh>
#include <dm2/cuda/token_label_loss.cuh>

#include <doctest/doctest.h>

#include "cuda/support/device_array.cuh"
#include "cuda/support/precisions.cuh"
#include "cuda/token_label_loss/label_map_case.cuh"
#include "support/compare.hpp"
#include "support/views.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

/// The gradients are rounded to T once; the rest of the way is float's.
template <class T>
constexpr double tolerance = cuda::is_half<T> ? rounding_tolerance<T> : 2e-6;

/// Keeps half's gradients above its smallest number.
constexpr double scale = 512;

template <cuda::precision P, int K>
void check_maps(int batch, int rows, int cols, mix_box box, crop_convention convention) {
  CAPTURE(K);
  CAPTURE(batch);
  label_map_case<P, K> f{batch, rows, cols, convention};
  auto const want = f.want(box, scale), got = f.got(box, {.scale = scale});
  CHECK(std::abs(got.loss - want.loss) <= 2e-6 * want.loss);
  CHECK(got.rest == 0);
  CHECK(relative_error(got.dcls, want.dcls) < 2e-6);
  CHECK(relative_error(got.daux, want.daux) < tolerance<cuda::element<P>>);
}

}  // namespace

TEST_CASE_TEMPLATE("cuda token_label_loss: equals the CPU's in double, from label maps", P, DM2_PRECISIONS) {
  for (auto convention : {crop_convention::published, crop_convention::aligned}) {
    check_maps<P::value, 2>(3, 3, 2, {1, 3, 0, 1}, convention);
    check_maps<P::value, 10>(1, 1, 1, {}, convention);
    check_maps<P::value, 33>(4, 2, 5, {0, 1, 1, 4}, convention);
    check_maps<P::value, 1000>(4, 14, 14, {2, 9, 3, 14}, convention);
    check_maps<P::value, 1003>(2, 3, 3, {0, 3, 0, 3}, convention);
  }
  check_maps<P::value, 2048>(3, 2, 2, {}, crop_convention::published);
  check_maps<P::value, 2049>(3, 2, 2, {1, 2, 0, 2}, crop_convention::published);
  check_maps<P::value, 21841>(2, 2, 1, {}, crop_convention::published);
  check_maps<P::value, 30000>(2, 1, 2, {0, 1, 0, 1}, crop_convention::published);  // no room in shared memory
}

TEST_CASE("cuda token_label_loss: so many patches that a warp takes several") {
  check_maps<cuda::precision::fp32, 12>(2, 93, 92, {3, 20, 5, 28}, crop_convention::published);
}

TEST_CASE_TEMPLATE("cuda token_label_loss: as many patches as large pictures have [long]", P, in_bf16, in_fp32) {
  check_maps<P::value, 1000>(5, 28, 28, {3, 20, 5, 28}, crop_convention::published);
  check_maps<P::value, 1000>(3, 56, 56, {0, 56, 7, 40}, crop_convention::aligned);
  check_maps<P::value, 21841>(2, 28, 28, {3, 20, 5, 28}, crop_convention::aligned);
}

TEST_CASE("cuda token_label_loss: sparse and dense targets on the device give the loss of their label maps") {
  constexpr int K = 40;
  label_map_case<cuda::precision::fp32, K> f{4, 3, 5};
  mix_box const box{1, 3, 0, 4};
  auto const want = f.want(box, 1);
  auto const host = f.targets.rows();
  std::size_t const entries = host.begin[host.count];
  device_array<float> const base{std::vector<double>(host.base, host.base + host.count)};
  device_array<float> const extra{std::vector<double>(host.extra, host.extra + entries)};
  device_records<std::uint32_t> const begin{{host.begin, host.begin + host.count + 1}};
  device_records<std::uint32_t> const index{{host.index, host.index + entries}};
  std::vector<double> rows_of_all;
  for (std::size_t r = 0; r < host.count; ++r) {
    std::vector<double> row(K, host.base[r]);
    for (std::size_t i = host.begin[r]; i < host.begin[r + 1]; ++i) row[host.index[i]] += host.extra[i];
    // the ground truth, which is not read
    if (r % std::size_t(1 + f.tokens()) == 0) rows_of_all.insert(rows_of_all.end(), K, std::nan(""));
    rows_of_all.insert(rows_of_all.end(), row.begin(), row.end());
  }
  device_array<float> const dense{rows_of_all};
  auto const sparse = f.got(box, [&](auto c, auto a, mix_box const* where, cuda::token_label_sums* sums) {
    sparse_rows<float> const target{base.data(), begin.data(), index.data(), extra.data(), host.count};
    cuda::token_label_loss(f.ctx, rows<float const, K, space::device>{c}, a, target, where, c, a, sums);
  });
  auto const whole = f.got(box, [&](auto c, auto a, mix_box const* where, cuda::token_label_sums* sums) {
    cuda::token_label_loss(f.ctx, rows<float const, K, space::device>{c}, a, dense.as_rows<K>(), where, c, a, sums);
  });
  for (auto const& got : {sparse, whole}) {
    CHECK(std::abs(got.loss - want.loss) <= 2e-6 * want.loss);
    CHECK(relative_error(got.dcls, want.dcls) < 2e-6);
    CHECK(relative_error(got.daux, want.daux) < 2e-6);
  }
}

TEST_CASE("cuda token_label_loss: sparse and dense targets of more classes than a warp's row has") {
  constexpr int K = 2100;
  label_map_case<cuda::precision::fp32, K> f{3, 1, 2};
  auto const want = f.want({}, 1);
  auto const host = f.targets.rows();
  std::size_t const entries = host.begin[host.count];
  device_array<float> const base{std::vector<double>(host.base, host.base + host.count)};
  device_array<float> const extra{std::vector<double>(host.extra, host.extra + entries)};
  device_records<std::uint32_t> const begin{{host.begin, host.begin + host.count + 1}};
  device_records<std::uint32_t> const index{{host.index, host.index + entries}};
  auto const got = f.got({}, [&](auto c, auto a, mix_box const*, cuda::token_label_sums* sums) {
    sparse_rows<float> const target{base.data(), begin.data(), index.data(), extra.data(), host.count};
    cuda::token_label_loss(f.ctx, rows<float const, K, space::device>{c}, a, target, nullptr, c, a, sums);
  });
  CHECK(relative_error(got.dcls, want.dcls) < 2e-6);
  CHECK(relative_error(got.daux, want.daux) < 2e-6);
}

TEST_CASE("cuda token_label_loss: logits in the mixed order give the gradients of logits mixed back, in that order") {
  constexpr int K = 24;
  label_map_case<cuda::precision::bf16, K> f{5, 4, 3};
  mix_box const box{1, 4, 1, 3};
  auto const restored = f.got(box, {.scale = scale});
  auto const exchange = [&](std::vector<double> x) {
    auto const y = x;
    for (int b = 0; b < f.batch; ++b)
      for (int i = box.row0; i < box.row1; ++i)
        for (int j = box.col0; j < box.col1; ++j)
          for (int k = 0; k < K; ++k) {
            int const at = (i * f.width + j) * K + k, size = f.tokens() * K;
            x[std::size_t(b * size + at)] = y[std::size_t((f.batch - 1 - b) * size + at)];
          }
    return x;
  };
  f.aux = exchange(f.aux);
  auto const mixed = f.got(box, {.scale = scale, .mixed = true});
  CHECK(mixed.dcls == restored.dcls);
  CHECK(exchange(mixed.daux) == restored.daux);
  CHECK(mixed.loss == doctest::Approx(restored.loss).epsilon(1e-6));
}

TEST_CASE("cuda token_label_loss: two runs give the same bytes, and so do gradients in memory of their own") {
  constexpr int K = 56;
  label_map_case<cuda::precision::bf16, K> f{4, 5, 5};
  auto const one = f.got({0, 3, 2, 5}, {}), two = f.got({0, 3, 2, 5}, {});
  CHECK(one.loss == two.loss);
  CHECK(one.dcls == two.dcls);
  CHECK(one.daux == two.daux);
  device_array<float> const dcls{f.cls.size()};
  device_array<__nv_bfloat16> const daux{f.aux.size()};
  device_array<float> const maps{f.maps};
  device_records<cuda::label_sample> const records{f.samples};
  auto const kept = f.got({0, 3, 2, 5}, [&](auto c, auto a, mix_box const* where, cuda::token_label_sums* sums) {
    cuda::label_maps<float> const m{maps.data(), records.data(), 18, 5, 5, 0.1};
    cuda::token_label_loss(f.ctx, rows<float const, K, space::device>{c}, a, m, where, dcls.as_rows<K>(),
                           daux.as_rows<K>(), sums);
  });
  CHECK(kept.dcls == f.cls);
  CHECK(kept.daux == f.aux);
  CHECK(dcls.read() == one.dcls);
  CHECK(daux.read() == one.daux);
}

TEST_CASE("cuda token_label_loss: logits that no packet starts at") {
  constexpr int K = 16;
  label_map_case<cuda::precision::bf16, K> f{3, 2, 2};
  auto const want = f.got({}, {.scale = scale});
  device_array<float> const c{f.cls}, maps{f.maps};
  std::vector<double> shifted(1, 0.0);
  shifted.insert(shifted.end(), f.aux.begin(), f.aux.end());
  device_array<__nv_bfloat16> const a{shifted};
  device_records<cuda::label_sample> const records{f.samples};
  device_records<cuda::token_label_sums> const sums{{{}}};
  cuda::label_maps<float> const m{maps.data(), records.data(), 18, 2, 2, 0.1};
  rows<__nv_bfloat16, K, space::device> const odd{a.data() + 1, f.patches()};
  cuda::token_label_loss(f.ctx, rows<float const, K, space::device>{c.as_rows<K>()}, odd, m, nullptr, c.as_rows<K>(),
                         odd, sums.data(), {.scale = scale});
  auto const got = a.read();
  CHECK(relative_error(std::vector<double>(got.begin() + 1, got.end()), want.daux) < 1e-4);
}

TEST_CASE("cuda token_label_loss: maps of half precision") {
  constexpr int K = 100;
  label_map_case<cuda::precision::fp32, K> f{2, 3, 3};
  for (float& v : f.maps) v = float(__half2float(__float2half_rn(v)));
  auto const want = f.got({}, {});
  device_array<__half> const maps{f.maps};
  device_records<cuda::label_sample> const records{f.samples};
  auto const got = f.got({}, [&](auto c, auto a, mix_box const*, cuda::token_label_sums* sums) {
    cuda::label_maps<__half> const m{maps.data(), records.data(), 18, 3, 3, 0.1};
    cuda::token_label_loss(f.ctx, rows<float const, K, space::device>{c}, a, m, nullptr, c, a, sums);
  });
  CHECK(got.dcls == want.dcls);
  CHECK(got.daux == want.daux);
}

TEST_CASE("cuda token_label_loss: a replayed graph reads box, maps and crops anew") {
  constexpr int K = 12;
  label_map_case<cuda::precision::fp32, K> f{3, 4, 4};
  mix_box const box{0, 2, 1, 4};
  auto const want = f.got(box, {});
  device_array<float> const cls{f.cls}, aux{f.aux}, dcls{f.cls.size()}, daux{f.aux.size()}, maps{f.maps};
  device_records<mix_box> const where{{mix_box{0, 4, 0, 4}}};
  device_records<cuda::label_sample> const records{{3, cuda::make_label_sample(1)}};
  device_records<cuda::token_label_sums> const sums{{{}}};
  cuda::label_maps<float> const m{maps.data(), records.data(), 18, 4, 4, 0.1};
  auto const run = [&] {
    cuda::token_label_loss(f.ctx, rows<float const, K, space::device>{cls.as_rows<K>()}, aux.as_rows<K>(), m,
                           where.data(), dcls.as_rows<K>(), daux.as_rows<K>(), sums.data());
  };
  cuda::stream const stream;
  f.ctx.set_stream(stream.get());
  run();
  cuda::graph const graph{stream, run};
  stream.synchronize();
  where.write({box});
  records.write(f.samples);
  graph.launch(stream.get());
  stream.synchronize();
  CHECK(dcls.read() == want.dcls);
  CHECK(daux.read() == want.daux);
  CHECK(sums.read()[0].loss == want.loss);
}
