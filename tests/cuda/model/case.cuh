/// @file
/// One network on the CPU in double and on the GPU, with the same parameters and pictures.
#pragma once

#include <dm2/cuda/model.cuh>

#include <doctest/doctest.h>

#include "cuda/support/device_array.cuh"
#include "support/compare.hpp"
#include "support/random.hpp"
#include "support/random_model.hpp"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace dm2::test {

template <config C, cuda::precision P>
struct model_case {
  using device_model = model<C, cuda::context<P>>;
  int batch;
  model<C, cpu::context<double>> host;
  device_model net;
  std::vector<double> pictures, logits;

  explicit model_case(int n, unsigned seed = 3)
      : batch{n},
        host{n},
        net{n},
        pictures{rounded<float>(random_source{seed}.normal(std::size_t(n) * device_model::pixels))},
        logits(std::size_t(n) * device_model::classes) {
    bench::fill_random<C>(host.state().data());
    bench::fill_random<C>(net.state().data());
  }
  void run_host() { host.forward(pictures, logits); }
  [[nodiscard]] std::vector<float> run() {
    std::vector<float> const input(pictures.begin(), pictures.end());
    auto out = poisoned<float>(logits.size());
    net.forward(input, out);
    return out;
  }
};

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

}  // namespace dm2::test
