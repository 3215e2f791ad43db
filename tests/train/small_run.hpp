/// @file
/// A whole training run of the small configuration on generated pictures.
#pragma once

#include <dm2/comm/communicator.hpp>
#include <dm2/cpu/context.hpp>
#include <dm2/data/dataset.hpp>
#include <dm2/data/loader.hpp>
#include <dm2/data/sample_transform.hpp>
#include <dm2/data/training_transform.hpp>
#include <dm2/train/initialise.hpp>
#include <dm2/train/run_folder.hpp>
#include <dm2/train/trainer.hpp>

#include "data/picture_set.hpp"
#include "io/scratch.hpp"
#include "support/configurations.hpp"

#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace dm2::test {

/// 24 pictures in three classes, with label maps and without.
inline picture_set const& small_pictures() {
  static picture_set const set{24};
  return set;
}
inline dataset const& mapped() {
  static dataset const set = small_pictures().with_maps();
  return set;
}
inline dataset const& plain() {
  static dataset const set = small_pictures().plain();
  return set;
}

/// Every file of a folder, by name.
inline std::map<std::string, std::string> contents(std::filesystem::path const& folder) {
  std::map<std::string, std::string> out;
  for (auto const& e : std::filesystem::directory_iterator{folder})
    out[e.path().filename().string()] = read_raw(e.path());
  return out;
}

/// 24 pictures in batches of 4, two of which make a step: 3 steps an epoch, 2 epochs.
inline trainer_options small_options() {
  trainer_options o;
  o.batch = 4;
  o.accumulate = 2;
  o.rates = {.base = 1e-2, .start = 1e-3, .floor = 1e-4, .warmup = 1, .epochs = 2};
  o.ema_decay = 0.5;
  o.seed = 7;
  return o;
}

/// The recipe's transform on pictures of 16 x 16.
inline sample_transform small_transform() {
  return [](picture p, label_map_data* map, random_stream& stream, std::span<float> out) {
    return training_transform(std::move(p), map, augmentation{}, 16, 16, stream, out);
  };
}

/// Of one thread, where it computes on the host.
template <class Context>
Context small_context() {
  if constexpr (requires { Context{1}; })
    return Context{1};
  else
    return Context{};
}

/// Model, loaders and trainer over a set of pictures; the set outlives it.
template <class T = double, class Context = cpu::context<T>>
struct small_run {
  using context = Context;
  using network = model<small_config, context>;

  small_run(dataset const& set, trainer_options o, run_folder folder = {}, int loader_threads = 1,
            sample_transform transform = small_transform(), communicator& processes = one_process())
      : net{4, small_context<context>()},
        training{set,
                 {.image = {16, 16},
                  .batch = o.batch,
                  .threads = loader_threads,
                  .prefetch = 2,
                  .seed = o.seed,
                  .rank = processes.rank(),
                  .world = processes.size(),
                  .group = o.accumulate},
                 std::move(transform)},
        validation{set,
                   {.mode = loading::evaluation,
                    .image = {16, 16},
                    .batch = 5,
                    .threads = 1,
                    .rank = processes.rank(),
                    .world = processes.size(),
                    .label_maps = false},
                   evaluation_sample_transform({16, 16}, {18, 18})},
        driver{(initialise(net, o.seed), net), o, training, &validation, std::move(folder), processes} {}

  network net;
  loader training, validation;
  trainer<small_config, context> driver;
};

/// Where an entry of the small configuration's state begins.
inline std::size_t offset_of(std::string_view name) {
  for (parameter_entry const& e : parameter_table<small_config>)
    if (e.name == name) return e.offset;
  throw std::logic_error{"no such entry"};
}

}  // namespace dm2::test
