#include <dm2/cuda/memory.cuh>

#include <doctest/doctest.h>

#include "cuda/support/device_array.cuh"
#include "support/random.hpp"

#include <cstddef>
#include <stdexcept>
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

TEST_CASE("cuda context: lent memory is scratch for what fits, until the lending ends") {
  cuda::context<cuda::precision::fp32> ctx;
  cuda::device_memory const memory{1024};
  std::byte* const lent = memory.data();
  auto const taken = [&](std::size_t bytes) {
    CHECK(ctx.reserve(bytes));
    arena_scope const scope{ctx.shared()};
    return ctx.shared().take<std::byte>(bytes);
  };
  std::byte* const own = taken(192);
  std::size_t const bytes = ctx.scratch_bytes();
  ctx.lend(lent, 1024, [&] {
    CHECK(taken(64) == lent);
    CHECK(taken(1024) == lent);
    CHECK(ctx.scratch_bytes() == bytes);
    std::byte* const larger = taken(1088);
    CHECK((larger < lent || larger >= lent + 1024));
    CHECK(ctx.scratch_bytes() == bytes + 1088 - 192);
    CHECK(taken(64) == lent);
  });
  std::byte* const after = taken(64);
  CHECK((after < lent || after >= lent + 1024));
  CHECK(own != lent);
}

TEST_CASE("cuda context: memory is not lent in the middle of an operation's scratch, and not past an exception") {
  cuda::context<cuda::precision::fp32> ctx;
  cuda::device_memory const memory{256};
  CHECK(ctx.reserve(512));
  {
    arena_scope const outer{ctx.shared()};
    std::byte* const first = ctx.shared().take<std::byte>(64);
    ctx.lend(memory.data(), 256, [&] {
      CHECK(ctx.reserve(64));
      CHECK(ctx.shared().take<std::byte>(64) == first + 64);
    });
  }
  CHECK_THROWS_AS(ctx.lend(memory.data(), 256,
                           [&] {
                             CHECK(ctx.reserve(64));
                             static_cast<void>(ctx.shared().take<std::byte>(64));
                             static_cast<void>(ctx.reserve(320));
                           }),
                  std::logic_error);
  CHECK(ctx.reserve(64));
  CHECK(ctx.shared().take<std::byte>(0) != memory.data());
}
