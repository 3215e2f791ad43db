#include <doctest/doctest.h>

#include "cpu/attention_case.hpp"
#include "support/gradcheck.hpp"

#include <vector>

using namespace dm2;
using namespace dm2::test;

#define DM2_ATTENTION_CASES attention_case<plain_attention>, attention_case<partly_turned>, attention_case<fully_turned>

TEST_CASE_TEMPLATE("attention_core_backward: gradients match central differences", F, DM2_ATTENTION_CASES) {
  for (int const length : {1, 7, 17, 65, 197}) {
    CAPTURE(length);
    F f{2, length, 2};
    auto const loss = [&] {
      f.forward();
      return dot(f.y, f.dy);
    };
    f.backward();
    CHECK(gradient_error(f.qkv, f.dqkv, loss) < gradient_tolerance);
    if (F::taps == 0) continue;
    CHECK(gradient_error(f.conv, f.dconv, loss) < gradient_tolerance);
    CHECK(gradient_error(f.bias, f.dbias, loss) < gradient_tolerance);
  }
}

TEST_CASE("attention_core_backward: the input's gradient is overwritten, the parameters' accumulate") {
  attention_case<partly_turned> f{3, 17}, g{3, 17};
  f.backward();
  g.backward();
  g.backward();
  CHECK(g.dqkv == f.dqkv);
  for (double& v : f.dconv) v *= 2;
  for (double& v : f.dbias) v *= 2;
  CHECK(relative_error(g.dconv, f.dconv) < 1e-14);
  CHECK(relative_error(g.dbias, f.dbias) < 1e-14);
}

TEST_CASE(
    "attention_core_backward: the gradient of a batch is that of its sequences, also of more than are summed at a "
    "time") {
  constexpr int batch = cpu::detail::gradient_parts + 3, length = 5, width = partly_turned.width();
  attention_case<partly_turned> all{batch, length, 2}, one{1, length};
  all.backward();
  one.conv = all.conv;
  one.bias = all.bias;
  for (int i = 0; i < batch; ++i) {
    auto const part = [&](auto const& v, int n) {
      auto const first = v.begin() + std::ptrdiff_t{i} * length * n;
      return std::vector<double>(first, first + length * n);
    };
    one.qkv = part(all.qkv, 3 * width), one.dy = part(all.dy, width);
    one.backward();
    CHECK(one.dqkv == part(all.dqkv, 3 * width));
  }
  CHECK(relative_error(all.dconv, one.dconv) < 1e-13);
  CHECK(relative_error(all.dbias, one.dbias) < 1e-13);
}

TEST_CASE("attention_core_backward: rows that disagree are refused by name, and nothing is written") {
  attention_case<partly_turned> f{2, 7};
  f.dqkv = poisoned(13 * 63);
  CHECK(shape_message([&] { f.backward(); }) == "attention_core_backward.dqkv rows: got 13, expected 14");
  CHECK(untouched(f.dqkv));
  f.dy.resize(15 * 21);
  CHECK(shape_message([&] { f.backward(); }) == "attention_core_backward.dy rows: got 15, expected 14");
  f.length = 4;
  CHECK(shape_message([&] { f.backward(); }) ==
        "attention_core_backward.qkv: got 14 rows, expected a multiple of the length 4");
  for (double v : f.dconv) CHECK(v == 0);
}

TEST_CASE("attention_core_backward: one thread and two give the same bits") {
  attention_case<partly_turned> one{19, 17, 1}, two{19, 17, 2};
  one.backward();
  two.backward();
  CHECK(one.dqkv == two.dqkv);
  CHECK(one.dconv == two.dconv);
  CHECK(one.dbias == two.dbias);
}
