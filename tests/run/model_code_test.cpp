// A model's code behind the run-time interface: the numbers of the compiled-in model, from a shared object too.
#include <dm2/cpu/context.hpp>
#include <dm2/data/batch.hpp>
#include <dm2/model/model.hpp>
#include <dm2/run/models.hpp>
#include <dm2/run/network_of.hpp>
#include <dm2/run/training_of.hpp>
#include <dm2/train/initialise.hpp>
#include <dm2/train/model_training.hpp>

#include "io/scratch.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <random>
#include <span>
#include <string>
#include <variant>
#include <vector>

using namespace dm2;

namespace {

constexpr config odd{.image = {24, 16},
                     .patch = 8,
                     .stem_width = 8,
                     .depth = 2,
                     .dim = 24,
                     .classes = 5,
                     .headdim = 8,
                     .d_state = 12,
                     .attn_layers = layers(1),
                     .attn_heads = 2,
                     .attn_head_dim = 12,
                     .attn_rotary = 4,
                     .variant = mixer_variant::bidirectional};
using context = cpu::context<float>;

std::vector<float> noise(std::size_t count, unsigned seed) {
  std::mt19937 random{seed};
  std::normal_distribution<float> normal;
  std::vector<float> out(count);
  std::generate(out.begin(), out.end(), [&] { return normal(random); });
  return out;
}

/// A batch of pictures of noise.
batch noisy_batch(int size, unsigned seed) {
  batch b;
  b.height = odd.image.height;
  b.width = odd.image.width;
  b.resize(size, false);
  b.pictures = noise(b.pictures.size(), seed);
  for (int i = 0; i < size; ++i) b.labels[std::size_t(i)] = (i + int(seed)) % odd.classes;
  return b;
}

/// Three steps of training from seed 3: state, average and momentum one after the other.
std::vector<float> train_three_steps(training_state& state) {
  auto const numbers = std::get<training_numbers<float>>(state.numbers());
  initialise(odd, numbers.table, numbers.state, numbers.counters, 3);
  state.restart_average();
  state.push();
  for (unsigned step = 0; step < 3; ++step) {
    state.micro_batch(noisy_batch(4, step), {0, 0, 1, 1}, 1);
    state.finish_round(1, {0, step, step}, false);
    state.finish_step(1e-3);
    (void)state.next_result(true);
  }
  state.pull();
  std::vector<float> out;
  for (std::span<float const> const values : {numbers.state, numbers.average, numbers.momentum})
    out.insert(out.end(), values.begin(), values.end());
  return out;
}

run::training_request request() {
  run::training_request r;
  r.batch = 4;
  r.threads = 1;
  r.options.steps.batch = 4;
  r.options.steps.accumulate = 1;
  return r;
}

/// The code of `odd`, compiled into a folder of the test's own, once.
run::model_code const& compiled_code() {
  static test::scratch_folder const folder;
  static run::model_code const& code =
      run::find_code(odd, run::backend::cpu, {.folder = folder / "dm2", .compiled_in = false});
  return code;
}

}  // namespace

// Nothing is compiled into this program.
std::span<run::model_code const* const> run::compiled_in() { return {}; }

TEST_CASE("model code: a shared object's logits, features and patches are those of the model, to the last bit") {
  model<odd> direct{3, context{1}};
  initialise(direct, 7);
  auto const net = compiled_code().make_network(3, 1);
  REQUIRE(net->state().size() == direct.state().size());
  std::copy(direct.state().begin(), direct.state().end(), net->state().begin());
  std::vector<float> const pictures = noise(3 * direct.pixels, 1);
  std::size_t const tokens = std::size_t(sizes<odd>::tokens);
  std::vector<float> logits(3 * direct.classes), cls(logits), patches(cls.size() * tokens);
  std::vector<float> features(3 * std::size_t(sizes<odd>::length) * std::size_t(odd.dim));
  std::vector<float> other_logits(logits), other_cls(cls), other_patches(patches), other_features(features);
  direct.forward(pictures, logits);
  direct.forward_features(pictures, features);
  direct.forward_patches(pictures, cls, patches);
  net->forward(pictures, other_logits);
  net->forward_features(pictures, other_features);
  net->forward_patches(pictures, other_cls, other_patches);
  CHECK(std::any_of(logits.begin(), logits.end(), [](float v) { return v != 0; }));
  CHECK(logits == other_logits);
  CHECK(features == other_features);
  CHECK(cls == other_cls);
  CHECK(patches == other_patches);
}

TEST_CASE("model code: steps of training in a shared object are those of the model, to the last bit") {
  auto const loaded = compiled_code().make_training(request());
  run::training_of<odd, context> direct{request(), context{1}};
  std::vector<float> const there = train_three_steps(*loaded), here = train_three_steps(direct);
  CHECK(std::any_of(here.begin(), here.end(), [](float v) { return v != 0; }));
  CHECK(here == there);
  CHECK(compiled_code().training_bytes(4) == run::cpu_training_bytes<odd>(4));
}

TEST_CASE("model code: errors of a shared object are caught as the program's own") {
  auto const net = compiled_code().make_network(1, 1);
  std::vector<float> pictures(std::size_t(sizes<odd>::pixels)), logits(4);
  CHECK_THROWS_AS(net->forward(pictures, logits), shape_error);
  CHECK_THROWS_AS((void)compiled_code().make_network(0, 1), shape_error);
}

TEST_CASE("model code: a file that holds no code is refused, and a broken rule before anything is compiled") {
  test::scratch_folder const folder;
  test::write_raw(folder / "text.so", "no object");
  CHECK_THROWS_AS((void)run::load_code(folder / "text.so"), file_error);
  config broken = odd;
  broken.headdim = 7;
  CHECK_THROWS_AS((void)run::find_code(broken, run::backend::cpu, {.folder = folder / "dm2", .compiled_in = false}),
                  std::invalid_argument);
  CHECK(!std::filesystem::exists(folder / "dm2"));
}
