/// @file
/// The command line of train: every number of the recipe as a flag, under the names that users of timm know.
#pragma once

#include <dm2/data/augment/augmentation.hpp>
#include <dm2/data/dataset.hpp>
#include <dm2/data/decode/options.hpp>
#include <dm2/train/optimizer.hpp>
#include <dm2/train/schedule.hpp>
#include <dm2/train/token_label_target.hpp>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "command_line.hpp"
#include "devices.hpp"
#include "model_flags.hpp"
#include "text.hpp"
#include "tuning_flags.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <istream>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace dm2::example {

/// What a person asks of train. The defaults are the published recipe's.
struct training_flags {
  model_flags model;
  std::optional<int> label_size;  ///< patches a side that the model is expected to have
  std::filesystem::path data, train, validation, labels;
  std::filesystem::path output = "runs", resume, initial;
  std::string experiment;
  std::string device = "auto", precision;
  augment_place augment_on = augment_place::any;  ///< what finishes the pictures
  augment_place decode_on = augment_place::any;   ///< what decodes them
  class_order order = class_order::natural;
  bool overwrite = false, check = false, token_labels = false, fresh_optimizer = false, amp = false;

  int batch = 256, accumulate = 4, validation_batch = 0;
  dm2::schedule rates{};
  optimizer_options optimizer{};
  tuning_flags tuning{};
  std::optional<double> ema_decay;  ///< what is not given follows the number of steps
  bool ema = true, ema_warm_up = false;

  std::string operations = "rand-m9-mstd0.5-inc1";
  bool no_augmentation = false;
  augmentation augment{};
  std::pair<double, double> area{0.08, 1}, ratio{3.0 / 4, 4.0 / 3}, erase_area{0.02, 1.0 / 3}, erase_ratio{0.3, 3.3};
  std::pair<double, double> betas{0.9, 0.99};
  double smoothing = 0.1;
  bool mix_token = true;
  crop_convention crops = crop_convention::published;

  std::uint64_t seed = 0;
  std::optional<int> workers;  ///< what is not given is chosen with the device
  int threads = 0, max_bad = 100;
  std::uint64_t max_pixels = max_sample_pixels;
  int max_scans = max_sample_scans;
  int history = 2, checkpoint_steps = 0, stop_after = 0;
  int log_interval = 50, image_interval = 5, images = 8;
  bool profile = false, profile_data = false;

  int processes = 0, restarts = 0;
  std::string gpus;
  double deadline = 30;
};

namespace detail {

/// Accepts numbers of a range; the message of a refusal says which.
inline CLI::Validator between(double least, double most, char const* range) {
  return {[=](std::string const& word) {
            double value = 0;
            bool const good = CLI::detail::lexical_cast(word, value) && value >= least && value <= most;
            return good ? std::string{} : word + " is not a number " + range;
          },
          ""};
}
/// Accepts what a std::uint64_t holds: CLI11 would take -1 for the largest of them.
inline CLI::Validator whole_number() {
  return {[](std::string const& word) {
            std::uint64_t value = 0;
            auto const [end, problem] = std::from_chars(word.data(), word.data() + word.size(), value);
            bool const good = problem == std::errc{} && end == word.data() + word.size();
            return good ? std::string{} : word + " is not a whole number from 0 to 18446744073709551615";
          },
          ""};
}
inline CLI::Validator at_least_zero() { return between(0, std::numeric_limits<double>::max(), "of at least 0"); }
inline CLI::Validator above_zero() {
  return between(std::numeric_limits<double>::min(), std::numeric_limits<double>::max(), "above 0");
}
inline CLI::Validator fraction() { return between(0, 1, "from 0 to 1"); }
inline CLI::Validator below_one() { return between(0, std::nextafter(1.0, 0.0), "of at least 0 and below 1"); }
inline CLI::Validator part() { return between(std::numeric_limits<double>::min(), 1, "above 0 and not above 1"); }
inline CLI::Validator aspect() { return between(1e-6, 1e6, "from 1e-6 to 1e6"); }

/// A flag that takes one of the names, which is what a checkpoint stores.
template <class T>
CLI::Option* add_choice(CLI::App& app, char const* name, T& value, std::map<std::string, T> const& choices,
                        char const* text) {
  std::string chosen, usage;
  std::vector<std::string> names;
  for (auto const& [key, one] : choices) {
    names.push_back(key);
    usage += (usage.empty() ? "" : "|") + key;
    if (one == value) chosen = key;
  }
  auto const set = [&value, choices](std::string const& word) { value = choices.at(word); };
  return app.add_option_function<std::string>(name, set, text)
      ->type_name(usage)
      ->default_str(chosen)
      ->check(CLI::IsMember(names).description(""));
}

/// A flag that takes two numbers. The default is shown, and stored, in full precision.
inline CLI::Option* add_pair(CLI::App& app, char const* name, std::pair<double, double>& value, char const* text) {
  return app.add_option(name, value, text)
      ->type_name("A B")
      ->default_str(nlohmann::json{value.first, value.second}.dump());
}

inline void add_data(CLI::App& app, training_flags& f) {
  std::string const group = "Data";
  app.add_option("DIR,--data-dir,--data-path", f.data, "Folder with train/CLASS/... and val/CLASS/..., or packed sets")
      ->group(group);
  app.add_option("--train-dir", f.train, "Training pictures, where they are not in DIR/train")->group(group);
  app.add_option("--val-dir", f.validation, "Validation pictures, where they are not in DIR/val")->group(group);
  app.add_option("--token-label-data", f.labels,
                 "Label maps, FOLDER/CLASS/NAME.pt, or the packed set; without them, hard labels")
      ->group(group);
  app.add_flag("--token-label", f.token_labels, "Insist on label maps")->group(group);
  add_choice<crop_convention>(app, "--token-label-crop", f.crops,
                              {{"published", crop_convention::published}, {"aligned", crop_convention::aligned}},
                              "How a crop finds its part of the label map; published is transposed")
      ->group(group);
  add_choice<class_order>(app, "--class-order", f.order,
                          {{"natural", class_order::natural}, {"plain", class_order::plain}},
                          "How class folders are numbered: class2 before class10, or as torchvision does")
      ->group(group);
  app.add_flag("--check", f.check, "Look at every picture and label map first; list what is wrong with them")
      ->group(group);
  app.add_option("--max-bad", f.max_bad, "Bad pictures that are skipped before training gives up")
      ->check(number_from(0, 1'000'000'000))
      ->group(group);
  app.add_option("--max-pixels", f.max_pixels, "Pixels of a picture above which it is bad")
      ->check(number_from(1, 1'000'000'000))
      ->group(group);
  app.add_option("--max-scans", f.max_scans, "Scans of a JPEG above which it is bad")
      ->check(number_from(1, 1'000'000))
      ->group(group);
}

inline void add_model(CLI::App& app, training_flags& f) {
  std::string const group = "Model";
  add_model_flags(app, f.model);
  app.add_option("--initial-checkpoint,--pretrained", f.initial,
                 "Weights to start from; heads and picture size may differ. Nothing is downloaded")
      ->type_name("FILE")
      ->default_str("")
      ->expected(0, 1)  // timm's --pretrained has no argument: train says what it wants instead
      ->group(group);
  app.add_option("--resume", f.resume,
                 "Go on with this checkpoint, or with the run's newest one where there is a run. Flags that are not\n"
                 "given are the checkpoint's")
      ->type_name("FILE|auto")
      ->group(group);
  app.add_flag("--no-resume-opt", f.fresh_optimizer,
               "Resume weights, averages and place in the schedule, with an optimizer that begins anew")
      ->group(group);
  app.add_option("--token-label-size", f.label_size, "Check that the model has so many patches a side")->group(group);
}

inline void add_optimizer(CLI::App& app, training_flags& f) {
  std::string const group = "Optimizer";
  app.add_option("-b,--batch-size", f.batch, "Pictures of a micro-batch")->check(number_from(1, 1 << 20))->group(group);
  app.add_option("--grad-accum-steps", f.accumulate, "Micro-batches a step")
      ->check(number_from(1, 1 << 20))
      ->group(group);
  app.add_option("--validation-batch-size", f.validation_batch, "Pictures of a validation batch (0: a micro-batch's)")
      ->check(number_from(0, 1 << 20))
      ->group(group);
  app.add_option("--epochs", f.rates.epochs, "Epochs of the schedule")->check(number_from(1, 1'000'000))->group(group);
  add_choice<optimizer_kind>(app, "--opt", f.optimizer.kind,
                             {{"lion", optimizer_kind::lion}, {"adamw", optimizer_kind::adamw}}, "Optimizer")
      ->group(group);
  app.add_option("--lr", f.rates.base, "Learning rate after the warm-up")->check(at_least_zero())->group(group);
  app.add_option("--sched", "Schedule after the warm-up")
      ->type_name("cosine")
      ->default_str("cosine")
      ->check(CLI::IsMember({"cosine"}).description(""))
      ->group(group);
  app.add_option("--warmup-epochs,--lr-warmup-epochs", f.rates.warmup, "Epochs of the warm-up")
      ->check(number_from(0, 1'000'000))
      ->group(group);
  app.add_option("--warmup-lr", f.rates.start, "Learning rate of the first epoch")
      ->check(at_least_zero())
      ->group(group);
  app.add_option("--min-lr", f.rates.floor, "Learning rate at the end")->check(at_least_zero())->group(group);
  app.add_option("--weight-decay,--wd", f.optimizer.weight_decay, "Decay of every parameter (but --no-decay)")
      ->check(at_least_zero())
      ->group(group);
  add_pair(app, "--opt-betas", f.betas, "Betas of the optimizer")->check(below_one())->group(group);
  app.add_option("--opt-eps", f.optimizer.eps, "Epsilon of AdamW")->check(above_zero())->group(group);
  app.add_option("--clip-grad,--clip-grad-norm", f.optimizer.clip_norm, "Clip gradients to this norm (0: not)")
      ->check(at_least_zero())
      ->group(group);
  app.add_flag("--shared-pairs", f.optimizer.shared_pairs,
               "Step dt_bias with dt_bias_b, and A_log with A_log_b, as one memory: the published run's accident")
      ->group(group);
  app.add_option("--model-ema-decay", f.ema_decay,
                 "Decay of the averaged weights. Left out, it follows the run's steps: 1 - 37.5 / steps, and\n"
                 "the published 0.9999 from the published 375,000 steps on")
      ->type_name("NUMBER")
      ->default_str("")
      ->check(below_one())
      ->group(group);
  app.add_flag("--model-ema,!--no-model-ema", f.ema, "Average the weights; without, validation has the last ones")
      ->default_str("true")
      ->group(group);
  app.add_flag("--model-ema-warmup", f.ema_warm_up, "Average over less at the beginning")->group(group);
}

inline void add_augmentation(CLI::App& app, training_flags& f) {
  std::string const group = "Augmentation and targets";
  app.add_option("--aa,--auto-augment", f.operations, "RandAugment, or none")->type_name("rand-...|none")->group(group);
  app.add_option("--hflip", f.augment.flip, "Probability of mirroring")->check(fraction())->group(group);
  add_pair(app, "--scale", f.area, "Area of the crop, as parts of the picture")->check(part())->group(group);
  add_pair(app, "--ratio", f.ratio, "Width over height of the crop")->check(aspect())->group(group);
  app.add_option("--reprob", f.augment.erase, "Probability of erasing a rectangle")->check(fraction())->group(group);
  add_pair(app, "--re-area", f.erase_area, "Area of the rectangle, as parts of the crop")->check(part())->group(group);
  add_pair(app, "--re-ratio", f.erase_ratio, "Height over width of the rectangle")->check(aspect())->group(group);
  app.add_flag("--no-aug", f.no_augmentation, "The evaluation transform for training too")->group(group);
  app.add_option("--smoothing,--label-smoothing", f.smoothing, "Label smoothing")->check(fraction())->group(group);
  app.add_flag("--mix-token,!--no-mix-token", f.mix_token, "MixToken: boxes of patches from a partner picture")
      ->default_str("true")
      ->group(group);
}

inline void add_run(CLI::App& app, training_flags& f) {
  std::string const group = "Run";
  app.add_option("--output,--output-dir", f.output, "Folder of runs")->group(group);
  app.add_option("--experiment", f.experiment, "Folder of this run in it (the model's name)")->group(group);
  app.add_flag("--overwrite", f.overwrite,
               "Begin anew in a folder that holds a run. The old run is kept until the new one has a checkpoint")
      ->group(group);
  app.add_option("--seed", f.seed, "Of the first weights and of everything random")
      ->check(whole_number())
      ->group(group);
  app.add_option("-j,--workers", f.workers,
                 "Threads that read and transform pictures; 0: one a processor (2; 0 with a GPU)")
      ->type_name("N")
      ->check(number_from(0, 1024))
      ->group(group);
  app.add_flag("--amp", f.amp, "Accepted, and does nothing: the CPU computes in float, a GPU in what --precision says")
      ->group(group);
  app.add_option("--device", f.device, "cuda, cpu, or auto: a GPU where there is one that works (auto)")
      ->type_name("NAME")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}).description(""))
      ->group(group);
  app.add_option("--precision", f.precision,
                 "Numbers that a GPU computes in: bf16, with float weights and sums, or fp32 (bf16)")
      ->type_name("NAME")
      ->check(CLI::IsMember({"bf16", "fp32"}).description(""))
      ->group(group);
  add_choice<augment_place>(app, "--augment", f.augment_on, augment_places(),
                            "What finishes pictures once they are decoded: auto is a GPU that computes. The bytes are "
                            "the same")
      ->group(group);
  add_choice<augment_place>(
      app, "--decode", f.decode_on, augment_places(),
      "What decodes JPEGs: the device baseline files, those of packed sets fastest; auto is what is "
      "sooner. The bytes are the same")
      ->group(group);
  app.add_option("--threads", f.threads, "Threads that compute (0: one a processor)")
      ->check(number_from(0, 1024))
      ->group(group);
  app.add_option("--checkpoint-hist", f.history, "Epochs whose checkpoints are kept beside best and last")
      ->check(number_from(0, 1'000'000))
      ->group(group);
  app.add_option("--checkpoint-steps", f.checkpoint_steps, "Write the last checkpoint every so many steps too (0: not)")
      ->check(number_from(0, 1'000'000'000))
      ->group(group);
  app.add_option("--stop-after", f.stop_after, "End after this many epochs of the schedule (0: all)")
      ->check(number_from(0, 1'000'000))
      ->group(group);
  app.add_option("--log-interval", f.log_interval, "Steps between two rows of steps.csv")
      ->check(number_from(1, 1'000'000'000))
      ->group(group);
  app.add_flag("--profile", f.profile,
               "Tell where the time goes: data, computing, exchanges and their bytes, on the lines and in profile.csv")
      ->group(group);
  app.add_flag("--profile-data", f.profile_data,
               "Tell where the data path's time goes: a table after each epoch, and its timeline in data_profile.png")
      ->group(group);
  app.add_option("--image-interval", f.image_interval, "Epochs between two pictures with class maps (0: none)")
      ->check(number_from(0, 1'000'000))
      ->group(group);
  app.add_option("--images", f.images, "Validation pictures in them")->check(number_from(1, 1000))->group(group);
}

inline void add_processes(CLI::App& app, training_flags& f) {
  std::string const group = "Several processes";
  app.add_option("--processes", f.processes,
                 "Start so many of this program by mpirun; they share each step's micro-batches (1)")
      ->check(number_from(1, 1'000'000))
      ->group(group);
  app.add_option("--gpus", f.gpus, "Start one process for each of these GPUs of this machine, as 0-3 or 0,2")
      ->type_name("LIST")
      ->group(group);
  app.add_option("--restarts", f.restarts,
                 "With --processes or --gpus: starts anew after a process was lost, from the last checkpoint")
      ->check(number_from(0, 1'000'000))
      ->group(group);
  app.add_option("--deadline", f.deadline,
                 "Seconds after which a process that does not answer is taken for lost, beyond four times the longest "
                 "micro-batch")
      ->check(between(1, 1e6, "1 to 1000000"))
      ->group(group);
}

/// Whether a text ends inside a list, as a file does that was cut off: CLI11 would take what is there, less a byte.
[[nodiscard]] inline bool ends_inside_list(std::string_view text) {
  int lists = 0;
  for (std::size_t at = 0, end = 0; at < text.size(); at = end + 1) {
    end = std::min(text.find('\n', at), text.size());
    std::string_view const line = text.substr(at, end - at);
    if (line.find_first_not_of(" \t") == line.find(';')) continue;  // a comment, or nothing
    char quote = 0;
    for (char const c : line) {
      if (quote == 0 && c == '#') break;
      if (quote != 0)
        quote = c == quote ? char{0} : quote;
      else if (c == '"' || c == '\'')
        quote = c;
      else
        lists += c == '[' ? 1 : c == ']' ? -1 : 0;
    }
  }
  return lists > 0;
}

/// The file of --config, as CLI11 reads it. Its refusals name the file and the word, with the nearest flag.
class flags_file : public CLI::ConfigTOML {
 public:
  explicit flags_file(CLI::App const& app) : app_{app} {}
  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override {
    std::string const file = app_.get_config_ptr()->results().back();
    std::string const text{std::istreambuf_iterator<char>{input}, {}};
    if (ends_inside_list(text)) throw usage_error{file + ": ends inside a list"};
    std::istringstream again{text};
    std::vector<CLI::ConfigItem> found = CLI::ConfigTOML::from_config(again);
    for (CLI::ConfigItem const& item : found)
      if (item.name != "++" && item.name != "--" && (!item.parents.empty() || !is_flag(item.name)))  // a table's ends
        throw usage_error{file + ": '" + item.fullname() + "' is no flag; the nearest is " +
                          nearest_flag(app_, "--" + item.name).substr(2)};
    return found;
  }

 private:
  [[nodiscard]] bool is_flag(std::string const& name) const {
    auto const known = [&](std::string const& typed) { return app_.get_option_no_throw(typed) != nullptr; };
    return known("--" + name) || known(name) || (name.size() == 1 && known("-" + name));
  }

  CLI::App const& app_;
};

}  // namespace detail

inline void add_training_flags(CLI::App& app, training_flags& f) {
  app.option_defaults()->always_capture_default()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  detail::add_data(app, f);
  detail::add_model(app, f);
  detail::add_optimizer(app, f);
  add_tuning_flags(app, f.tuning);
  detail::add_augmentation(app, f);
  detail::add_run(app, f);
  detail::add_processes(app, f);
  app.set_config("-c,--config", "", "Flags from a TOML or INI file; those of the command line count more")
      ->type_name("FILE");
  app.allow_config_extras(CLI::config_extras_mode::error);
  app.config_formatter(std::make_shared<detail::flags_file>(app));
}

namespace detail {

/// A word of the command line as JSON: numbers, booleans and lists of them as what they are, other words as texts.
[[nodiscard]] inline nlohmann::ordered_json word_json(std::string const& word) {
  auto const parsed = nlohmann::ordered_json::parse(word, nullptr, /*allow_exceptions=*/false);
  if (parsed.is_number() || parsed.is_boolean() || parsed.is_array()) return parsed;
  return dm2::detail::is_utf8(word) ? word : printable(word);  // JSON holds no other text
}

/// What an option has, or its default.
[[nodiscard]] inline nlohmann::ordered_json value_json(CLI::Option const& option) {
  if (option.count() == 0) {
    bool const flag = option.get_items_expected_max() == 0;
    return flag && option.get_default_str().empty() ? nlohmann::ordered_json(false)
                                                    : word_json(option.get_default_str());
  }
  auto values = nlohmann::ordered_json::array();
  for (std::string const& word : option.reduced_results()) values.push_back(word_json(word));
  return values.size() == 1 ? values[0] : values;
}

}  // namespace detail

/// Whether a flag is of the recipe: not of those that say how to get to the result (where, on what, how much is written
/// and shown), nor of those that tell the model, whose configuration a checkpoint holds. A checkpoint does not store
/// the others, so its bytes do not depend on them, and a resumed run does not take them over.
[[nodiscard]] inline bool is_recipe(CLI::Option const& option) {
  static std::set<std::string> const machine{"help",         "version",         "config",
                                             "resume",       "no-resume-opt",   "overwrite",
                                             "check",        "output",          "experiment",
                                             "workers",      "stop-after",      "amp",
                                             "threads",      "processes",       "gpus",
                                             "restarts",     "deadline",        "device",
                                             "precision",    "max-pixels",      "max-scans",
                                             "log-interval", "profile",         "image-interval",
                                             "images",       "checkpoint-hist", "checkpoint-steps",
                                             "max-bad",      "token-label",     "token-label-size",
                                             "augment",      "profile-data",    "decode"};
  return !option.get_lnames().empty() && !machine.contains(option.get_lnames().front()) &&
         !is_model_flag(option.get_lnames().front());
}

/// The flags of the recipe, by their first names: what a checkpoint stores.
[[nodiscard]] inline nlohmann::ordered_json arguments_json(CLI::App const& app) {
  auto out = nlohmann::ordered_json::object();
  for (CLI::Option const* option : app.get_options())
    if (is_recipe(*option)) out[option->get_lnames().front()] = detail::value_json(*option);
  return out;
}

}  // namespace dm2::example
