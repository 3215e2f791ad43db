#include <dm2/cpu/heads.hpp>

#include <doctest/doctest.h>

#include "cpu/naive.hpp"
#include "support/gradcheck.hpp"
#include "support/random.hpp"
#include "support/views.hpp"

#include <algorithm>
#include <type_traits>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr int D = 5, K = 7;

template <class V>
auto head_view(V& w, V& b, V& aux_w, V& aux_b) {
  using T = std::remove_reference_t<decltype(*w.data())>;
  return head_parameters<T, K, D>{{as_block<K, D>(w), as_block<K>(b)}, {as_block<K, D>(aux_w), as_block<K>(aux_b)}};
}

struct head_case {
  int batch, length;
  cpu::context<double> ctx;
  random_source random{109};
  std::vector<double> x, w, b, aux_w, aux_b, dcls, daux;
  std::vector<double> logits, cls, aux, dx, dw, db, daux_w, daux_b;

  head_case(int pictures, int tokens, int threads = 1)
      : batch{pictures},
        length{tokens},
        ctx{threads},
        x{random.normal(count() * D)},
        w{random.normal(K * D)},
        b{random.normal(K)},
        aux_w{random.normal(K * D)},
        aux_b{random.normal(K)},
        dcls{random.normal(pictures_of() * K)},
        daux{random.normal((count() - pictures_of()) * K)},
        logits{poisoned(dcls.size())},
        cls{logits},
        aux{poisoned(daux.size())},
        dx{poisoned(x.size())},
        dw(K * D),
        db(K),
        daux_w(K * D),
        daux_b(K) {}

  [[nodiscard]] std::size_t pictures_of() const { return std::size_t(batch); }
  [[nodiscard]] std::size_t count() const { return std::size_t(batch) * std::size_t(length); }
  [[nodiscard]] auto parameters() const { return head_view(w, b, aux_w, aux_b); }
  void evaluate() { cpu::evaluation_heads(ctx, as_rows<D>(x), parameters(), as_rows<K>(logits), length); }
  void forward() { cpu::training_heads(ctx, as_rows<D>(x), parameters(), as_rows<K>(cls), as_rows<K>(aux), length); }
  void backward() {
    cpu::training_heads_backward(ctx, as_rows<D>(x), parameters(), as_rows<K>(dcls), as_rows<K>(daux), as_rows<D>(dx),
                                 head_view(dw, db, daux_w, daux_b), length);
  }
  /// The class tokens, or the patches, of the features.
  [[nodiscard]] std::vector<double> tokens(bool class_token) const {
    std::vector<double> out;
    for (int r = 0; r < batch * length; ++r)
      if ((r % length == (length - 1) / 2) == class_token)
        out.insert(out.end(), x.begin() + std::ptrdiff_t{r} * D, x.begin() + std::ptrdiff_t{r + 1} * D);
    return out;
  }
};

}  // namespace

TEST_CASE("evaluation_heads: class logits plus half the largest patch logits, for one patch, an odd number, and many") {
  for (int const length : {2, 3, 7, 65, 66, 129, 131, 197}) {
    CAPTURE(length);
    head_case f{3, length, 2};
    f.evaluate();
    auto want = naive::linear(f.tokens(true), f.w, f.b, D, K);
    auto const aux = naive::linear(f.tokens(false), f.aux_w, f.aux_b, D, K);
    for (std::size_t b = 0; b < 3; ++b)
      for (std::size_t k = 0; k < K; ++k) {
        double best = -1e300;
        for (std::size_t t = 0; t < std::size_t(length - 1); ++t)
          best = std::max(best, aux[(b * std::size_t(length - 1) + t) * K + k]);
        want[b * K + k] += 0.5 * best;
      }
    CHECK(relative_error(f.logits, want) < 1e-14);
  }
}

TEST_CASE("evaluation_heads: negative patch logits count, and the class token is no patch") {
  head_case f{1, 7};
  f.aux_w.assign(K * D, 0);
  f.aux_b.assign(K, -4);
  f.w.assign(K * D, 0);
  f.b.assign(K, 1);
  f.evaluate();
  for (double v : f.logits) CHECK(v == -1);
  f.aux_w.assign(K * D, 1);
  f.x.assign(7 * D, 0);
  for (std::size_t c = 0; c < D; ++c) f.x[3 * D + c] = 100;
  f.evaluate();
  for (double v : f.logits) CHECK(v == -1);
}

TEST_CASE("training_heads: each head reads its own tokens") {
  for (int const length : {2, 7, 17, 197}) {
    head_case f{3, length, 2};
    f.forward();
    CHECK(relative_error(f.cls, naive::linear(f.tokens(true), f.w, f.b, D, K)) < 1e-14);
    CHECK(relative_error(f.aux, naive::linear(f.tokens(false), f.aux_w, f.aux_b, D, K)) < 1e-14);
  }
}

TEST_CASE("training_heads: a head whose logits are a view of nothing is not computed") {
  head_case f{3, 7}, g{3, 7}, h{3, 7};
  f.forward();
  cpu::training_heads(g.ctx, as_rows<D>(g.x), g.parameters(), as_rows<K>(g.cls), {}, 7);
  cpu::training_heads(h.ctx, as_rows<D>(h.x), h.parameters(), {}, as_rows<K>(h.aux), 7);
  CHECK(g.cls == f.cls);
  CHECK(untouched(g.aux));
  CHECK(h.aux == f.aux);
  CHECK(untouched(h.cls));
}

TEST_CASE("training_heads: gradients match central differences") {
  for (int const length : {2, 7, 17, 197}) {
    CAPTURE(length);
    head_case f{2, length, 2};
    auto const loss = [&] {
      f.forward();
      return dot(f.cls, f.dcls) + dot(f.aux, f.daux);
    };
    f.backward();
    CHECK(gradient_error(f.x, f.dx, loss) < gradient_tolerance);
    CHECK(gradient_error(f.w, f.dw, loss) < gradient_tolerance);
    CHECK(gradient_error(f.b, f.db, loss) < gradient_tolerance);
    CHECK(gradient_error(f.aux_w, f.daux_w, loss) < gradient_tolerance);
    CHECK(gradient_error(f.aux_b, f.daux_b, loss) < gradient_tolerance);
  }
}

TEST_CASE("training_heads: the features' gradient is overwritten, the parameters' accumulate") {
  head_case f{3, 7}, g{3, 7};
  f.backward();
  g.backward();
  g.backward();
  CHECK(g.dx == f.dx);
  for (auto* v : {&f.dw, &f.db, &f.daux_w, &f.daux_b})
    for (double& d : *v) d *= 2;
  CHECK(relative_error(g.dw, f.dw) < 1e-14);
  CHECK(relative_error(g.db, f.db) < 1e-14);
  CHECK(relative_error(g.daux_w, f.daux_w) < 1e-14);
  CHECK(relative_error(g.daux_b, f.daux_b) < 1e-14);
}

TEST_CASE("heads: rows that disagree are refused by name, and nothing is written") {
  auto const message = [](auto const& spoil, auto const& call) {
    head_case f{2, 7};
    spoil(f);
    std::string const text = shape_message([&] { call(f); });
    for (auto const* v : {&f.logits, &f.cls, &f.aux, &f.dx}) CHECK(untouched(*v));
    return text;
  };
  auto const evaluate = [](head_case& f) { f.evaluate(); };
  auto const forward = [](head_case& f) { f.forward(); };
  auto const backward = [](head_case& f) { f.backward(); };
  CHECK(message([](head_case& f) { f.length = 5; }, evaluate) ==
        "evaluation_heads.features: got 14 rows, expected a multiple of the length 5");
  CHECK(message([](head_case& f) { f.length = 1; }, evaluate) ==
        "evaluation_heads.length: got 1, expected at least 2: the class token and a patch");
  CHECK(message([](head_case& f) { f.logits.resize(3 * K, f.logits[0]); }, evaluate) ==
        "evaluation_heads.logits rows: got 3, expected 2");
  CHECK(message([](head_case& f) { f.cls.resize(K); }, forward) == "training_heads.cls rows: got 1, expected 2");
  CHECK(message([](head_case& f) { f.aux.resize(11 * K); }, forward) == "training_heads.aux rows: got 11, expected 12");
  CHECK(message([](head_case& f) { f.dcls.resize(K); }, backward) ==
        "training_heads_backward.dcls rows: got 1, expected 2");
  CHECK(message([](head_case& f) { f.daux.resize(11 * K); }, backward) ==
        "training_heads_backward.daux rows: got 11, expected 12");
  CHECK(message([](head_case& f) { f.dx.resize(13 * D); }, backward) ==
        "training_heads_backward.dfeatures rows: got 13, expected 14");
}
