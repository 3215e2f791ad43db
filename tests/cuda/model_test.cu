#include "cuda/model_case.cuh"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <thread>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr auto bf16 = cuda::precision::bf16;
constexpr auto fp16 = cuda::precision::fp16;
constexpr auto fp32 = cuda::precision::fp32;
constexpr auto tf32 = cuda::precision::tf32;

template <config C, cuda::precision P>
void check_against_double(double tolerance) {
  model_case<C, P> f{2};
  f.run_host();
  auto const first = f.run();
  double const error = relative_error(first, f.logits);
  MESSAGE("model dim ", C.dim, " precision ", int(P), ": logits differ by ", error, " from double");
  CHECK(error < tolerance);
  CHECK(f.run() == first);
}

}  // namespace

TEST_CASE("cuda model: Tiny's logits equal the CPU's in double") {
  check_against_double<tiny, bf16>(1.8e-2);
  check_against_double<tiny, fp16>(4e-3);
  check_against_double<tiny, fp32>(1e-5);
  check_against_double<tiny, tf32>(6e-3);
}

TEST_CASE("cuda model: Small's logits equal the CPU's in double") {
  check_against_double<small, bf16>(1.8e-2);
  check_against_double<small, fp32>(1e-5);
}

TEST_CASE("cuda model: features and patch logits are those that the CPU computes") {
  model_case<tiny, bf16> f{1};
  using M = model_case<tiny, bf16>::device_model;
  std::size_t const rows = sizes<tiny>::length, patches = sizes<tiny>::tokens;
  std::vector<float> const input(f.pictures.begin(), f.pictures.end());
  std::vector<double> features(rows * 192), cls(M::classes), aux(patches * M::classes);
  f.host.forward_features(f.pictures, features);
  f.host.forward_patches(f.pictures, cls, aux);
  std::vector<float> features_(features.size()), cls_(cls.size()), aux_(aux.size());
  f.net.forward_features(input, features_);
  f.net.forward_patches(input, cls_, aux_);
  CHECK(relative_error(features_, features) < 2e-2);
  CHECK(relative_error(cls_, cls) < 2e-2);
  CHECK(relative_error(aux_, aux) < 2e-2);
}

TEST_CASE("cuda model: a picture's logits do not depend on the batch that it is in") {
  model_case<tiny, bf16> f{67};
  auto const all = f.run();
  using M = model_case<tiny, bf16>::device_model;
  for (int const batch : {1, 2, 33}) {
    std::vector<float> const input(f.pictures.begin(), f.pictures.begin() + std::ptrdiff_t(M::pixels) * batch);
    std::vector<float> logits(M::classes * std::size_t(batch));
    f.net.forward(input, logits);
    std::vector<float> const want(all.begin(), all.begin() + std::ptrdiff_t(logits.size()));
    CHECK(relative_error(logits, want) < 1.5e-2);
  }
}

TEST_CASE("cuda model: bytes on the device give what normalised floats give") {
  constexpr int n = 3;
  using M = model_case<tiny, fp32>::device_model;
  model_case<tiny, fp32> f{n};
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

TEST_CASE("cuda model: two models on two threads give what each gives alone") {
  std::array<std::vector<float>, 2> alone, together;
  std::array<std::unique_ptr<model_case<tiny, bf16>>, 2> f;
  for (std::size_t i = 0; i < 2; ++i) {
    f[i] = std::make_unique<model_case<tiny, bf16>>(2, unsigned(10 + i));
    alone[i] = f[i]->run();
  }
  std::array<std::thread, 2> threads;
  for (std::size_t i = 0; i < 2; ++i)
    threads[i] = std::thread{[&, i] {
      model_case<tiny, bf16> own{2, unsigned(10 + i)};
      for (int k = 0; k < 20; ++k) together[i] = own.run();
    }};
  for (auto& t : threads) t.join();
  CHECK(together[0] == alone[0]);
  CHECK(together[1] == alone[1]);
}

TEST_CASE("cuda model: parameters that change after an evaluation take part in the next") {
  model_case<tiny, bf16> f{1};
  auto const before = f.run();
  std::fill(f.net.state().begin(), f.net.state().end(), 0.f);
  auto const after = f.run();
  CHECK(before != after);
  CHECK(std::all_of(after.begin(), after.end(), [](float v) { return v == 0; }));
}

TEST_CASE("cuda model: sizes that disagree are refused, and nothing is written") {
  model<tiny, cuda::context<>> net;
  std::vector<float> const pictures(sizes<tiny>::pixels);
  std::vector<float> logits(999, 5.f);
  CHECK_THROWS_AS(net.forward(pictures, logits), shape_error);
  CHECK(std::all_of(logits.begin(), logits.end(), [](float v) { return v == 5.f; }));
  CHECK_THROWS_AS(net.reserve(0), shape_error);
}
