#include "cuda/model/case.cuh"

#include <doctest/doctest.h>

#include "support/views.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <thread>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr auto bf16 = cuda::precision::bf16;

// Templates, since nvcc 13 cannot print the local types of a plain function that have a configuration as argument.

template <config C>
void check_features() {
  model_case<C, bf16> f{1};
  using M = typename model_case<C, bf16>::device_model;
  std::size_t const tokens = sizes<C>::length, patches = sizes<C>::tokens;
  std::vector<float> const input(f.pictures.begin(), f.pictures.end());
  std::vector<double> features(tokens * 192), cls(M::classes), aux(patches * M::classes);
  f.host.forward_features(f.pictures, features);
  f.host.forward_patches(f.pictures, cls, aux);
  std::vector<float> features_(features.size()), cls_(cls.size()), aux_(aux.size());
  f.net.forward_features(input, features_);
  f.net.forward_patches(input, cls_, aux_);
  CHECK(relative_error(features_, features) < 2.5e-2);
  CHECK(relative_error(cls_, cls) < 2e-2);
  CHECK(relative_error(aux_, aux) < 2.5e-2);
}

template <config C>
void check_batches() {
  model_case<C, bf16> f{67};
  auto const all = f.run();
  using M = typename model_case<C, bf16>::device_model;
  for (int const batch : {1, 2, 33}) {
    std::vector<float> const input(f.pictures.begin(), f.pictures.begin() + std::ptrdiff_t(M::pixels) * batch);
    std::vector<float> logits(M::classes * std::size_t(batch));
    f.net.forward(input, logits);
    std::vector<float> const want(all.begin(), all.begin() + std::ptrdiff_t(logits.size()));
    CHECK(relative_error(logits, want) < 1.5e-2);
  }
}

template <config C>
void check_refusals() {
  model<C, cuda::context<>> net;
  std::vector<float> const pictures(sizes<C>::pixels);
  std::vector<float> logits(999, 5.f);
  CHECK(shape_message([&] { net.forward(pictures, logits); }) == "model.forward.logits: got 999, expected 1000");
  CHECK(std::all_of(logits.begin(), logits.end(), [](float v) { return v == 5.f; }));
  CHECK(shape_message([&] { net.reserve(0); }) == "model.batch: got 0, expected at least 1");
}

}  // namespace

TEST_CASE("cuda model: Tiny's logits in bfloat16 equal the CPU's in double") {
  check_against_double<tiny, bf16>(1.8e-2);
}

TEST_CASE("cuda model: features and patch logits are those that the CPU computes") { check_features<tiny>(); }

TEST_CASE("cuda model: a picture's logits do not depend on the batch that it is in") { check_batches<tiny>(); }

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

TEST_CASE("cuda model: sizes that disagree are refused, and nothing is written") { check_refusals<tiny>(); }
