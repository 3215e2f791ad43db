// A whole training pass on the GPU against the CPU's in double.
#include <dm2/cuda/training_pass.cuh>

#include <doctest/doctest.h>

#include "cuda/precisions.cuh"
#include "model/golden_configs.hpp"
#include "support/compare.hpp"
#include "support/random.hpp"
#include "support/random_model.hpp"

#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

template <config C>
struct configured {
  static constexpr config value = C;
};
using golden_micro = configured<micro>;
using golden_wide = configured<wide>;
using golden_bidirectional = configured<bidirectional>;

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

/// The same pass in double on the CPU and in precision P on the GPU.
template <config C, cuda::precision P>
struct pass_case {
  static constexpr int batch = 3;
  using device_model = model<C, cuda::context<P>>;
  model<C, cpu::context<double>> host{batch};
  device_model net{batch};
  training_pass<C, cpu::context<double>> host_pass{host, batch};
  training_pass<C, cuda::context<P>> pass{net, batch};
  random_source random{17};
  std::vector<double> pictures = rounded<float>(random.normal(batch * device_model::pixels));
  std::vector<double> target = random_targets<C>(random, batch);
  mix_box box{0, 2, 1, 3};
  double host_loss = 0;

  pass_case() {
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

template <config C, cuda::precision P>
void check_pass(double loss_tolerance, double gradient_tolerance) {
  pass_case<C, P> f;
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
            8 * gradient_tolerance);
    if (e.kind == entry_kind::statistic)
      CHECK(relative_error(f.net.state().subspan(e.offset, e.size), f.host.state().subspan(e.offset, e.size)) <
            4 * loss_tolerance);
  }
}

}  // namespace

TEST_CASE_TEMPLATE("cuda training_pass: in float, loss, statistics and gradients are the CPU's in double", Config,
                   golden_micro, golden_wide, golden_bidirectional) {
  check_pass<Config::value, cuda::precision::fp32>(1e-5, 1e-4);
}

TEST_CASE_TEMPLATE("cuda training_pass: in bfloat16, gradients differ from double by rounding", Config, golden_micro,
                   golden_wide, golden_bidirectional) {
  check_pass<Config::value, cuda::precision::bf16>(1e-2, 8e-2);
}

TEST_CASE("cuda training_pass: a second backward adds to the gradients, and two runs give the same bytes") {
  using f_type = pass_case<golden_micro::value, cuda::precision::bf16>;
  f_type one, two;
  one.run();
  two.run();
  std::vector<float> const first(one.pass.gradients().begin(), one.pass.gradients().end());
  CHECK(std::equal(first.begin(), first.end(), two.pass.gradients().begin()));
  two.net.state()[0] = two.net.state()[0];
  bench::fill_random<golden_micro::value>(two.net.state().data());
  two.run();
  std::vector<double> doubled;
  for (float g : first) doubled.push_back(2 * double(g));
  CHECK(relative_error(two.pass.gradients(), doubled) < 1e-5);
}

TEST_CASE("cuda training_pass: sizes and calls out of order are refused") {
  using f_type = pass_case<golden_micro::value, cuda::precision::fp32>;
  model<golden_micro::value, cuda::context<cuda::precision::fp32>> net;
  CHECK_THROWS_AS((training_pass<golden_micro::value, cuda::context<cuda::precision::fp32>>{net, 0}), shape_error);
  training_pass<golden_micro::value, cuda::context<cuda::precision::fp32>> pass{net, f_type::batch};
  std::vector<float> const few(7);
  CHECK_THROWS_AS(pass.forward(few), shape_error);
  CHECK_THROWS_AS(pass.backward(), std::logic_error);
}
