// The training loop: what depends on what, and what is left on disk.
#include <dm2/io/checkpoint.hpp>

#include "io/scratch.hpp"
#include "train/small_run.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <limits>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

std::map<std::string, std::string> uninterrupted(trainer_options const& o, int threads = 1) {
  scratch_folder const folder;
  small_run<> run{mapped(), o, run_folder{folder.path(), 3}, threads};
  CHECK(run.driver.run());
  return contents(folder.path());
}

}  // namespace

TEST_CASE("trainer: a run stopped after any step and resumed leaves the files of one that never stopped") {
  auto const want = uninterrupted(small_options());
  REQUIRE(want.size() == 4);  // two epochs, best and last
  for (int last_step = 1; last_step <= 6; ++last_step) {
    CAPTURE(last_step);
    scratch_folder const folder;
    std::atomic<bool> stop{false};
    trainer_options o = small_options();
    o.stop = &stop;
    o.on_step = [&](step_report const& s) { stop = s.step == last_step; };
    CHECK_FALSE(small_run<>{mapped(), o, run_folder{folder.path(), 3}}.driver.run());
    small_run<> second{mapped(), small_options(), run_folder{folder.path(), 3}};
    second.driver.resume(folder / "last.safetensors");
    CHECK(second.driver.steps() == last_step);
    CHECK(second.driver.run());
    CHECK(contents(folder.path()) == want);
  }
}

TEST_CASE("trainer: a run that ends between checkpoints goes on from the last one, to the same bytes") {
  auto const want = uninterrupted(small_options());
  for (int crash : {2, 4, 5}) {
    CAPTURE(crash);
    scratch_folder const folder;
    trainer_options o = small_options();
    o.checkpoint_steps = 1;
    o.on_step = [&](step_report const& s) {
      if (s.step == crash) throw std::runtime_error{"power cut"};
    };
    small_run<> first{mapped(), o, run_folder{folder.path(), 3}};
    CHECK_THROWS_WITH(first.driver.run(), "power cut");
    small_run<> second{mapped(), small_options(), run_folder{folder.path(), 3}};
    second.driver.resume(folder / "last.safetensors");
    CHECK(second.driver.steps() == crash - 1);
    CHECK(second.driver.run());
    CHECK(contents(folder.path()) == want);
  }
}

TEST_CASE("trainer: the loader's threads change no byte, the seed does") {
  auto const one = uninterrupted(small_options());
  CHECK(uninterrupted(small_options(), 3) == one);
  trainer_options other = small_options();
  other.seed = 8;
  CHECK(uninterrupted(other) != one);
}

TEST_CASE("trainer: AdamW with clipping and warm-up of the averages resumes to the same bytes too") {
  trainer_options o = small_options();
  o.optimizer.kind = optimizer_kind::adamw;
  o.optimizer.clip_norm = 0.5;
  o.ema_warm_up = true;
  auto const want = uninterrupted(o);
  scratch_folder const folder;
  o.stop_after = 1;
  CHECK(small_run<>{mapped(), o, run_folder{folder.path(), 3}}.driver.run());
  o.stop_after = 0;
  small_run<> second{mapped(), o, run_folder{folder.path(), 3}};
  second.driver.resume(folder / "last.safetensors");
  CHECK(second.driver.epoch() == 1);
  CHECK(second.driver.run());
  CHECK(contents(folder.path()) == want);
}

TEST_CASE("trainer: accumulated micro-batches have the gradient of one larger batch") {
  // every sample is the same picture, so that BatchNorm sees the same statistics in batches of any size; labels differ
  sample_transform const constant = [](picture, label_map_data*, random_stream&, std::span<float> out) {
    random_stream noise{3, 0, 0};
    for (float& v : out) v = float(noise.normal());
    return crop_fraction{};
  };
  auto const momentum = [&](int batch, int accumulate) {
    scratch_folder const folder;
    trainer_options o = small_options();
    o.batch = batch;
    o.accumulate = accumulate;
    o.mix_token = false;
    std::atomic<bool> stop{false};
    o.stop = &stop;
    o.on_step = [&](step_report const& s) {
      CHECK(s.samples == 8);
      stop = true;
    };
    small_run<> run{plain(), o, run_folder{folder.path()}, 1, constant};
    CHECK_FALSE(run.driver.run());
    std::vector<double> out;
    mapped_file const file{folder / "last.safetensors"};
    for (stored_tensor const& t : read_safetensors(file.bytes(), file.path()).tensors)
      if (t.name.starts_with("momentum/"))
        for (double v : to_vector<double>(t)) out.push_back(v);
    return out;
  };
  auto const whole = momentum(8, 1), halves = momentum(4, 2), eighths = momentum(1, 8);
  double norm = 0, halves_off = 0, eighths_off = 0;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    norm += whole[i] * whole[i];
    halves_off += (whole[i] - halves[i]) * (whole[i] - halves[i]);
    eighths_off += (whole[i] - eighths[i]) * (whole[i] - eighths[i]);
  }
  CHECK(norm > 1e-8);
  CHECK(std::sqrt(halves_off / norm) <= 1e-9);
  CHECK(std::sqrt(eighths_off / norm) <= 1e-9);
}

TEST_CASE("trainer: what is not finite ends the run and is named, with the step, and no checkpoint is written") {
  char const* const weight = "layers.0.mixer.in_proj.weight";
  auto const message = [](small_run<>& run) -> std::string {
    try {
      run.driver.run();
    } catch (divergence_error const& e) {
      return e.what();
    }
    return {};
  };
  auto const has = [](std::string const& text, std::string const& part) { return text.find(part) != text.npos; };
  double const nan = std::numeric_limits<double>::quiet_NaN();
  SUBCASE("a weight, from the beginning") {
    scratch_folder const folder;
    small_run<> run{mapped(), small_options(), run_folder{folder.path(), 3}};
    run.net.state()[offset_of(weight) + 5] = nan;
    std::string const text = message(run);
    CHECK(has(text, "the loss is not finite in epoch 1, step 1 (micro-batch 1)"));
    CHECK(has(text, std::string{"first bad weight: "} + weight));
    CHECK(folder.files() == 0);
  }
  SUBCASE("a weight, later: the last checkpoint stays as it was") {
    scratch_folder const folder;
    trainer_options o = small_options();
    small_run<>* self = nullptr;
    o.on_step = [&](step_report const& s) {
      if (s.step == 4) self->net.state()[offset_of(weight)] = std::numeric_limits<double>::infinity();
    };
    small_run<> run{mapped(), o, run_folder{folder.path(), 3}};
    self = &run;
    std::string const text = message(run);
    CHECK(has(text, "epoch 2, step 5 (micro-batch 3)"));
    CHECK(has(text, weight));
    small_run<> again{mapped(), small_options()};
    again.driver.resume(folder / "last.safetensors");
    CHECK(again.driver.epoch() == 1);
  }
  SUBCASE("a picture") {
    small_run<> run{
        plain(), small_options(), {}, 1, [nan](picture, label_map_data*, random_stream&, std::span<float> out) {
          std::fill(out.begin(), out.end(), float(nan));
          return crop_fraction{};
        }};
    CHECK(has(message(run), "first bad picture of the batch: 0"));
  }
}

TEST_CASE("trainer: the history keeps the latest epochs, and the best and the last stand beside them") {
  scratch_folder const folder;
  trainer_options o = small_options();
  o.rates.epochs = 5;
  CHECK(small_run<>{mapped(), o, run_folder{folder.path(), 2}}.driver.run());
  std::set<std::string> names;
  for (auto const& [name, bytes] : contents(folder.path())) names.insert(name);
  CHECK(names == std::set<std::string>{"best.safetensors", "epoch-0004.safetensors", "epoch-0005.safetensors",
                                       "last.safetensors"});
}

TEST_CASE("trainer: best is the first epoch of the highest accuracy, of the averaged weights") {
  scratch_folder const folder;
  trainer_options o = small_options();
  o.rates.epochs = 6;
  std::vector<epoch_report> reports;
  std::vector<double> raw;
  small_run<>* self = nullptr;
  o.on_step = [&](step_report const&) { raw.assign(self->net.state().begin(), self->net.state().end()); };
  o.on_epoch = [&](epoch_report const& e) {
    reports.push_back(e);
    CHECK(std::equal(raw.begin(), raw.end(), self->net.state().begin()));  // validation put the weights back
  };
  small_run<> run{mapped(), o, run_folder{folder.path(), 9}};
  self = &run;
  CHECK(run.driver.run());
  int best = 0;
  REQUIRE(reports.size() == 6);
  for (int e = 0; e < 6; ++e) {
    evaluation const& found = reports[std::size_t(e)].validation;
    bool const better = e == 0 || found.top1 > reports[std::size_t(best)].validation.top1;
    if (better) best = e;
    CHECK(reports[std::size_t(e)].best == better);
    small_run<>::network averaged{4, small_run<>::context{1}};
    load(averaged, folder / ("epoch-000" + std::to_string(e + 1) + ".safetensors"), weights::ema);
    evaluation const again = evaluate(averaged, run.validation);
    CHECK(again.samples == 24);
    CHECK((again.top1 == found.top1 && again.top5 == found.top5 && again.loss_sum == found.loss_sum));
  }
  CHECK(run.driver.best_epoch() == best);
  CHECK(read_raw(folder / "best.safetensors") ==
        read_raw(folder / ("epoch-000" + std::to_string(best + 1) + ".safetensors")));
}

TEST_CASE("trainer: a checkpoint of another batch, accumulation, seed or number of samples is refused") {
  scratch_folder const folder;
  trainer_options o = small_options();
  o.stop_after = 1;
  CHECK(small_run<>{mapped(), o, run_folder{folder.path()}}.driver.run());
  auto const refusal = [&](dataset const& set, trainer_options const& changed) -> std::string {
    small_run<> run{set, changed};
    try {
      run.driver.resume(folder / "last.safetensors");
    } catch (file_error const& e) {
      return e.what();
    }
    return {};
  };
  CHECK(refusal(mapped(), o).empty());
  trainer_options batch = o, accumulate = o, seed = o;
  batch.batch = 3;
  accumulate.accumulate = 1;
  seed.seed = 9;
  CHECK(refusal(mapped(), batch).find("was written with batch 4, not 3") != std::string::npos);
  CHECK(refusal(mapped(), accumulate).find("was written with accumulate 2, not 1") != std::string::npos);
  CHECK(refusal(mapped(), seed).find("was written with seed 7, not 9") != std::string::npos);
  picture_set const more{28};
  CHECK(refusal(more.with_maps(), o).find("was written with batches 6, not 7") != std::string::npos);
}

TEST_CASE("trainer: a checkpoint whose progress is out of range is refused, and nothing is changed") {
  scratch_folder const folder;
  trainer_options o = small_options();
  o.stop_after = 1;
  CHECK(small_run<>{mapped(), o, run_folder{folder.path()}}.driver.run());
  auto const path = folder / "last.safetensors";
  std::string const whole = read_raw(path);
  for (auto const& [from, to] :
       {std::pair{"best_epoch\\\":0", "best_epoch\\\":9"}, std::pair{"next_batch\\\":0", "next_batch\\\":7"},
        std::pair{"ema_steps\\\":3", "ema_steps\\\":x"}, std::pair{"earlier_steps\\\":0", "earlier_steps\\\":\\"}}) {
    std::string const changed = to;  // clang 14 lets no lambda name a structured binding, and CAPTURE is one
    CAPTURE(changed);
    std::string bytes = whole;
    std::size_t const at = bytes.find(from);
    REQUIRE(at != std::string::npos);
    bytes.replace(at, std::string{from}.size(), to);
    write_raw(path, bytes);
    small_run<> run{mapped(), o};
    std::vector<double> const before(run.net.state().begin(), run.net.state().end());
    CHECK_THROWS_AS(run.driver.resume(path), file_error);
    CHECK(std::equal(before.begin(), before.end(), run.net.state().begin()));
    CHECK(run.driver.epoch() == 0);
  }
}

TEST_CASE("trainer: each checkpoint is reported once it is on the disk") {
  scratch_folder const folder;
  trainer_options o = small_options();
  std::vector<std::string> names;
  o.on_checkpoint = [&](std::filesystem::path const& path) {
    CHECK(read_checkpoint_head(path).epoch == (names.size() < 3 ? 1 : 2));
    names.push_back(path.filename().string());
  };
  CHECK(small_run<>{mapped(), o, run_folder{folder.path(), 3}}.driver.run());
  REQUIRE(names.size() >= 5);
  CHECK(names[0] == "best.safetensors");
  CHECK(names[1] == "epoch-0001.safetensors");
  CHECK(names[2] == "last.safetensors");
  CHECK(names.back() == "last.safetensors");
}

TEST_CASE("trainer: the best epoch counts only against the same measure on the same pictures") {
  scratch_folder const folder;
  trainer_options o = small_options();
  o.stop_after = 1;
  small_run<> first{mapped(), o, run_folder{folder.path()}};
  CHECK(first.driver.run());
  auto const path = folder / "last.safetensors";
  small_run<> same{mapped(), o};
  resume_report const kept = same.driver.resume(path);
  CHECK(kept.best_left_out.empty());
  CHECK_FALSE(kept.other_pictures);
  CHECK(same.driver.best_epoch() == 0);
  CHECK(same.driver.best() == first.driver.best());

  small_run<> unvalidated{mapped(), o};
  trainer<small_config, small_run<>::context> alone{unvalidated.net, o, unvalidated.training, nullptr, run_folder{}};
  CHECK(alone.resume(path).best_left_out.find("no validation set") != std::string::npos);
  CHECK(alone.best_epoch() == -1);
  CHECK(alone.steps() == 3);

  picture_set const more{28};
  dataset const others = more.plain();
  loader held_out{others,
                  {.mode = loading::evaluation, .image = {16, 16}, .batch = 5, .threads = 1, .label_maps = false},
                  evaluation_sample_transform({16, 16}, {18, 18})};
  trainer<small_config, small_run<>::context> elsewhere{unvalidated.net, o, unvalidated.training, &held_out,
                                                        run_folder{}};
  CHECK(elsewhere.resume(path).best_left_out == "the validation pictures were others");
}
