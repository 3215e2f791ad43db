/// @file
/// timm's text form of RandAugment's settings.
#include <dm2/data/augment/rand_augment_text.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <stdexcept>
#include <string>

using namespace dm2;

namespace {

/// What parse_rand_augment says to a bad text.
std::string refusal(char const* text) {
  try {
    (void)parse_rand_augment(text);
  } catch (std::invalid_argument const& e) {
    return e.what();
  }
  return "accepted";
}

}  // namespace

TEST_CASE("parse_rand_augment: the recipe's text gives the defaults") {
  augmentation const a = parse_rand_augment("rand-m9-mstd0.5-inc1"), want;
  CHECK(a.magnitude == want.magnitude);
  CHECK(a.magnitude_std == want.magnitude_std);
  CHECK(a.magnitude_max == want.magnitude_max);
  CHECK(a.operations == want.operations);
  CHECK(a.operation_probability == want.operation_probability);
}

TEST_CASE("parse_rand_augment: every key, in any order; absent ones have timm's defaults; the rest is the base's") {
  augmentation base;
  base.flip = 0.125;
  base.magnitude_std = 3;
  augmentation const a = parse_rand_augment("rand-inc1-p0.75-n3-mmax8-m7.5", base);
  CHECK(a.magnitude == 7.5);
  CHECK(a.magnitude_std == 0);
  CHECK(a.magnitude_max == 8);
  CHECK(a.operations == 3);
  CHECK(a.operation_probability == 0.75);
  CHECK(a.flip == 0.125);
  augmentation const b = parse_rand_augment("rand-inc1-mstd101");
  CHECK(b.magnitude == 10);
  CHECK(b.operations == 2);
  CHECK(std::isinf(b.magnitude_std));
  CHECK(std::isinf(parse_rand_augment("rand-inc1-mstdinf").magnitude_std));
}

TEST_CASE("parse_rand_augment: refuses what it cannot mean, naming the section") {
  struct row {
    char const *text, *says;
  };
  for (row const& r : {row{"", "expected 'rand-...'"},
                       {"augmix-m5", "expected 'rand-...'"},
                       {"rand", "add '-inc1'"},
                       {"rand-m9-inc0", "add '-inc1'"},
                       {"rand-m9-inc1-", "'' is not a key and a number"},
                       {"rand-9-inc1", "'9' is not a key and a number"},
                       {"rand-m-inc1", "'m' is not a key and a number"},
                       {"rand-m9x-inc1", "'m9x' does not end in a number"},
                       {"rand-m1e999-inc1", "'m1e999' does not end in a number"},
                       {"rand-w0-inc1", "'w0' has an unknown key"},
                       {"rand-n2.5-inc1", "'n2.5' is not a count"},
                       {"rand-n99999999999-inc1", "is not a count"},
                       {"rand-m9-p1.5-inc1", "operation_probability is 1.5"},
                       {"rand-m900-inc1", "magnitude is 900"}}) {
    std::string const said = refusal(r.text);
    CAPTURE(r.text);
    CAPTURE(said);
    CHECK(said.find(r.says) != std::string::npos);
  }
}

TEST_CASE("require_augmentation: every field is checked, and NaN is no probability") {
  auto const refused = [](auto change) {
    augmentation a;
    change(a);
    CHECK_THROWS_AS(require_augmentation(a), std::invalid_argument);
  };
  require_augmentation({});
  refused([](augmentation& a) { a.flip = -0.1; });
  refused([](augmentation& a) { a.flip = std::nan(""); });
  refused([](augmentation& a) { a.erase = 1.1; });
  refused([](augmentation& a) { a.operation_probability = 2; });
  refused([](augmentation& a) { a.operations = -1; });
  refused([](augmentation& a) { a.magnitude = -1; });
  refused([](augmentation& a) { a.magnitude_std = std::nan(""); });
  refused([](augmentation& a) { a.magnitude_max = -1; });
  refused([](augmentation& a) { a.area_min = 0; });
  refused([](augmentation& a) { a.area_max = 1.5; });
  refused([](augmentation& a) { a.area_max = 0.01; });
  refused([](augmentation& a) { a.ratio_min = -1; });
  refused([](augmentation& a) { a.ratio_max = INFINITY; });
  refused([](augmentation& a) { a.erase_area_min = 0; });
  refused([](augmentation& a) { a.erase_ratio_max = 0.1; });
}
