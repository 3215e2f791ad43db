#include <dm2/cpu/token_label_loss.hpp>
#include <dm2/train/sparse_target.hpp>

#include "support/golden.hpp"

#include <doctest/doctest.h>

#include <random>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr int classes = 20, side = 14, tokens = side * side, samples = 6;

/// The golden label maps, as dense targets without their ground-truth rows and as sparse ones.
struct both_forms {
  golden file{"targets.safetensors"};
  std::vector<double> maps = file.get("square/top5"), crops = file.get("square/crop"),
                      labels = file.get("square/label");
  std::vector<double> dense = std::vector<double>(std::size_t(samples) * (2 + tokens) * classes);
  sparse_targets<double> sparse{classes};

  both_forms() {
    std::vector<double> scores(classes);
    std::size_t const one = maps.size() / samples, target = dense.size() / samples;
    for (std::size_t b = 0; b < samples; ++b) {
      label_map<double> const map{std::span{maps}.subspan(b * one, one), 18, 18};
      crop_fraction const crop{crops[4 * b], crops[4 * b + 1], crops[4 * b + 2], crops[4 * b + 3]};
      token_label_target(map, crop, int(labels[b]), {classes, side, side}, 0.1, crop_convention::aligned,
                         std::span{scores}, std::span{dense}.subspan(b * target, target));
      sparse.add(map, crop, int(labels[b]), side, side, crop_convention::aligned);
    }
  }
};

}  // namespace

TEST_CASE("sparse_targets: expand to the dense targets") {
  both_forms f;
  auto const rows = f.sparse.rows();
  REQUIRE(rows.count == std::size_t(samples) * (1 + tokens));
  std::vector<double> got, want;
  for (std::size_t r = 0; r < rows.count; ++r) {
    std::vector<double> row(classes, rows.base[r]);
    for (std::size_t i = rows.begin[r]; i < rows.begin[r + 1]; ++i) row[rows.index[i]] += rows.extra[i];
    std::size_t const sample = r / (1 + tokens), at = (sample * (2 + tokens) + 1 + r % (1 + tokens)) * classes;
    got.insert(got.end(), row.begin(), row.end());
    want.insert(want.end(), f.dense.begin() + std::ptrdiff_t(at), f.dense.begin() + std::ptrdiff_t(at + classes));
  }
  CHECK(relative_error(got, want) < 1e-12);
}

TEST_CASE("sparse_targets: give the dense targets' loss and gradients, mixed or not") {
  both_forms f;
  std::mt19937 random{3};
  std::normal_distribution<double> normal;
  std::vector<double> cls(samples * classes), aux(std::size_t(samples) * tokens * classes);
  for (auto* v : {&cls, &aux})
    for (double& x : *v) x = 3 * normal(random);
  cpu::context<double> ctx{2};
  using view = rows<double, classes>;
  using input = rows<double const, classes>;
  for (mix_box box : {mix_box{}, mix_box{1, 9, 2, 14}, mix_box{0, side, 0, side}}) {
    std::vector<double> a_cls(cls.size(), std::nan("")), a_aux(aux.size(), std::nan("")), b_cls = cls, b_aux = aux;
    double const a = token_label_loss(ctx, input{cls.data(), samples}, input{aux.data(), aux.size() / classes},
                                      input{f.dense.data(), f.dense.size() / classes}, box, view{a_cls.data(), samples},
                                      view{a_aux.data(), aux.size() / classes}, 0.25);
    double const b =
        token_label_loss(ctx, input{b_cls.data(), samples}, input{b_aux.data(), aux.size() / classes}, f.sparse.rows(),
                         box, view{b_cls.data(), samples}, view{b_aux.data(), aux.size() / classes}, 0.25);
    CHECK(std::abs(a - b) <= 1e-12 * std::abs(a));
    CHECK(relative_error(b_cls, a_cls) < 1e-12);
    CHECK(relative_error(b_aux, a_aux) < 1e-12);
  }
}

TEST_CASE("sparse_targets: without a label map every row is the smoothed class") {
  sparse_targets<float> t{10};
  t.add(3, 5);
  auto const rows = t.rows();
  REQUIRE(rows.count == 6);
  for (std::size_t r = 0; r < 6; ++r) {
    CHECK(rows.base[r] == doctest::Approx(0.01));
    REQUIRE(rows.begin[r + 1] - rows.begin[r] == 1);
    CHECK(rows.index[rows.begin[r]] == 3);
    CHECK(rows.extra[rows.begin[r]] == doctest::Approx(0.9));
  }
  CHECK_THROWS_WITH_AS(t.add(10, 5), "sparse_targets.label: got class 10, expected 0..9", shape_error);
  CHECK(t.rows().count == 6);
}

TEST_CASE("sparse_targets: a sample of 1000 classes takes a tenth of its dense rows at most") {
  golden const g{"token_labels/expected.safetensors"};
  auto const map = g.get<float>("label");
  sparse_targets<float> t{1000};
  t.add(label_map<float>{std::span{map}, 18, 18}, {0.1, 0.2, 0.6, 0.7}, 7, 14, 14, crop_convention::published);
  CHECK(t.bytes() < 197 * 1000 * sizeof(float) / 10);
}
