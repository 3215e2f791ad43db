#include "cuda/model/case.cuh"

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {
constexpr auto fp32 = cuda::precision::fp32;

template <config C>
void check_bytes() {
  constexpr int n = 3;
  using M = typename model_case<C, fp32>::device_model;
  model_case<C, fp32> f{n};
  std::size_t const plane = 224 * 224;
  std::vector<double> bytes(n * M::pixels);
  float const mean[3]{0.485f, 0.456f, 0.406f}, deviation[3]{0.229f, 0.224f, 0.225f};
  random_source random{5};
  bytes = random.uniform(bytes.size(), 0, 255.99);
  for (double& v : bytes) v = double(std::uint8_t(v));
  for (std::size_t b = 0; b < n; ++b)
    for (std::size_t i = 0; i < plane; ++i)
      for (std::size_t c = 0; c < 3; ++c)
        f.pictures[(b * 3 + c) * plane + i] =
            double((float(bytes[(b * plane + i) * 3 + c]) / 255.f - mean[c]) / deviation[c]);
  auto const want = f.run();
  device_array<std::uint8_t> const pictures{bytes};
  device_array<float> logits{want.size()};
  cuda::stream const s;
  f.net.forward_device(M::bytes_type::normalised(pictures.data(), mean, deviation), n, logits.data(), s.get());
  s.synchronize();
  CHECK(relative_error(logits.read(), want) < 1e-5);
  CHECK(logits.margins_untouched());
}

}  // namespace

TEST_CASE("cuda model: Tiny's logits in float equal the CPU's in double") { check_against_double<tiny, fp32>(1e-5); }

TEST_CASE("cuda model: bytes on the device give what normalised floats give") { check_bytes<tiny>(); }
