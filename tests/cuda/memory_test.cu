#include <dm2/cuda/memory.cuh>

#include <doctest/doctest.h>

#include "cuda/support/device_array.cuh"
#include "support/random.hpp"

#include <vector>

using namespace dm2;
using namespace dm2::test;

TEST_CASE("clear: zeros every number and none beside them") {
  cuda::context<cuda::precision::bf16> ctx;
  device_array<__nv_bfloat16> x{197};
  cuda::clear(ctx, x.data(), x.size());
  CHECK(x.read() == std::vector<double>(197));
  CHECK(x.margins_untouched());
  cuda::clear(ctx, static_cast<float*>(nullptr), 0);
}

TEST_CASE("copy: goes from host to device, on the device, and back") {
  cuda::context<cuda::precision::fp32> ctx;
  random_source random{1};
  auto const host = random.normal<float>(197);
  device_array<float> a{197}, b{197};
  cuda::copy(ctx, host.data(), host.size(), a.data());
  cuda::copy(ctx, a.data(), a.size(), b.data());
  std::vector<float> back(197);
  cuda::copy(ctx, b.data(), b.size(), back.data());
  cuda::check(cudaStreamSynchronize(ctx.stream()), "copies");
  CHECK(back == host);
  CHECK(b.margins_untouched());
}

TEST_CASE("transfer: a plan copies and clears nothing") {
  cuda::context<cuda::precision::fp32> ctx;
  device_array<float> const a{std::vector<double>(7, 1)};
  device_array<float> b{7};
  ctx.plan([&] {
    cuda::copy(ctx, a.data(), 7, b.data());
    cuda::clear(ctx, b.data(), 7);
  });
  for (double v : b.read()) CHECK(v != v);
}

TEST_CASE("cuda round: every number to the nearest, and nothing beside them") {
  cuda::context<cuda::precision::bf16> ctx;
  for (std::size_t const n : {1u, 255u, 256u, 257u, 2368u}) {
    CAPTURE(n);
    auto const numbers = random_source{3}.normal(n);
    device_array<float> const w{numbers};
    device_array<__nv_bfloat16> const r{n};
    cuda::round(ctx, w.data(), n, r.data());
    CHECK(r.read() == rounded<__nv_bfloat16>(rounded<float>(numbers)));
    CHECK(r.margins_untouched());
  }
}
