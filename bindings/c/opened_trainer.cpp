// Trains a model for C: see opened_trainer.hpp.
#include "opened_trainer.hpp"

#include <dm2/core/random.hpp>
#include <dm2/data/transform.hpp>
#include <dm2/io/class_names.hpp>
#include <dm2/io/config_json.hpp>
#include <dm2/run/config_of_file.hpp>
#include <dm2/run/network_file.hpp>
#include <dm2/run/presets.hpp>
#include <dm2/train/fine_tune.hpp>
#include <dm2/train/initialise.hpp>
#include <dm2/train/mix_box.hpp>
#include <dm2/train/steps.hpp>
#include <dm2/train/trainer_options.hpp>
#include <dm2/train/training_file.hpp>

#include <nlohmann/json.hpp>

#include "guard.hpp"
#include "handles.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace {

using namespace dm2::c;

dm2::training_numbers<float> numbers_of(dm2::training_state& state) {
  return std::get<dm2::training_numbers<float>>(state.numbers());
}

}  // namespace

void dm2_trainer::require_batch(dm2_batch const& b) const {
  if ((b.pixels == nullptr) == (b.pictures == nullptr))
    throw failure{DM2_ARGUMENT, "dm2_batch: one of pixels and pictures is to be NULL, the other not"};
  require_pointer(b.labels, "dm2_batch.labels");
  std::size_t const each = std::size_t(micro_batch);
  if (b.count == 0 || b.count % each != 0 || b.count / each > std::size_t(accumulate))
    throw failure{DM2_SIZE, "dm2_batch.count: got " + std::to_string(b.count) + " pictures, expected 1 to " +
                                std::to_string(accumulate) + " micro-batches of " + std::to_string(each)};
  for (std::size_t i = 0; i < b.count; ++i)
    require_range<std::int32_t>("dm2_batch.labels", b.labels[i], 0, configuration.classes - 1);
}

void dm2_trainer::fill(dm2_batch const& b, std::size_t first) {
  next.number = batches;
  next.height = configuration.image.height;
  next.width = configuration.image.width;
  next.resize(micro_batch, false);
  std::size_t const each = next.picture_size(), count = std::size_t(micro_batch);
  std::copy_n(b.labels + first, count, next.labels.begin());
  if (b.pictures != nullptr) std::copy_n(b.pictures + first * each, count * each, next.pictures.begin());
  if (b.pixels == nullptr) return;
  for (std::size_t i = 0; i < count; ++i)
    dm2::normalise(std::span{b.pixels + (first + i) * each, each}, next.picture_at(int(i)));
}

void dm2_trainer::compute(dm2_batch const& b, double rate) {
  dm2::config const& c = configuration;
  std::int64_t const before = state->steps().optimizer;
  for (std::size_t first = 0; first < b.count; first += std::size_t(micro_batch)) {
    fill(b, first);
    // as training_loop draws them in its first epoch
    dm2::random_stream random{seed, 0, (std::uint64_t{1} << 32) + batches};
    auto const box =
        mix_token ? dm2::draw_mix_box(c.image.height / c.patch, c.image.width / c.patch, random) : dm2::mix_box{};
    state->micro_batch(next, box, 1.0 / accumulate);
    state->finish_round(1, {0, before, batches}, false);
    ++batches;
  }
  state->finish_step(rate);
}

dm2_step dm2_trainer::step(dm2_batch const& b, double rate) {
  if (diverged) throw failure{DM2_NUMBERS, "an earlier step diverged, or failed half way"};
  diverged = true;  // until the step is whole: what it leaves half done cannot be taken back
  std::optional<dm2::step_result> result;
  try {
    compute(b, rate);
    result = state->next_result(true);
  } catch (dm2::non_finite const& n) {
    throw failure{DM2_NUMBERS,
                  "step " + std::to_string(state->steps().optimizer + 1) + ": the " + n.what + " is not finite"};
  }
  diverged = false;
  std::vector<double> const& losses = result->losses;
  return {sizeof(dm2_step), std::accumulate(losses.begin(), losses.end(), 0.0) / double(losses.size()),
          result->gradient_norm, state->steps().optimizer};
}

void dm2_trainer::save(std::filesystem::path const& path, bool averages) {
  state->pull();
  auto const n = numbers_of(*state);
  dm2::detail::save_entries<float>(configuration, n.table, averages ? n.average : n.state, n.counters, path, metadata);
}

void dm2_trainer::save_checkpoint(std::filesystem::path const& path) {
  state->pull();
  nlohmann::json const progress{{"epoch", 0},   {"next_batch", batches},    {"batch", micro_batch},
                                {"seed", seed}, {"accumulate", accumulate}, {"loss_sum", 0.0},
                                {"best", 0.0},  {"best_epoch", -1},         {"measure", "loss"}};
  dm2::save_training(path, numbers_of(*state), {configuration, state->rule().kind, state->steps(), progress, metadata});
}

void dm2_trainer::resume(std::filesystem::path const& path) {
  dm2::checkpoint_head const head = dm2::read_checkpoint_head(path);
  nlohmann::json const own{{"batch", micro_batch}, {"accumulate", accumulate}, {"seed", seed}};
  for (auto const& [key, value] : own.items())
    if (auto const found = head.progress.find(key); found == head.progress.end() || *found != value)
      throw dm2::file_error{path, "was written with " + key + " " +
                                      (found == head.progress.end() ? "unknown" : found->dump().substr(0, 40)) +
                                      ", not " + value.dump()};
  auto const found = dm2::resume_training(path, configuration, state->rule().kind, numbers_of(*state));
  state->set_steps(found.steps);
  state->push();
  batches = head.next_batch;
}

namespace dm2::c {
namespace {

/// What `start` holds, or nothing.
std::optional<tensor_file> start_of(dm2_trainer_options const& o) {
  if (o.start == nullptr) return std::nullopt;
  return tensor_file{o.start};
}

/// The fields that were asked for over those of the file, else of "base", else of tiny.
config configuration_of(dm2_trainer_options const& o, std::optional<tensor_file> const& start) {
  if (o.configuration == nullptr && !start)
    throw failure{DM2_ARGUMENT, "dm2_trainer_options: configuration and start are both NULL"};
  nlohmann::json fields = to_json(start ? config_of(*start).configuration : tiny);
  fields.update(said_fields(o.configuration, "configuration"));
  config const c = usable_config(fields, "configuration");
  if (c.channels != 3) throw failure{DM2_ARGUMENT, "configuration: channels must be 3, pictures are RGB"};
  return c;
}

model_training_options recipe_of(dm2_trainer_options const& o, config const& c) {
  constexpr int most = std::numeric_limits<std::int32_t>::max();
  constexpr double huge = std::numeric_limits<double>::max();
  require_range<std::int32_t>("batch", o.batch, 1, most);
  require_range<std::int32_t>("accumulate", o.accumulate, 1, most);
  require_range<std::int32_t>("optimizer", o.optimizer, DM2_OPTIMIZER_LION, DM2_OPTIMIZER_ADAMW);
  require_range<std::int32_t>("frozen", o.frozen, 0, c.depth + 1);
  require_range("smoothing", o.smoothing, 0.0, 1.0);
  require_range("ema_decay", o.ema_decay, 0.0, 1.0);
  require_range("clip_norm", o.clip_norm, 0.0, huge);
  model_training_options out;
  out.steps.batch = o.batch;
  out.steps.accumulate = o.accumulate;
  out.steps.smoothing = o.smoothing;
  out.optimizer.kind = o.optimizer == DM2_OPTIMIZER_LION ? optimizer_kind::lion : optimizer_kind::adamw;
  out.optimizer.weight_decay = o.weight_decay;
  out.optimizer.beta1 = o.beta1;
  out.optimizer.beta2 = o.beta2;
  out.optimizer.eps = o.eps;
  out.optimizer.clip_norm = o.clip_norm;
  out.optimizer.tuning.frozen = o.frozen;
  out.optimizer.tuning.layer_decay = o.layer_decay;
  out.optimizer.tuning.head_scale = o.head_scale;
  out.ema_decay = o.ema_decay;
  out.ema_warm_up = o.ema_warm_up != 0;
  return out;
}

/// The caller's class names as metadata.
std::map<std::string, std::string> metadata_of(dm2_trainer_options const& o, config const& c) {
  if (o.class_names == nullptr) return {};
  return {{class_names_key, class_names_text(given_class_names(o.class_names, c.classes))}};
}

}  // namespace

dm2_trainer_options published_recipe() {
  trainer_options const recipe;
  dm2_trainer_options o{};
  o.size = sizeof o;
  o.batch = recipe.batch;
  o.accumulate = recipe.accumulate;
  o.optimizer = recipe.optimizer.kind == optimizer_kind::lion ? DM2_OPTIMIZER_LION : DM2_OPTIMIZER_ADAMW;
  o.mix_token = recipe.mix_token ? 1 : 0;
  o.weight_decay = recipe.optimizer.weight_decay;
  o.beta1 = recipe.optimizer.beta1;
  o.beta2 = recipe.optimizer.beta2;
  o.eps = recipe.optimizer.eps;
  o.clip_norm = recipe.optimizer.clip_norm;
  o.ema_decay = recipe.ema_decay;
  o.smoothing = recipe.smoothing;
  o.layer_decay = recipe.optimizer.tuning.layer_decay;
  o.head_scale = recipe.optimizer.tuning.head_scale;
  o.seed = recipe.seed;
  return o;
}

std::shared_ptr<dm2_trainer> open_trainer(dm2_trainer_options const& o) {
  auto out = std::make_shared<dm2_trainer>();
  out->where = find_place(o.device, o.precision);
  if (!run::trains(out->where.backend)) throw failure{DM2_DEVICE, "precision: training is in fp32 or bf16"};
  require_range<std::int32_t>("threads", o.threads, 0, 1024);
  std::optional<tensor_file> const start = start_of(o);
  out->configuration = configuration_of(o, start);
  model_training_options const recipe = recipe_of(o, out->configuration);
  out->metadata = metadata_of(o, out->configuration);
  out->micro_batch = o.batch;
  out->accumulate = o.accumulate;
  out->mix_token = o.mix_token != 0;
  out->seed = o.seed;
  run::model_code const& code =
      find_code(out->configuration, out->where.backend, {o.compile != 0, o.cache_folder, o.say, o.say_context});
  on_device(out->where.gpu(), [&] {
    out->state = code.make_training({1, o.threads, recipe, nullptr});
    auto const n = numbers_of(*out->state);
    initialise(out->configuration, n.table, n.state, n.counters, o.seed);
    if (start) (void)load_pretrained(out->configuration, n.table, n.state, n.counters, *start);
    out->state->restart_average();
    out->state->push();
  });
  return out;
}

}  // namespace dm2::c
