// Training in C: the numbers are those of the training state behind it, to the last bit.
#include <dm2/core/random.hpp>
#include <dm2/data/transform.hpp>
#include <dm2/train/initialise.hpp>
#include <dm2/train/mix_box.hpp>

#include "c/opened.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <variant>

using namespace dm2;
using namespace dm2::test;

namespace {

constexpr std::size_t pixels = 3 * 64 * 64;

dm2_trainer_options small_recipe() {
  dm2_trainer_options o{};
  o.size = sizeof o;
  REQUIRE(dm2_trainer_defaults(&o) == DM2_OK);
  o.configuration = "micro";
  o.threads = 1;
  o.batch = 2;
  o.accumulate = 2;
  o.ema_decay = 0.5;
  o.clip_norm = 1;
  o.seed = 11;
  return o;
}

/// The handle of a trainer, closed with the object.
class opened_trainer {
 public:
  explicit opened_trainer(dm2_trainer_options const& o = small_recipe()) {
    REQUIRE_MESSAGE(dm2_trainer_open(&o, &handle_) == DM2_OK, dm2_last_error());
  }
  opened_trainer(opened_trainer const&) = delete;
  opened_trainer& operator=(opened_trainer const&) = delete;
  ~opened_trainer() { (void)dm2_trainer_close(handle_); }

  operator dm2_trainer*() const { return handle_; }

 private:
  dm2_trainer* handle_ = nullptr;
};

/// Four pictures of a step, as bytes and normalised.
struct step_pictures {
  std::vector<std::uint8_t> bytes = std::vector<std::uint8_t>(4 * pixels);
  std::vector<float> values = std::vector<float>(4 * pixels);
  std::vector<std::int32_t> labels;

  explicit step_pictures(unsigned seed) {
    std::mt19937 random{seed};
    for (std::uint8_t& b : bytes) b = std::uint8_t(random());
    for (std::size_t i = 0; i < 4; ++i)
      normalise(std::span<std::uint8_t const>{bytes}.subspan(i * pixels, pixels),
                std::span{values}.subspan(i * pixels, pixels));
    for (int i = 0; i < 4; ++i) labels.push_back(std::int32_t(random() % 10));
  }
  [[nodiscard]] dm2_batch as_bytes() const { return {sizeof(dm2_batch), bytes.data(), nullptr, labels.data(), 4}; }
  [[nodiscard]] dm2_batch as_values() const { return {sizeof(dm2_batch), nullptr, values.data(), labels.data(), 4}; }
};

dm2_step step(dm2_trainer* trainer, dm2_batch const& b, double rate = 1e-3) {
  dm2_step out{};
  out.size = sizeof out;
  REQUIRE_MESSAGE(dm2_trainer_step(trainer, &b, rate, &out) == DM2_OK, dm2_last_error());
  return out;
}

/// The bytes of the checkpoint that a trainer writes.
std::string checkpoint(dm2_trainer* trainer) {
  scratch_folder const folder;
  REQUIRE(dm2_trainer_checkpoint(trainer, (folder / "c").c_str()) == DM2_OK);
  return read_raw(folder / "c");
}

}  // namespace

TEST_CASE("C: training steps move the weights and averages as the training state does, with its losses") {
  run::training_request request;
  request.threads = 1;
  request.options = {{2, 2, 0.1, crop_convention::published}, {}, 0.5, false};
  request.options.optimizer.clip_norm = 1;
  auto const state = run::find_compiled_in(presets::micro, run::backend::cpu)->make_training(request);
  auto const n = std::get<training_numbers<float>>(state->numbers());
  initialise(presets::micro, n.table, n.state, n.counters, 11);
  state->restart_average();
  state->push();
  opened_trainer const trainer;
  for (unsigned i = 0; i < 3; ++i) {
    step_pictures const p{i};
    for (std::size_t half = 0; half < 2; ++half) {
      batch b;
      b.height = b.width = 64;
      b.resize(2, false);
      std::copy_n(p.values.data() + half * 2 * pixels, 2 * pixels, b.pictures.begin());
      std::copy_n(p.labels.data() + half * 2, 2, b.labels.begin());
      std::size_t const number = 2 * i + half;
      random_stream random{11, 0, (std::uint64_t{1} << 32) + number};
      state->micro_batch(b, draw_mix_box(4, 4, random), 0.5);
      state->finish_round(1, {0, i, number}, false);
    }
    state->finish_step(1e-3);
    step_result const want = *state->next_result(true);
    dm2_step const got = step(trainer, i % 2 == 0 ? p.as_bytes() : p.as_values());
    CHECK(got.loss == (want.losses[0] + want.losses[1]) / 2);
    CHECK(got.gradient_norm == want.gradient_norm);
    CHECK(got.gradient_norm > 0);
    CHECK(got.steps == int(i) + 1);
  }
  scratch_folder const folder;
  for (auto const& [which, values] :
       {std::pair{DM2_WEIGHTS_RAW, n.state}, {DM2_WEIGHTS_EMA, n.average}, {DM2_WEIGHTS_AUTO, n.average}}) {
    REQUIRE(dm2_trainer_save(trainer, (folder / "weights").c_str(), which) == DM2_OK);
    auto const net = run::find_compiled_in(presets::micro, run::backend::cpu)->make_network(1, 1);
    run::load(*net, tensor_file{folder / "weights"});
    for (parameter_entry const& e : net->table())
      if (e.kind != entry_kind::counter)
        CHECK(std::equal(values.begin() + std::ptrdiff_t(e.offset), values.begin() + std::ptrdiff_t(e.offset + e.size),
                         net->state().begin() + std::ptrdiff_t(e.offset)));
  }
  REQUIRE(dm2_trainer_checkpoint(trainer, (folder / "checkpoint").c_str()) == DM2_OK);
  opened const model{folder / "checkpoint"};  // a model file, too
  dm2_description d{};
  d.size = sizeof d;
  REQUIRE(dm2_describe(model, &d) == DM2_OK);
  CHECK(d.averaged == 1);
}

TEST_CASE("C: a resumed training goes on with the bytes of an uninterrupted one, with either optimizer") {
  for (int const rule : {DM2_OPTIMIZER_LION, DM2_OPTIMIZER_ADAMW}) {
    scratch_folder const folder;
    dm2_trainer_options o = small_recipe();
    o.optimizer = rule;
    std::string whole;
    {
      opened_trainer const trainer{o};
      step(trainer, step_pictures{1}.as_bytes());
      REQUIRE(dm2_trainer_checkpoint(trainer, (folder / "half").c_str()) == DM2_OK);
      step(trainer, step_pictures{2}.as_bytes());
      whole = checkpoint(trainer);
    }
    opened_trainer const again{o};
    step(again, step_pictures{9}.as_bytes());  // something else first
    REQUIRE_MESSAGE(dm2_trainer_resume(again, (folder / "half").c_str()) == DM2_OK, dm2_last_error());
    CHECK(step(again, step_pictures{2}.as_bytes()).steps == 2);
    CHECK(checkpoint(again) == whole);

    o.batch = 1;
    opened_trainer const other{o};
    std::string const before = checkpoint(other);
    CHECK(dm2_trainer_resume(other, (folder / "half").c_str()) == DM2_FILE);
    CHECK(std::string{dm2_last_error()}.find("batch 2, not 1") != std::string::npos);
    o = small_recipe();
    o.optimizer = 1 - rule;
    opened_trainer const of_other_rule{o};
    CHECK(dm2_trainer_resume(of_other_rule, (folder / "half").c_str()) == DM2_FILE);
    CHECK(dm2_trainer_resume(of_other_rule, micro_file.c_str()) == DM2_FILE);
    CHECK(dm2_trainer_resume(of_other_rule, "/nowhere") == DM2_FILE);
    CHECK(checkpoint(other) == before);
  }
}

TEST_CASE("C: training starts from a file's weights, with the class names that are told") {
  scratch_folder const folder;
  dm2_trainer_options o = small_recipe();
  std::string const start = micro_file;
  std::vector<char const*> const names{"a", "b", "c", "d", "e", "f", "g", "h", "i", "ten"};
  o.start = start.c_str();
  o.configuration = nullptr;
  o.class_names = names.data();
  opened_trainer const trainer{o};
  REQUIRE(dm2_trainer_save(trainer, (folder / "w").c_str(), DM2_WEIGHTS_RAW) == DM2_OK);
  opened const model{folder / "w"}, original;
  std::vector<float> const in = noise(pixels, 3);
  std::vector<float> one(10), other(10);
  REQUIRE(dm2_forward(model, in.data(), 1, one.data(), 10) == DM2_OK);
  REQUIRE(dm2_forward(original, in.data(), 1, other.data(), 10) == DM2_OK);
  CHECK(one == other);
  char const* name = nullptr;
  REQUIRE(dm2_class_name(model, 9, &name) == DM2_OK);
  CHECK(std::string{name} == "ten");
}

TEST_CASE("C errors: a trainer refuses options, batches and rates by name, and goes on") {
  dm2_trainer* none = nullptr;
  dm2_trainer_options o = small_recipe();
  auto const refused = [&](int want, char const* words) {
    CHECK(dm2_trainer_open(&o, &none) == want);
    CHECK(none == nullptr);
    CAPTURE(dm2_last_error());
    CHECK(std::string{dm2_last_error()}.find(words) != std::string::npos);
    o = small_recipe();
  };
  CHECK(dm2_trainer_open(nullptr, &none) == DM2_ARGUMENT);
  CHECK(dm2_trainer_open(&o, nullptr) == DM2_ARGUMENT);
  CHECK(dm2_trainer_defaults(nullptr) == DM2_ARGUMENT);
  o.size = 8, refused(DM2_ARGUMENT, "dm2_trainer_options.size is 8");
  o.configuration = nullptr, refused(DM2_ARGUMENT, "both NULL");
  o.configuration = R"({"base": "micro", "headdim": 7})", refused(DM2_ARGUMENT, "headdim");
  o.batch = 0, refused(DM2_ARGUMENT, "batch is 0");
  o.accumulate = -1, refused(DM2_ARGUMENT, "accumulate is -1");
  o.optimizer = 2, refused(DM2_ARGUMENT, "optimizer is 2");
  o.frozen = 99, refused(DM2_ARGUMENT, "frozen is 99");
  o.smoothing = std::nan(""), refused(DM2_ARGUMENT, "smoothing");
  o.precision = DM2_PRECISION_FP16, refused(DM2_DEVICE, "fp32");
  o.start = "/nowhere", refused(DM2_FILE, "/nowhere");

  opened_trainer const trainer;
  std::string const before = checkpoint(trainer);
  step_pictures p{4};
  dm2_batch b = p.as_bytes();
  auto const refused_step = [&](int want, double rate = 1e-3) {
    CHECK(dm2_trainer_step(trainer, &b, rate, nullptr) == want);
    b = p.as_bytes();
  };
  CHECK(dm2_trainer_step(trainer, nullptr, 1, nullptr) == DM2_ARGUMENT);
  b.size = 1, refused_step(DM2_ARGUMENT);
  b.pictures = p.values.data(), refused_step(DM2_ARGUMENT);
  b.pixels = nullptr, refused_step(DM2_ARGUMENT);
  b.labels = nullptr, refused_step(DM2_ARGUMENT);
  b.count = 0, refused_step(DM2_SIZE);
  b.count = 3, refused_step(DM2_SIZE);
  b.count = 6, refused_step(DM2_SIZE);
  refused_step(DM2_ARGUMENT, -1);
  refused_step(DM2_ARGUMENT, std::nan(""));
  p.labels[3] = 10, refused_step(DM2_ARGUMENT);
  p.labels[3] = -1, refused_step(DM2_ARGUMENT);
  dm2_step out{};
  CHECK(dm2_trainer_step(trainer, &b, 1, &out) == DM2_ARGUMENT);  // its size is not set
  CHECK(dm2_trainer_save(trainer, nullptr, 0) == DM2_ARGUMENT);
  CHECK(dm2_trainer_save(trainer, "/nowhere/w", 0) == DM2_FILE);
  CHECK(dm2_trainer_save(trainer, "w", 3) == DM2_ARGUMENT);
  CHECK(dm2_trainer_checkpoint(trainer, nullptr) == DM2_ARGUMENT);
  CHECK(dm2_trainer_resume(trainer, nullptr) == DM2_ARGUMENT);
  CHECK(checkpoint(trainer) == before);
  CHECK(dm2_trainer_step(nullptr, &b, 1, nullptr) == DM2_HANDLE);
  CHECK(dm2_trainer_close(nullptr) == DM2_OK);
  CHECK(dm2_trainer_close(reinterpret_cast<dm2_trainer*>(&out)) == DM2_HANDLE);
}

TEST_CASE("C errors: a training that meets a number that is not finite says so, and makes no further step") {
  opened_trainer const trainer;
  step_pictures p{5};
  p.values[17] = std::numeric_limits<float>::quiet_NaN();
  dm2_batch const bad = p.as_values();
  CHECK(dm2_trainer_step(trainer, &bad, 1e-3, nullptr) == DM2_NUMBERS);
  CHECK(std::string{dm2_last_error()} == "step 1: the loss is not finite");
  dm2_batch const good = p.as_bytes();
  CHECK(dm2_trainer_step(trainer, &good, 1e-3, nullptr) == DM2_NUMBERS);
}
