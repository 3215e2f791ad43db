/// @file
/// The same training pass in double on the CPU and on the GPU.
#pragma once

#include <dm2/cuda/training_pass.cuh>

#include <doctest/doctest.h>

#include "cuda/support/device_array.cuh"
#include "support/compare.hpp"
#include "support/random.hpp"
#include "support/random_model.hpp"

#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

namespace dm2::test {

/// Targets [batch, 2 + tokens, classes] whose rows sum to 1.
template <config C>
std::vector<double> random_targets(random_source& random, int batch) {
  std::vector<double> t = random.normal(std::size_t(batch) * (2 + sizes<C>::tokens) * C.classes);
  for (std::size_t row = 0; row < t.size() / C.classes; ++row) {
    double sum = 0;
    for (std::size_t k = 0; k < C.classes; ++k) sum += t[row * C.classes + k] = std::exp(t[row * C.classes + k]);
    for (std::size_t k = 0; k < C.classes; ++k) t[row * C.classes + k] /= sum;
  }
  return rounded<float>(t);
}

/// The same pass in double on the CPU and in precision P on the GPU, with so many frozen layers.
template <config C, cuda::precision P, int Batch = 3, int Frozen = 0>
struct pass_case {
  static constexpr int batch = Batch;
  using device_model = model<C, cuda::context<P>>;
  model<C, cpu::context<double>> host{batch};
  device_model net{batch};
  training_pass<C, cpu::context<double>> host_pass{host, batch, Frozen};
  training_pass<C, cuda::context<P>> pass{net, batch, Frozen};
  random_source random;
  std::vector<double> pictures = rounded<float>(random.normal(batch * device_model::pixels));
  std::vector<double> target = random_targets<C>(random, batch);
  mix_box box{0, 2, 1, 3};
  double host_loss = 0;

  explicit pass_case(unsigned seed = 17) : random{seed} {
    bench::fill_random<C>(host.state().data());
    bench::fill_random<C>(net.state().data());
    host_pass.forward(pictures, box);
    host_loss = host_pass.loss(target, 0.5);
    host_pass.backward();
  }
  double run() {
    std::vector<float> const input(pictures.begin(), pictures.end()), wanted(target.begin(), target.end());
    pass.forward(input, box);
    double const loss = pass.loss(wanted, 0.5);
    pass.backward();
    return loss;
  }
};

/// The relative difference of the whole gradient.
template <config C, cuda::precision P, int Batch>
double gradient_error(unsigned seed) {
  pass_case<C, P, Batch> f{seed};
  f.run();
  double const error = relative_error(f.pass.gradients(), f.host_pass.gradients());
  MESSAGE("precision ", int(P), ", seed ", seed, ": gradients differ by ", error, " from double");
  return error;
}

/// Holds the whole gradient against gradient_tolerance, each tensor's against `each` times that.
template <config C, cuda::precision P, int Batch = 3, int Frozen = 0>
void check_pass(double loss_tolerance, double gradient_tolerance, double each = 8) {
  pass_case<C, P, Batch, Frozen> f;
  double const loss = f.run();
  CHECK(std::abs(loss - f.host_loss) <= loss_tolerance * f.host_loss);
  auto const gradients = f.pass.gradients();
  double const error = relative_error(gradients, f.host_pass.gradients());
  MESSAGE("precision ", int(P), ": gradients differ by ", error, " from double");
  CHECK(error < gradient_tolerance);
  for (parameter_entry const& e : f.net.table()) {
    CAPTURE(std::string{e.name});
    if (e.kind == entry_kind::parameter)
      CHECK(relative_error(gradients.subspan(e.offset, e.size), f.host_pass.gradients().subspan(e.offset, e.size)) <
            each * gradient_tolerance);
    if (e.kind == entry_kind::statistic)
      CHECK(relative_error(f.net.state().subspan(e.offset, e.size), f.host.state().subspan(e.offset, e.size)) <
            4 * loss_tolerance);
  }
}

}  // namespace dm2::test
