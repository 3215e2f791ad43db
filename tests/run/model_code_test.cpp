// A model's code behind the run-time interface: a shared object's numbers are those of the compiled-in code.
#include <dm2/data/batch.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/model/model_table.hpp>
#include <dm2/model/presets.hpp>
#include <dm2/run/config_of_file.hpp>
#include <dm2/run/models.hpp>
#include <dm2/run/network_file.hpp>
#include <dm2/train/initialise.hpp>

#include "io/scratch.hpp"
#include "support/noisy_batch.hpp"
#include "support/random.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

using namespace dm2;

namespace {

constexpr config micro = presets::micro;
constexpr std::size_t tokens = 16, length = tokens + 1, pixels = 3 * 64 * 64;

/// What a network with weights of seed 7 says of three pictures: logits, features, the class token's and the patches'.
std::vector<std::vector<float>> answers(run::model_code const& code) {
  auto const net = code.make_network(3, 1);
  model_table const table{micro};
  initialise(micro, table.entries(), net->state(), net->counters(), 7);
  std::vector<float> const pictures = test::random_source{1}.normal<float>(3 * pixels);
  std::size_t const classes = std::size_t(micro.classes);
  std::vector<float> logits(3 * classes), cls(logits), patches(3 * classes * tokens);
  std::vector<float> features(3 * length * std::size_t(micro.dim));
  net->forward(pictures, logits);
  net->forward_features(pictures, features);
  net->forward_patches(pictures, cls, patches);
  return {logits, features, cls, patches};
}

/// Three steps of training from seed 3: state, average and momentum.
std::vector<std::vector<float>> three_steps(run::model_code const& code) {
  run::training_request request;
  request.batch = 4;
  request.threads = 1;
  request.options.steps.batch = 4;
  request.options.steps.accumulate = 1;
  auto const state = code.make_training(request);
  auto const numbers = std::get<training_numbers<float>>(state->numbers());
  initialise(micro, numbers.table, numbers.state, numbers.counters, 3);
  state->restart_average();
  state->push();
  for (unsigned step = 0; step < 3; ++step) {
    state->micro_batch(test::noisy_batch(micro, 4, step), {0, 1, 0, 1}, 1);
    state->finish_round(1, {0, step, step}, false);
    state->finish_step(1e-3);
    (void)state->next_result(true);
  }
  state->pull();
  std::vector<std::vector<float>> out;
  for (std::span<float const> const values : {numbers.state, numbers.average, numbers.momentum})
    out.emplace_back(values.begin(), values.end());
  return out;
}

run::model_code const& compiled_in_code() {
  run::model_code const* const code = run::find_compiled_in(micro, run::backend::cpu);
  REQUIRE(code != nullptr);
  return *code;
}
/// The same code from a shared object, compiled into a folder of the test's own, once.
run::model_code const& loaded_code() {
  static test::scratch_folder const folder;
  static run::model_code const& code =
      run::find_code(micro, run::backend::cpu, {.folder = folder / "dm2", .compiled_in = false});
  return code;
}

bool all_differ_from_zero(std::vector<std::vector<float>> const& lists) {
  return std::all_of(lists.begin(), lists.end(), [](std::vector<float> const& values) {
    return std::any_of(values.begin(), values.end(), [](float v) { return v != 0; });
  });
}

}  // namespace

TEST_CASE("model code: a shared object's answers are those of the compiled-in code, to the last bit") {
  auto const here = answers(compiled_in_code());
  CHECK(all_differ_from_zero(here));
  CHECK(&loaded_code() != &compiled_in_code());
  CHECK(answers(loaded_code()) == here);
}

TEST_CASE("model code: a shared object's steps of training are those of the compiled-in code, to the last bit") {
  auto const here = three_steps(compiled_in_code());
  CHECK(all_differ_from_zero(here));
  CHECK(three_steps(loaded_code()) == here);
  CHECK(loaded_code().training_bytes(4) == compiled_in_code().training_bytes(4));
}

TEST_CASE("model code: what a network saves is loaded by another one, and says the same") {
  test::scratch_folder const folder;
  auto const net = loaded_code().make_network(1, 1);
  model_table const table{micro};
  initialise(micro, table.entries(), net->state(), net->counters(), 7);
  run::save(*net, folder / "n.safetensors", {{"note", "x"}});
  tensor_file const file{folder / "n.safetensors"};
  CHECK(config_of(file).name == "micro");
  CHECK(config_of(file).notices.empty());
  auto const other = compiled_in_code().make_network(1, 1);
  CHECK(run::load(*other, file).empty());
  CHECK(std::equal(net->state().begin(), net->state().end(), other->state().begin(), other->state().end()));
  CHECK_THROWS_AS(run::save(*net, folder / "m.safetensors", {{"config", "mine"}}), std::invalid_argument);
}

TEST_CASE("model code: errors of a shared object are caught as the program's own") {
  auto const net = loaded_code().make_network(1, 1);
  std::vector<float> pictures(pixels), logits(4);
  CHECK_THROWS_AS(net->forward(pictures, logits), shape_error);
  CHECK_THROWS_AS((void)loaded_code().make_network(0, 1), shape_error);
}

TEST_CASE("model code: a file that holds no code is refused, and a broken rule before anything is compiled") {
  test::scratch_folder const folder;
  test::write_raw(folder / "text.so", "no object");
  CHECK_THROWS_AS((void)run::load_code(folder / "text.so"), file_error);
  config broken = micro;
  broken.headdim = 7;
  CHECK_THROWS_AS((void)run::find_code(broken, run::backend::cpu, {.folder = folder / "dm2", .compiled_in = false}),
                  std::invalid_argument);
  CHECK(!std::filesystem::exists(folder / "dm2"));
}
