#include <dm2/cpu/fold_output_projection.hpp>

#include <doctest/doctest.h>

#include "cpu/naive.hpp"
#include "support/compare.hpp"
#include "support/gradcheck.hpp"
#include "support/random.hpp"
#include "support/views.hpp"

#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr int D = 5, I = 7;

template <mixer_variant V>
struct fold_case {
  static constexpr mixer_variant variant = V;
  cpu::context<double> ctx{2};
  random_source random{83};
  std::vector<double> forward = random.normal(D * I), backward = random.normal(D * I), merged = poisoned(D * 2 * I),
                      dmerged = random.normal(D * 2 * I), dforward = std::vector<double>(D * I), dbackward = dforward;

  void fold() {
    cpu::fold_output_projection<V>(ctx, as_block<D, I>(std::as_const(forward)), as_block<D, I>(std::as_const(backward)),
                                   as_block<D, 2 * I>(merged));
  }
  void gradient() {
    cpu::fold_output_projection_backward<V>(ctx, as_block<D, 2 * I>(dmerged), as_block<D, I>(dforward),
                                            as_block<D, I>(dbackward));
  }
};

}  // namespace

#define DM2_VARIANTS fold_case<mixer_variant::published>, fold_case<mixer_variant::bidirectional>

TEST_CASE_TEMPLATE("fold_output_projection: one product gives the mean of both directions' projections", F,
                   DM2_VARIANTS) {
  F f;
  f.fold();
  auto const g = f.random.normal(3 * I), g_b = f.random.normal(3 * I);  // g_b as the second direction computes it
  bool const published = F::variant == mixer_variant::published;
  std::vector<double> both;
  for (std::size_t r = 0; r < 3; ++r) {
    both.insert(both.end(), g.begin() + std::ptrdiff_t(r * I), g.begin() + std::ptrdiff_t((r + 1) * I));
    both.insert(both.end(), g_b.begin() + std::ptrdiff_t(r * I), g_b.begin() + std::ptrdiff_t((r + 1) * I));
  }
  auto want = naive::linear(g, f.forward, {}, I, D);
  auto const second = published
                          ? naive::flip_columns(naive::linear(naive::flip_columns(g_b, I), f.backward, {}, I, D), D)
                          : naive::linear(g_b, f.backward, {}, I, D);
  for (std::size_t i = 0; i < want.size(); ++i) want[i] = (want[i] + second[i]) / 2;
  CHECK(relative_error(naive::linear(both, f.merged, {}, 2 * I, D), want) < 1e-14);
}

TEST_CASE_TEMPLATE("fold_output_projection: gradients match central differences", F, DM2_VARIANTS) {
  F f;
  f.gradient();
  auto const loss = [&] {
    f.fold();
    return dot(f.merged, f.dmerged);
  };
  CHECK(gradient_error(f.forward, f.dforward, loss) < 1e-9);
  CHECK(gradient_error(f.backward, f.dbackward, loss) < 1e-9);
}

TEST_CASE_TEMPLATE("fold_output_projection: gradients accumulate", F, DM2_VARIANTS) {
  F f, g;
  f.gradient();
  g.gradient();
  g.gradient();
  for (std::size_t i = 0; i < D * I; ++i) {
    CHECK(g.dforward[i] == 2 * f.dforward[i]);
    CHECK(g.dbackward[i] == 2 * f.dbackward[i]);
  }
}
