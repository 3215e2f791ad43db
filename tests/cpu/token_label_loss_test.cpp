#include <dm2/cpu/token_label_loss.hpp>

#include <doctest/doctest.h>

#include "cpu/golden_layer.hpp"
#include "support/compare.hpp"
#include "support/gradcheck.hpp"
#include "support/random.hpp"
#include "support/views.hpp"

#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr int K = 5;

/// -sum t log softmax(l) of one row.
double row_loss(double const* l, std::vector<double> const& t) {
  double sum = 0, loss = 0;
  for (std::size_t c = 0; c < K; ++c) sum += std::exp(l[c]);
  for (std::size_t c = 0; c < K; ++c) loss -= t[c] * (l[c] - std::log(sum));
  return loss;
}

struct loss_case {
  std::size_t batch, tokens;
  mix_box box;
  cpu::context<double> ctx;
  random_source random{113};
  std::vector<double> cls, aux, target, dcls, daux;

  loss_case(std::size_t n, std::size_t patches, mix_box b, int threads = 1)
      : batch{n},
        tokens{patches},
        box{b},
        ctx{threads},
        cls{random.normal(n * K, 2)},
        aux{random.normal(n * patches * K, 2)},
        target{random.uniform(n * (2 + patches) * K, 0, 0.5)},
        dcls{poisoned(cls.size())},
        daux{poisoned(aux.size())} {}

  double run() {
    return cpu::token_label_loss(ctx, as_rows<K>(std::as_const(cls)), as_rows<K>(aux), as_rows<K>(target), box,
                                 as_rows<K>(dcls), as_rows<K>(daux));
  }
  [[nodiscard]] std::vector<double> target_row(std::size_t sample, std::size_t column) const {
    auto const first = target.begin() + std::ptrdiff_t((sample * (2 + tokens) + column) * K);
    return {first, first + K};
  }
  [[nodiscard]] double naive() const {
    double const lam = 1 - double(box.area()) / double(tokens);
    double cls_loss = 0, aux_loss = 0;
    for (std::size_t b = 0; b < batch; ++b) {
      auto mixed = target_row(b, 1);
      auto const partner = target_row(batch - 1 - b, 1);
      for (std::size_t c = 0; c < K; ++c) mixed[c] = lam * mixed[c] + (1 - lam) * partner[c];
      cls_loss += row_loss(cls.data() + b * K, mixed) / double(batch);
      for (std::size_t t = 0; t < tokens; ++t)
        aux_loss += row_loss(aux.data() + (b * tokens + t) * K, target_row(b, 2 + t)) / double(batch * tokens);
    }
    return cls_loss + aux_loss;
  }
};

}  // namespace

TEST_CASE_TEMPLATE("cross_entropy: loss and gradient equal the reference's", T, double, float) {
  golden const file{"layers.safetensors"};
  auto const logits = file.get<T>("cross_entropy/in/logits"), target = file.get<T>("cross_entropy/target");
  auto dlogits = poisoned<T>(logits.size());
  cpu::context<T> ctx;
  double const loss = cpu::cross_entropy(ctx, as_rows<11>(logits), as_rows<11>(target), as_rows<11>(dlogits));
  double const scale = file.get("cross_entropy/cotangent").front();
  CHECK(std::abs(loss / file.get("cross_entropy/out").front() - 1) < (std::is_same_v<T, double> ? 1e-9 : 1e-5));
  auto want = file.get("cross_entropy/grad/logits");
  for (double& v : want) v /= scale;
  CHECK(relative_error(dlogits, want) < (std::is_same_v<T, double> ? 1e-9 : 1e-4));
}

TEST_CASE("cross_entropy: the gradient may be left out, and may take the logits' place") {
  loss_case f{17, 1, {}};
  auto const target = f.random.uniform(17 * K, 0, 1);
  auto const call = [&](rows<double, K> d) {
    return cpu::cross_entropy(f.ctx, as_rows<K>(std::as_const(f.cls)), as_rows<K>(target), d);
  };
  double const loss = call(as_rows<K>(f.dcls));
  CHECK(call({}) == loss);
  CHECK(gradient_error(f.cls, f.dcls, [&] { return static_cast<long double>(call({})); }) < gradient_tolerance);
  call(as_rows<K>(f.cls));
  CHECK(f.cls == f.dcls);
}

TEST_CASE_TEMPLATE("cross_entropy: the gradient is the formula's, and has the same bits at any address", Classes,
                   std::integral_constant<int, 1>, std::integral_constant<int, 7>, std::integral_constant<int, 255>,
                   std::integral_constant<int, 256>, std::integral_constant<int, 257>,
                   std::integral_constant<int, 515>) {
  constexpr std::size_t C = Classes::value, rows_in = 3, size = rows_in * C;
  random_source random{127};
  cpu::context<double> ctx;
  auto const logits = random.normal(size, 2), target = random.uniform(size, 0, 1);
  std::vector<double> want(size);
  for (std::size_t r = 0; r < rows_in; ++r) {
    double sum = 0, mass = 0;
    for (std::size_t c = 0; c < C; ++c) sum += std::exp(logits[r * C + c]), mass += target[r * C + c];
    for (std::size_t c = r * C; c < (r + 1) * C; ++c)
      want[c] = (std::exp(logits[c]) / sum * mass - target[c]) / double(rows_in);
  }
  std::vector<double> first;
  for (std::size_t shift = 0; shift < 8; ++shift) {
    CAPTURE(shift);
    std::vector<double> d(size + 8, 0.5);
    cpu::cross_entropy(ctx, as_rows<C>(logits), as_rows<C>(target), rows<double, C>{d.data() + shift, rows_in});
    std::vector<double> const own(d.begin() + std::ptrdiff_t(shift), d.begin() + std::ptrdiff_t(shift + size));
    if (shift == 0) first = own;
    CHECK(own == first);
    CHECK(relative_error(own, want) < 1e-13);
    for (std::size_t i = 0; i < 8; ++i) CHECK(d[i < shift ? i : size + i] == 0.5);
  }
}

TEST_CASE("cross_entropy: logits of any size do not overflow") {
  cpu::context<double> ctx;
  std::vector<double> const logits{1e4, 0, 0, 0, 0, -1e4, 1e4, -1e4, -1e4, -1e4}, target{1, 0, 0, 0, 0, 0, 1, 0, 0, 0};
  auto d = poisoned(10);
  CHECK(cpu::cross_entropy(ctx, as_rows<K>(logits), as_rows<K>(target), as_rows<K>(d)) == 0);
  // exp(-1e4) is zero or, where a vector's exp clamps its argument, a denormal.
  for (double v : d) CHECK(std::abs(v) < std::numeric_limits<double>::min());
}

TEST_CASE("cross_entropy: row counts that differ are refused by name, and nothing is written") {
  cpu::context<double> ctx;
  std::vector<double> const logits(4 * K), target(3 * K), right(4 * K);
  auto d = poisoned(5 * K);
  auto const call = [&](auto const& t) {
    return shape_message([&] { cpu::cross_entropy(ctx, as_rows<K>(logits), as_rows<K>(t), as_rows<K>(d)); });
  };
  CHECK(call(target) == "cross_entropy.target rows: got 3, expected 4");
  CHECK(call(right) == "cross_entropy.dlogits rows: got 5, expected 4");
  CHECK(untouched(d));
}

TEST_CASE("token_label_loss: equals its formula for targets of any sum, with and without a box, in odd batches") {
  for (mix_box const box : {mix_box{}, mix_box{0, 2, 1, 3}, mix_box{0, 3, 0, 5}})
    for (std::size_t const batch : {1u, 2u, 3u}) {
      loss_case f{batch, 15, box, 2};
      CHECK(std::abs(f.run() - f.naive()) < 1e-13);
    }
}

TEST_CASE("token_label_loss: gradients match central differences") {
  for (std::size_t const tokens : {1u, 7u, 16u, 196u}) {
    CAPTURE(tokens);
    loss_case f{3, tokens, {0, 1, 0, 1}, 2};
    f.run();
    auto const dcls = f.dcls, daux = f.daux;
    auto const loss = [&] { return static_cast<long double>(f.run()); };
    CHECK(gradient_error(f.cls, dcls, loss, 64, 1e-3) < gradient_tolerance);
    CHECK(gradient_error(f.aux, daux, loss, 64, 1e-3) < gradient_tolerance);
  }
}

TEST_CASE("token_label_loss: the smoothed ground truth is not read") {
  loss_case f{3, 7, {0, 1, 0, 2}};
  double const loss = f.run();
  for (std::size_t b = 0; b < 3; ++b)
    for (std::size_t c = 0; c < K; ++c) f.target[b * 9 * K + c] = std::nan("");
  CHECK(f.run() == loss);
}

TEST_CASE("token_label_loss: gradients may take the logits' place") {
  loss_case f{3, 7, {0, 1, 0, 2}};
  double const loss = f.run();
  CHECK(cpu::token_label_loss(f.ctx, as_rows<K>(std::as_const(f.cls)), as_rows<K>(f.aux), as_rows<K>(f.target), f.box,
                              as_rows<K>(f.cls), as_rows<K>(f.aux)) == loss);
  CHECK(f.cls == f.dcls);
  CHECK(f.aux == f.daux);
}

TEST_CASE("token_label_loss: rows that disagree are refused by name, and nothing is written") {
  auto const message = [](auto const& spoil) {
    loss_case f{2, 7, {}};
    spoil(f);
    std::string const text = shape_message([&] { f.run(); });
    CHECK(untouched(f.dcls));
    CHECK(untouched(f.daux));
    return text;
  };
  CHECK(message([](loss_case& f) { f.aux.resize(15 * K); }) == "token_label_loss.aux rows: got 15, expected 14");
  CHECK(message([](loss_case& f) { f.target.resize(17 * K); }) == "token_label_loss.target rows: got 17, expected 18");
  CHECK(message([](loss_case& f) { f.dcls.resize(K); }) == "token_label_loss.dcls rows: got 1, expected 2");
  CHECK(message([](loss_case& f) { f.daux.resize(13 * K); }) == "token_label_loss.daux rows: got 13, expected 14");
  CHECK(message([](loss_case& f) { f.cls.clear(), f.dcls.clear(), f.aux.clear(), f.daux.clear(), f.target.clear(); }) ==
        "token_label_loss: no samples or no patches");
}

TEST_CASE("token_label_loss: one thread and two give the same bits") {
  loss_case one{5, 15, {0, 2, 0, 2}, 1}, two{5, 15, {0, 2, 0, 2}, 2};
  CHECK(one.run() == two.run());
  CHECK(one.dcls == two.dcls);
  CHECK(one.daux == two.daux);
}
