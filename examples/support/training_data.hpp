/// @file
/// The data of a run: the sets, whether they fit the model, the transforms.
#pragma once

#include <dm2/data/augment/rand_augment_text.hpp>
#include <dm2/data/check_dataset.hpp>
#include <dm2/data/dataset.hpp>
#include <dm2/data/loader.hpp>
#include <dm2/data/sample_transform.hpp>
#include <dm2/data/training_transform.hpp>

#include "models.hpp"
#include "progress.hpp"
#include "stop_signal.hpp"
#include "training_flags.hpp"

#include <cstddef>
#include <filesystem>
#include <iostream>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <tuple>
#include <utility>

namespace dm2::example {

/// What is said where the data have another number of classes than the model, which is a constant of the program.
[[nodiscard]] inline std::string class_count_text(std::filesystem::path const& root, int data, int model) {
  std::string text = root.string() + " has " + std::to_string(data) + " classes, the model " + std::to_string(model) +
                     ".\nThe number of classes is a constant of a model. Compiled in are";
  for_each_model([&]<config C>(char const* name) { text += "\n  " + describe(name, C); });
  return text + "\nAnother one is a line of for_each_model in examples/support/models.hpp:\n" +
         "  f.template operator()<config{.classes = " + std::to_string(data) + "}>(\"mine\");";
}

/// The sets that the flags name.
struct training_data {
  dataset training;
  std::optional<dataset> validation;  ///< with the training set's class numbers

  /// Throws usage_error where the flags name no training set, or one of another number of classes than the model's;
  /// file_error as dataset does.
  training_data(training_flags const& f, int classes)
      : training{folder(f.train, f.data, "train"), {.label_maps = f.labels}}, validation{} {
    if (training.classes() != classes)
      throw usage_error{class_count_text(training.root(), training.classes(), classes)};
    auto const names = training.class_names();
    std::error_code ignored;
    if (!f.validation.empty() || std::filesystem::is_directory(f.data / "val", ignored))
      validation.emplace(folder(f.validation, f.data, "val"), dataset_options{.classes = {names.begin(), names.end()}});
  }

 private:
  static std::filesystem::path folder(std::filesystem::path const& given, std::filesystem::path const& root,
                                      char const* part) {
    if (given.empty() && root.empty()) throw usage_error{"no pictures: give DIR, or --train-dir"};
    return given.empty() ? root / part : given;
  }
};

/// Looks at every sample of a set, unless a signal ends it, and prints what is wrong, on stderr; returns whether
/// nothing is.
[[nodiscard]] inline bool print_check(char const* name, dataset const& set, int threads) {
  progress_bar bar{set.size()};
  check_options options;
  options.threads = threads;
  options.progress = [&](std::size_t done) {
    bar.show(done);
    return !stop_requested;
  };
  check_report const report = check(set, options);
  bar.clear();
  for (file_error const& problem : report.listed) std::cerr << printable(problem.what()) << '\n';
  std::cerr << name << ": " << grouped(report.samples) << " samples, " << grouped(report.problems)
            << (report.problems == 1 ? " problem\n" : " problems\n");
  return report.problems == 0;
}

/// The augmentation that the flags describe. Throws usage_error where they make no sense.
[[nodiscard]] inline augmentation flagged_augmentation(training_flags const& f) {
  augmentation a = f.augment;
  std::tie(a.area_min, a.area_max) = f.area;
  std::tie(a.ratio_min, a.ratio_max) = f.ratio;
  std::tie(a.erase_area_min, a.erase_area_max) = f.erase_area;
  std::tie(a.erase_ratio_min, a.erase_ratio_max) = f.erase_ratio;
  try {
    if (f.operations != "none") return parse_rand_augment(f.operations, a);
    a.operations = 0;
    require_augmentation(a);
    return a;
  } catch (std::invalid_argument const& problem) {
    throw usage_error{problem.what()};
  }
}

/// What the training loader does with each picture.
[[nodiscard]] inline sample_transform flagged_transform(training_flags const& f, image_extent image) {
  if (f.no_augmentation) {
    if (!f.labels.empty()) throw usage_error{"--no-aug crops the pictures, but not their label maps; leave one out"};
    return evaluation_sample_transform(image, evaluation_resize(image));
  }
  return [a = flagged_augmentation(f), image](picture p, label_map_data* map, random_stream& stream,
                                              std::span<float> out) {
    return training_transform(std::move(p), map, a, image.height, image.width, stream, out);
  };
}

}  // namespace dm2::example
