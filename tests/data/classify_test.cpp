#include <dm2/data/classify.hpp>
#include <dm2/data/decode.hpp>
#include <dm2/io/checkpoint.hpp>

#include "model/golden_model.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>

using namespace dm2;
using dm2::test::micro;

namespace {
std::vector<prediction> best(std::vector<double> const& logits, int k) { return top_k(std::span{logits}, k); }
std::vector<int> classes_of(std::vector<prediction> const& list) {
  std::vector<int> out;
  for (auto const& p : list) out.push_back(p.index);
  return out;
}
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
std::string const checkpoint = DM2_GOLDEN_DIR "/lightning/epoch=0-step=2-EMA.ckpt";
picture photo() { return read_image(DM2_GOLDEN_DIR "/images/photo.jpg"); }
}  // namespace

TEST_CASE("top_k: the largest logits come first, with their softmax over all") {
  auto const top = best({std::log(1.0), std::log(4.0), std::log(2.0), std::log(3.0)}, 3);  // probabilities n / 10
  CHECK(classes_of(top) == std::vector{1, 3, 2});
  CHECK(top[0].probability == doctest::Approx(0.4).epsilon(1e-6));
  CHECK(top[1].probability == doctest::Approx(0.3).epsilon(1e-6));
  CHECK(top[2].probability == doctest::Approx(0.2).epsilon(1e-6));
}

TEST_CASE("top_k: equal logits keep the order of their classes") {
  CHECK(classes_of(best({1, 2, 1, 2, 1}, 4)) == std::vector{1, 3, 0, 2});
  CHECK(classes_of(best(std::vector<double>(50, -3.0), 50))[37] == 37);
  CHECK(classes_of(best({0.0, -0.0}, 2)) == std::vector{0, 1});
}

TEST_CASE("top_k: all classes' probabilities sum to one, whatever is added to the logits") {
  for (double const shift : {-1e6, -700.0, 0.0, 700.0, 1e6}) {
    CAPTURE(shift);
    std::vector<double> logits;
    for (int i = 0; i < 1000; ++i) logits.push_back(shift + std::sin(i * 1.7) * 8);
    double total = 0;
    float last = 2;
    for (auto const& [index, probability] : best(logits, 1000)) {
      total += double(probability);
      CHECK(probability <= last);
      last = probability;
    }
    CHECK(total == doctest::Approx(1).epsilon(1e-5));
  }
}

TEST_CASE("top_k: of logits that are not numbers no class is the best, wherever they stand") {
  for (std::vector<double> const& logits : {std::vector{not_a_number, -inf, 3.0, 5.0},
                                            {1.0, 2.0, -not_a_number},
                                            {inf, 1.0, 2.0},
                                            {1.0, inf, inf},
                                            {-inf, -inf},
                                            {not_a_number}})
    for (int const k : {1, 5}) CHECK_THROWS_AS(best(logits, k), std::domain_error);
  CHECK_THROWS_WITH_AS(best({1, 2, not_a_number}, 1), "top_k: the logit of class 2 is not a finite number",
                       std::domain_error);
}

TEST_CASE("top_k: minus infinity is a probability of zero") {
  auto const top = best({-inf, 0, -inf}, 3);
  CHECK(classes_of(top) == std::vector{1, 0, 2});
  CHECK(top[0].probability == 1);
  CHECK(top[1].probability == 0);
}

TEST_CASE("top_k: more than there are gives all, fewer than one is an error") {
  CHECK(classes_of(best({1, 2}, 9)) == std::vector{1, 0});
  CHECK(best({}, 3).empty());
  CHECK_THROWS_WITH_AS(best({1, 2}, 0), "top_k: k is 0, expected at least 1", shape_error);
  CHECK_THROWS_AS(best({1, 2}, -1), shape_error);
}

TEST_CASE("evaluation_input: is the normalised evaluation transform for the model's image size") {
  picture const p = photo();
  std::vector<float> single(sizes<micro>::pixels), expected(sizes<micro>::pixels);
  std::vector<double> twice(sizes<micro>::pixels);
  evaluation_input<micro>(p, std::span{single});
  evaluation_input<micro>(p, std::span{twice});
  normalise(evaluation_transform(p, 64, 73), expected);
  CHECK(single == expected);
  CHECK(twice == std::vector<double>(expected.begin(), expected.end()));
  std::vector<float> short_by_one(sizes<micro>::pixels - 1);
  CHECK_THROWS_AS(evaluation_input<micro>(p, std::span{short_by_one}), shape_error);
}

TEST_CASE("classify: weights that are not finite give no classes, and load has named them") {
  model<micro> net;
  CHECK(load(net, checkpoint).empty());
  net.state()[net.table().back().offset] = float(not_a_number);
  CHECK_THROWS_AS((void)classify(net, photo(), 3), std::domain_error);
}

TEST_CASE("classify: gives the softmax of the model's logits, the same in a batch and alone, in float and double") {
  model<micro> net;
  model<micro, cpu::context<double>> exact;
  load(net, checkpoint);
  load(exact, checkpoint);
  picture const p = photo(), q = read_image(DM2_GOLDEN_DIR "/images/gray.jpg");
  std::vector<double> input(exact.pixels), logits(exact.classes);
  evaluation_input<micro>(p, std::span{input});
  exact.forward(input, logits);
  auto const expected = top_k(std::span<double const>{logits}, 10);
  std::vector const pictures{q, p};
  auto const alone = classify(net, p, 10), together = classify(net, std::span{pictures}, 10)[1],
             doubled = classify(exact, p, 10);
  CHECK(classes_of(alone) == classes_of(expected));
  CHECK(classes_of(together) == classes_of(expected));
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CHECK(alone[i].probability == doctest::Approx(expected[i].probability).epsilon(1e-5));
    CHECK(together[i].probability == doctest::Approx(expected[i].probability).epsilon(1e-5));
    CHECK(doubled[i].probability == expected[i].probability);
  }
  CHECK(classify(net, std::span<picture const>{}, 5).empty());
  CHECK_THROWS_AS((void)classify(net, picture{}, 5), shape_error);
}
