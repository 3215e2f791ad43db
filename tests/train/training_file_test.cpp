// Training checkpoints: what goes in comes out, and what does not fit changes nothing.
#include <dm2/io/checkpoint.hpp>
#include <dm2/train/initialise.hpp>
#include <dm2/train/training_checkpoint.hpp>

#include "io/scratch.hpp"
#include "support/configurations.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

/// Everything that a checkpoint holds, each buffer with its own numbers.
template <class T, config C = small_config>
struct run_state {
  using context = cpu::context<T>;
  model<C, context> net{1, context{1}};
  ema<C, context> average{net};
  optimizer<C, context> rule;

  explicit run_state(std::uint64_t seed, optimizer_kind kind = optimizer_kind::adamw) : rule{{.kind = kind}} {
    initialise(net, seed + 1);
    average.restart(net);
    initialise(net, seed);
    for (auto& n : net.counters()) n = std::int64_t(40 + seed);
    for (parameter_entry const& e : net.table())
      if (e.kind == entry_kind::parameter)
        for (std::size_t i = e.offset; i < e.offset + e.size; ++i) {
          rule.momentum()[i] = T(seed) + T(i) / 3;
          if (!rule.second_moment().empty()) rule.second_moment()[i] = T(seed) + T(i) / 7;
        }
    rule.set_steps(std::int64_t(seed) * 11);
    average.set_steps(std::int64_t(seed) * 13);
  }
  void save(std::filesystem::path const& path) {
    save_training(path, net, average, rule, {{"epoch", 3}, {"loss_sum", 0.1}}, {{"class_names", "[\"a\"]"}});
  }
  [[nodiscard]] std::vector<T> numbers() {
    std::vector<T> out;
    for (std::span<T> part : {net.state(), average.state(), rule.momentum(), rule.second_moment()})
      out.insert(out.end(), part.begin(), part.end());
    for (auto n : {net.counters()[0], rule.steps(), average.steps()}) out.push_back(T(n));
    return out;
  }
};

template <class State>
std::string refusal(std::filesystem::path const& path, State& into) {
  auto const before = into.numbers();
  std::string text;
  try {
    (void)resume_training(path, into.net, into.average, into.rule);
  } catch (file_error const& e) {
    text = e.what();
  }
  CHECK(into.numbers() == before);
  return text;
}

/// The length of a safetensors header, which the file begins with.
std::uint64_t raw_length(std::string const& file) {
  return dm2::detail::read_le<std::uint64_t>(reinterpret_cast<std::byte const*>(file.data()));
}
bool has(std::string const& text, char const* part) { return text.find(part) != text.npos; }

}  // namespace

TEST_CASE_TEMPLATE("training file: weights, averages, optimizer, counts and progress come back to the last bit", T,
                   float, double) {
  for (optimizer_kind const kind : {optimizer_kind::lion, optimizer_kind::adamw}) {
    scratch_folder const folder;
    run_state<T> one{1, kind}, two{2, kind};
    CHECK(one.numbers() != two.numbers());
    one.save(folder / "c.safetensors");
    auto const progress = resume_training(folder / "c.safetensors", two.net, two.average, two.rule);
    CHECK(one.numbers() == two.numbers());
    CHECK(progress.at("epoch") == 3);
    CHECK(progress.at("loss_sum") == 0.1);
    two.save(folder / "again.safetensors");
    CHECK(read_raw(folder / "again.safetensors") == read_raw(folder / "c.safetensors"));
  }
}

TEST_CASE("training file: without the optimizer, weights and averages come back from a file of any kind") {
  scratch_folder const folder;
  run_state<float> one{1, optimizer_kind::lion}, two{2};
  one.save(folder / "c.safetensors");
  std::vector<float> const before(two.rule.momentum().begin(), two.rule.momentum().end());
  (void)resume_training(folder / "c.safetensors", two.net, two.average, two.rule, false);
  CHECK(std::ranges::equal(one.net.state(), two.net.state()));
  CHECK(std::ranges::equal(one.average.state(), two.average.state()));
  CHECK(two.average.steps() == 13);
  CHECK(two.rule.steps() == 22);
  CHECK(std::ranges::equal(two.rule.momentum(), before));
}

TEST_CASE("training file: a model loads the averages, or the raw weights, by the model's own names") {
  scratch_folder const folder;
  run_state<float> state{1};
  auto const path = folder / "c.safetensors";
  state.save(path);
  model<small_config> raw, averaged, automatic;
  load(raw, path, weights::raw);
  load(averaged, path, weights::ema);
  load(automatic, path);
  CHECK(std::ranges::equal(raw.state(), state.net.state()));
  CHECK(std::ranges::equal(averaged.state(), state.average.state()));
  CHECK(std::ranges::equal(automatic.state(), state.average.state()));
  CHECK(raw.counters()[0] == 41);
  CHECK(averaged.counters()[0] == 41);
  CHECK(tensor_file{path}.metadata().at("class_names") == "[\"a\"]");
}

TEST_CASE("training file: what is no checkpoint of this run is refused by name, and nothing is changed") {
  scratch_folder const folder;
  auto const path = folder / "c.safetensors";
  run_state<float> into{2};
  SUBCASE("weights alone") {
    run_state<float> other{1};
    save(other.net, path);
    CHECK(has(refusal(path, into), "is no training checkpoint"));
  }
  SUBCASE("another optimizer") {
    run_state<float>{1, optimizer_kind::lion}.save(path);
    CHECK(has(refusal(path, into), "was written with the optimizer \"lion\", not adamw"));
  }
  SUBCASE("another precision") {
    run_state<double>{1}.save(path);
    CHECK(has(refusal(path, into), "'raw/cls_token' is of type F64, another precision than the run's"));
  }
  SUBCASE("another configuration") {
    constexpr config other = [] {
      config c = small_config;
      c.classes = 4;
      return c;
    }();
    run_state<float, other>{1}.save(path);
    CHECK(has(refusal(path, into), "is of another configuration: classes: 4 in the file, 3 in the program"));
  }
  SUBCASE("a file cut off anywhere") {
    run_state<float>{1}.save(path);
    std::string const whole = read_raw(path);
    for (std::size_t size : {std::size_t{0}, std::size_t{7}, std::size_t{300}, whole.size() / 2, whole.size() - 1}) {
      write_raw(path, whole.substr(0, size));
      CHECK(refusal(path, into).starts_with(path.string()));
    }
  }
  SUBCASE("no file") { CHECK(has(refusal(path, into), "c.safetensors")); }
}

TEST_CASE("training file: the model's entries stand in the order of its state dict, under raw/ and ema/") {
  scratch_folder const folder;
  run_state<float> state{1};
  state.save(folder / "c.safetensors");
  for (weights const which : {weights::raw, weights::ema}) {
    tensor_file const file{folder / "c.safetensors", which};
    REQUIRE(file.tensors().size() == state.net.table().size());
    for (std::size_t i = 0; i < file.tensors().size(); ++i) {
      parameter_entry const& e = state.net.table()[i];
      CHECK(file.tensors()[i].name == e.name);
      CHECK(file.tensors()[i].shape == std::vector<std::int64_t>(e.shape.begin(), e.shape.begin() + e.rank));
    }
  }
}

TEST_CASE("training file: its head tells where the run was, and numbers out of range are refused by name") {
  scratch_folder const folder;
  auto const path = folder / "c.safetensors";
  run_state<float> state{1};
  auto const write = [&](nlohmann::json progress) {
    save_training(path, state.net, state.average, state.rule, std::move(progress), {{"class_names", "[\"a\"]"}});
  };
  write({{"epoch", 3}, {"next_batch", 7}});
  checkpoint_head const head = read_checkpoint_head(path);
  CHECK(head.epoch == 3);
  CHECK(head.next_batch == 7);
  CHECK(head.metadata.at("class_names") == "[\"a\"]");
  for (auto const& [epoch, batch, after] : {std::tuple{3, 6, true}, {3, 7, false}, {2, 9, true}, {4, 0, false}}) {
    checkpoint_head other;
    other.epoch = epoch;
    other.next_batch = std::size_t(batch);
    CHECK(head.after(other) == after);
  }
  for (nlohmann::json const& bad : {nlohmann::json(-3), nlohmann::json(1e300), nlohmann::json(2.0),
                                    nlohmann::json(std::int64_t{1} << 40), nlohmann::json(~std::uint64_t{0})}) {
    CAPTURE(bad.dump());
    write({{"epoch", bad}, {"next_batch", 0}});
    CHECK_THROWS_WITH_AS((void)read_checkpoint_head(path), doctest::Contains("have 'epoch'"), file_error);
  }
  write({{"epoch", "3"}, {"next_batch", 0}});
  CHECK_THROWS_WITH_AS((void)read_checkpoint_head(path), doctest::Contains("no epoch and optimizer"), file_error);
  write({{"epoch", 1}});
  CHECK_THROWS_WITH_AS((void)read_checkpoint_head(path), doctest::Contains("lack 'next_batch'"), file_error);
  save(state.net, path);
  CHECK_THROWS_WITH_AS((void)read_checkpoint_head(path), doctest::Contains("is no training checkpoint"), file_error);
}

TEST_CASE("training file: any flipped bit is found when the run is resumed, and nothing is changed") {
  scratch_folder const folder;
  auto const path = folder / "c.safetensors";
  run_state<float>{1}.save(path);
  std::string const whole = read_raw(path);
  std::size_t const header = 8 + std::size_t(raw_length(whole));
  run_state<float> into{2};
  std::mt19937 random{11};
  std::size_t accepted = 0;
  auto const flip = [&](std::size_t at, unsigned bit) {
    std::string flipped = whole;
    flipped[at] = char(flipped[at] ^ (1 << bit));
    write_raw(path, flipped);
    if (refusal(path, into).empty()) ++accepted;
  };
  for (int i = 0; i < 400; ++i) flip(random() % header, random() % 8);
  for (int i = 0; i < 400; ++i) flip(header + random() % (whole.size() - header), random() % 8);
  flip(header, 0);
  flip(whole.size() - 1, 7);
  CHECK(accepted == 0);
  write_raw(path, whole.substr(0, whole.size() - 512) + std::string(512, '\0'));  // a disk that lost its last write
  CHECK(has(refusal(path, into), "is damaged: tensor '"));
}

TEST_CASE("training file: load finds damage in the weights that it reads, and verify_checkpoint in all") {
  scratch_folder const folder;
  auto const path = folder / "c.safetensors";
  run_state<float>{1}.save(path);
  CHECK(verify_checkpoint(path));
  std::string flipped = read_raw(path);
  flipped[8 + std::size_t(raw_length(flipped)) + 8] ^= 1;  // data begin with the counters, then raw/
  write_raw(path, flipped);
  model<small_config> net;
  std::vector<float> const before(net.state().begin(), net.state().end());
  CHECK_THROWS_WITH_AS((void)verify_checkpoint(path), doctest::Contains("is damaged: tensor '"), file_error);
  bool found = false;
  for (weights const which : {weights::raw, weights::ema}) try {
      load(net, path, which);
    } catch (file_error const& problem) {
      found = found || has(problem.what(), "is damaged: tensor '");
    }
  CHECK(found);
}

TEST_CASE("training file: one without checksums, as older versions wrote them, is read and said to have none") {
  scratch_folder const folder;
  auto const path = folder / "c.safetensors", older = folder / "older.safetensors";
  run_state<float> one{1}, two{2};
  one.save(path);
  mapped_file const file{path};
  safetensors_content content = read_safetensors(file.bytes(), path);
  CHECK(content.metadata.erase(checksums_key) == 1);
  write_safetensors(older, content.tensors, content.metadata);
  CHECK_FALSE(verify_checkpoint(older));
  CHECK_FALSE(tensor_file{older}.has_checksums());
  CHECK(tensor_file{path}.has_checksums());
  (void)resume_training(older, two.net, two.average, two.rule);
  CHECK(one.numbers() == two.numbers());
}
