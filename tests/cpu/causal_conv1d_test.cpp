#include <dm2/cpu/causal_conv1d.hpp>

#include <doctest/doctest.h>

#include "cpu/golden_layer.hpp"
#include "cpu/naive.hpp"
#include "support/gradcheck.hpp"
#include "support/random.hpp"

#include <algorithm>
#include <string>
#include <vector>

using namespace dm2;
using namespace dm2::test;
using cpu::sequence;

namespace {

/// Sequences [length, channels], dense.
template <class T>
sequence<T> dense(T* data, int channels, int length) {
  return {data, channels, length};
}

struct conv_case {
  int channels, taps, length;
  random_source random{17};
  std::vector<double> x, w, bias, dy, y, dx, dw, db;

  conv_case(int c, int k, int l)
      : channels{c},
        taps{k},
        length{l},
        x{random.normal(size())},
        w{random.normal(std::size_t(c * k))},
        bias{random.normal(std::size_t(c))},
        dy{random.normal(size())},
        y{poisoned(size())},
        dx(size()),
        dw(w.size()),
        db(bias.size()) {}

  [[nodiscard]] std::size_t size() const { return std::size_t(channels * length); }
  [[nodiscard]] std::vector<double> arranged() const {
    auto out = poisoned(w.size());
    cpu::arrange_taps(w.data(), channels, taps, false, out.data());
    return out;
  }
  void forward() {
    cpu::causal_conv1d<double>(dense<double const>(x.data(), channels, length), channels, taps, arranged().data(),
                               bias.data(), dense(y.data(), channels, length));
  }
  void backward() {
    std::vector<double> sums(w.size());
    cpu::causal_conv1d_backward<double>(dense<double const>(x.data(), channels, length), channels, taps,
                                        arranged().data(), dense<double const>(dy.data(), channels, length),
                                        dense(dx.data(), channels, length), sums.data(), db.data());
    cpu::add_arranged_taps(sums.data(), channels, taps, false, dw.data());
  }
  long double loss() {
    forward();
    return dot(y, dy);
  }
};

}  // namespace

TEST_CASE_TEMPLATE("causal_conv1d: output and gradients equal the reference's", T, double, float) {
  for (std::string const name : {"causal_conv1d", "causal_conv1d_short"}) {
    CAPTURE(name);
    golden_layer<T> const g{name};
    auto const x = g.in("x"), w = g.in("weight"), bias = g.in("bias"), dy = g.cotangent();
    int const length = int(x.size()) / (2 * 12);
    auto y = poisoned<T>(x.size());
    std::vector<T> taps(w.size()), dx(x.size()), sums(w.size()), dw(w.size()), db(bias.size());
    cpu::arrange_taps(w.data(), 12, 4, false, taps.data());
    for (int b = 0; b < 2; ++b) {
      auto const at = [&](auto& v) { return dense(v.data() + b * length * 12, 12, length); };
      cpu::causal_conv1d<T>(at(x), 12, 4, taps.data(), bias.data(), at(y));
      cpu::causal_conv1d_backward<T>(at(x), 12, 4, taps.data(), at(dy), at(dx), sums.data(), db.data());
    }
    cpu::add_arranged_taps(sums.data(), 12, 4, false, dw.data());
    CHECK(g.out_error(y) < g.out_tolerance);
    CHECK(g.gradient_error("x", dx) < g.gradient_tolerance);
    CHECK(g.gradient_error("weight", dw) < g.gradient_tolerance);
    CHECK(g.gradient_error("bias", db) < g.gradient_tolerance);
  }
}

TEST_CASE("causal_conv1d: equals its formula for 1 to 5 taps at lengths below and above them") {
  for (int const taps : {1, 2, 3, 4, 5})
    for (int const length : {1, 2, 3, 4, 5, 7, 17}) {
      CAPTURE(taps);
      CAPTURE(length);
      conv_case f{5, taps, length};
      f.forward();
      CHECK(relative_error(f.y, naive::causal_conv1d(f.x, f.w, f.bias)) < 1e-14);
    }
}

TEST_CASE("causal_conv1d: a sequence walked backwards, a slice of wider rows, is the flipped one") {
  for (int const taps : {2, 4}) {
    conv_case f{5, taps, 7};
    int const width = 9, first = 3;
    std::vector<double> wide = poisoned(std::size_t(width * f.length)), out = wide;
    for (int t = 0; t < f.length; ++t) std::copy_n(f.x.data() + t * 5, 5, wide.data() + t * width + first);
    auto const backwards = [&](auto* data) {
      return sequence<double>{data + (f.length - 1) * width, -width, f.length};
    };
    sequence<double> const in = backwards(wide.data()), to = backwards(out.data());
    cpu::causal_conv1d<double>({in.from(first).data, in.stride, in.length}, 5, taps, f.arranged().data(), f.bias.data(),
                               to.from(first));
    auto const want = naive::flip_rows(naive::causal_conv1d(naive::flip_rows(f.x, 5), f.w, f.bias), 5);
    CHECK(relative_error(naive::columns(out, width, first, 5), want) < 1e-14);
    CHECK(untouched(naive::columns(out, width, 0, first)));
    CHECK(untouched(naive::columns(out, width, first + 5, width - first - 5)));
  }
}

TEST_CASE("causal_conv1d: taps arranged in reverse are the taps of the reversed channels, and come back") {
  conv_case f{5, 3, 1};
  std::vector<double> plain(15), reversed(15), back(15, 1.0);
  cpu::arrange_taps(f.w.data(), 5, 3, false, plain.data());
  cpu::arrange_taps(f.w.data(), 5, 3, true, reversed.data());
  CHECK(reversed == naive::flip_columns(plain, 5));
  for (std::size_t k = 0; k < 3; ++k)
    for (std::size_t c = 0; c < 5; ++c) CHECK(plain[k * 5 + c] == f.w[c * 3 + k]);
  cpu::add_arranged_taps(reversed.data(), 5, 3, true, back.data());
  for (std::size_t i = 0; i < 15; ++i) CHECK(back[i] == f.w[i] + 1);
}

TEST_CASE("causal_conv1d: gradients match central differences") {
  for (int const taps : {1, 2, 4, 5})
    for (int const length : {1, 7, 17, 197}) {
      CAPTURE(taps);
      CAPTURE(length);
      conv_case f{3, taps, length};
      f.backward();
      CHECK(gradient_error(f.x, f.dx, [&] { return f.loss(); }) < gradient_tolerance);
      CHECK(gradient_error(f.w, f.dw, [&] { return f.loss(); }) < gradient_tolerance);
      CHECK(gradient_error(f.bias, f.db, [&] { return f.loss(); }) < gradient_tolerance);
    }
}

TEST_CASE("causal_conv1d: every gradient accumulates") {
  conv_case f{3, 4, 7};
  f.backward();
  conv_case g = f;
  g.backward();
  auto const twice = [](std::vector<double> x) {
    for (double& v : x) v *= 2;
    return x;
  };
  CHECK(relative_error(g.dx, twice(f.dx)) < 1e-15);
  CHECK(relative_error(g.dw, twice(f.dw)) < 1e-15);
  CHECK(relative_error(g.db, twice(f.db)) < 1e-15);
}
