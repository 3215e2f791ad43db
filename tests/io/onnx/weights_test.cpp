#include <dm2/io/checkpoint.hpp>
#include <dm2/io/onnx/scan.hpp>
#include <dm2/io/onnx/weights.hpp>

#include "support/compare.hpp"
#include "support/configurations.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

using namespace dm2;
using namespace dm2::test;
using numbers = std::vector<double>;

namespace {

struct model {
  explicit model(config const& c) : table{c}, state(table.state_extent()), counters(table.counter_count()) {
    state = random_source{5}.uniform<float>(state.size(), 0.1, 1);
    detail::add_entry_tensors(tensors, "", table.entries(), std::span<float const>{state},
                              std::span<std::int64_t const>{counters});
    for (stored_tensor const& t : tensors) pointers.push_back(&t);
  }
  [[nodiscard]] detail::onnx_weights weights() const { return {table.entries(), pointers}; }

  model_table table;
  std::vector<float> state;
  std::vector<std::int64_t> counters;
  std::vector<stored_tensor> tensors;
  std::vector<stored_tensor const*> pointers;
};

/// w [rows, x.size()] times x.
numbers product(numbers const& w, numbers const& x) {
  numbers out(w.size() / x.size());
  for (std::size_t r = 0; r < out.size(); ++r)
    for (std::size_t k = 0; k < x.size(); ++k) out[r] += w[r * x.size() + k] * x[k];
  return out;
}
numbers reversed(numbers x) { return {x.rbegin(), x.rend()}; }

}  // namespace

TEST_CASE("onnx_weights: a convolution with a folded BatchNorm is the convolution, then BatchNorm") {
  model const m{little};
  auto const w = m.weights();
  for (int number = 1; number <= 3; ++number) {
    std::string const conv = "patch_embed.conv" + std::to_string(number) + ".weight";
    std::string const norm = "patch_embed.bn" + std::to_string(number);
    auto const folded = detail::fold_batch_norm(w, number);
    std::size_t const each = w(conv).size() / 3;
    numbers const patch = random_source{9}.normal(each);  // one place of the convolution
    numbers want = product(w(conv), patch), got = product(folded.weight, patch);
    for (std::size_t c = 0; c < want.size(); ++c) {
      want[c] = (want[c] - w(norm + ".running_mean")[c]) / std::sqrt(w(norm + ".running_var")[c] + 1e-5) *
                    w(norm + ".weight")[c] +
                w(norm + ".bias")[c];
      got[c] += folded.bias[c];
    }
    CHECK(relative_error(got, want) < 1e-12);
  }
}

TEST_CASE("onnx_weights: the merged projection is the mean of both directions', as the variant turns them") {
  for (mixer_variant const variant : {mixer_variant::published, mixer_variant::bidirectional}) {
    config c = little;
    c.variant = variant;
    bool const published = c.variant == mixer_variant::published;
    model const m{c};
    auto const w = m.weights();
    std::string const mixer = "layers.0.mixer";
    numbers const first = random_source{1}.normal(12), second = random_source{2}.normal(12);  // each in its own order
    numbers one = first, other = second;
    for (std::size_t i = 0; i < 12; ++i) {
      one[i] *= w(mixer + ".norm.weight")[i];
      other[i] *= w(mixer + ".norm_b.weight")[i];
    }
    numbers want = product(w(mixer + ".out_proj.weight"), one), back = product(w(mixer + ".out_proj_b.weight"), other);
    if (published) back = reversed(back);
    for (std::size_t i = 0; i < want.size(); ++i) want[i] = (want[i] + back[i]) / 2;
    numbers both = first;
    for (double const value : published ? reversed(second) : second) both.push_back(value);
    CHECK(relative_error(product(detail::merge_output_projections(w, mixer, c), both), want) < 1e-12);
  }
}

TEST_CASE("onnx_weights: rows and columns are scaled and turned") {
  numbers const w{1, 2, 3, 4, 5, 6}, two{10, 100}, three{1, 10, 100};
  CHECK(detail::scale_rows(w, two) == numbers{10, 20, 30, 400, 500, 600});
  CHECK(detail::scale_columns(w, three) == numbers{1, 20, 300, 4, 50, 600});
  CHECK(detail::reverse_rows(w, 3) == numbers{4, 5, 6, 1, 2, 3});
  CHECK(detail::reverse_rows(w, 1) == reversed(w));
  CHECK_THROWS_AS((void)model{little}.weights()("layers.0.mixer.nothing"), std::out_of_range);
}

TEST_CASE("onnx_scan: short sequences are one product, long ones chunks that hold every token") {
  auto const chunks = [](std::int64_t length) {
    detail::onnx_scan_shape s{1, 8, 48, 128, length, false, 1};
    s.chunks = detail::choose_chunks(s);
    CHECK(s.chunk() * s.chunks >= length);
    CHECK(s.chunk() * (s.chunks - 1) < length);
    return s.chunks;
  };
  CHECK(chunks(1) == 1);
  CHECK(chunks(2) == 1);
  CHECK(chunks(197) == 1);
  CHECK(chunks(1025) > 4);
  CHECK(chunks(3137) > 16);
}
