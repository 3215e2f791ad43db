/// @file
/// The data of a run: the sets, whether they fit the model, the transforms.
#pragma once

#include <dm2/data/augment/rand_augment_text.hpp>
#include <dm2/data/check_dataset.hpp>
#include <dm2/data/dataset.hpp>
#include <dm2/data/loader.hpp>
#include <dm2/data/sample_transform.hpp>

#include "open_dataset.hpp"
#include "progress.hpp"
#include "stop_signal.hpp"
#include "text.hpp"
#include "training_flags.hpp"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <optional>
#include <set>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <utility>
#include <vector>

namespace dm2::example {

/// "a, b, c and 4 more"
[[nodiscard]] inline std::string some_names(std::vector<std::string> names) {
  constexpr std::size_t most = 10;
  std::size_t const all = names.size();
  if (all > most) names.resize(most);
  return joined(names) + (all > most ? " and " + grouped(all - most) + " more" : "");
}

/// Those of the names that `others` lacks.
[[nodiscard]] inline std::vector<std::string> names_without(std::span<std::string const> names,
                                                            std::span<std::string const> others) {
  std::set<std::string_view> const known{others.begin(), others.end()};
  std::vector<std::string> out;
  std::copy_if(names.begin(), names.end(), std::back_inserter(out), [&](auto const& n) { return !known.contains(n); });
  return out;
}

/// Which classes may be the ones too many or too few: those without a picture, and those in which the set differs from
/// `others`, which `where` names.
[[nodiscard]] inline std::string odd_classes(dataset const& set, std::span<std::string const> others,
                                             std::string const& where) {
  std::string text;
  auto const add = [&](std::string const& what, std::vector<std::string> const& names) {
    if (!names.empty()) text += "; " + what + ": " + some_names(names);
  };
  add("without a picture", set.empty_classes());
  if (others.empty()) return text;
  add("not in " + where, names_without(set.class_names(), others));
  add("only in " + where, names_without(others, set.class_names()));
  return text;
}

/// Throws file_error where a class folder's name is not UTF-8, since checkpoints hold the names as JSON.
inline void require_text_names(dataset const& set) {
  for (std::string const& name : set.class_names())
    if (!dm2::detail::is_utf8(name))
      throw file_error{set.root() / name, "the folder's name is not UTF-8 text, which a class name has to be"};
}

/// The folder that a flag names. Throws file_error where there is none.
inline std::filesystem::path const& existing_folder(std::filesystem::path const& path) {
  std::error_code problem;
  auto const status = std::filesystem::status(path, problem);
  if (!std::filesystem::exists(status)) throw file_error{path, "does not exist"};
  if (!std::filesystem::is_directory(status)) throw file_error{path, "is not a folder"};
  return path;
}

/// Reads some of the set's samples. Throws file_error where none of the pictures can be read, or none of the label
/// maps: the folder is then not what it was taken for.
inline void require_readable_samples(dataset const& set, decode_options const& decoding) {
  std::size_t const looked_at = std::min<std::size_t>(set.size(), 16);
  auto const read_some = [&](auto const& read) -> std::optional<file_error> {
    std::optional<file_error> first;
    for (std::size_t k = 0; k < looked_at; ++k) try {
        read(k * set.size() / looked_at);
        return std::nullopt;
      } catch (file_error const& problem) {
        if (!first) first.emplace(problem);
      }
    return first;
  };
  if (auto const problem = read_some([&](std::size_t i) { (void)set.load_image(i, decoding); }))
    throw file_error{set.root(), "no picture can be read; " + std::string{problem->what()}};
  if (!set.has_label_maps()) return;
  if (auto const problem = read_some([&](std::size_t i) { (void)set.load_label_map(i, set.classes()); }))
    throw file_error{problem->path(), "no label map fits a picture of " + set.root().string() + "; " + problem->what()};
}

/// The sets that the flags name.
struct training_data {
  dataset training;
  std::optional<dataset> validation;  ///< with the training set's class numbers

  /// Throws usage_error where the flags name no training set; file_error as dataset does, and where a folder is missing
  /// or is none.
  explicit training_data(training_flags const& f)
      : training{existing_folder(folder(f.train, f.data, "train")), {.label_maps = f.labels, .order = f.order}},
        validation{} {
    require_text_names(training);
    if (!f.labels.empty()) existing_folder(f.labels);
    held_out_ = validation_folder(f);
    order_ = f.order;
  }

  /// Opens the validation set. `known` are the class names of the checkpoint that the run goes on with, or none. Throws
  /// usage_error where the data have another number of classes than the model, or the validation set has a class that
  /// the training set does not have.
  void fit(int classes, std::vector<std::string> const& known) {
    if (training.classes() != classes) {
      auto const others = !known.empty() || held_out_.empty() ? known : class_folders(held_out_, order_);
      std::string const odd = odd_classes(training, others, known.empty() ? held_out_.string() : "the checkpoint");
      throw usage_error{training.root().string() + " has " + std::to_string(training.classes()) +
                        (training.classes() == 1 ? " class" : " classes") + ", the model " + std::to_string(classes) +
                        odd};
    }
    auto const names = training.class_names();
    if (!held_out_.empty()) validation = open_dataset(held_out_, {.classes = {names.begin(), names.end()}});
  }

 private:
  static std::filesystem::path folder(std::filesystem::path const& given, std::filesystem::path const& root,
                                      char const* part) {
    if (given.empty() && root.empty()) throw usage_error{"no pictures: give DIR, or --train-dir"};
    return given.empty() ? root / part : given;
  }
  /// The validation set's folder; an empty path where none is given and DIR has no `val`, which else has to be one.
  static std::filesystem::path validation_folder(training_flags const& f) {
    std::filesystem::path const path =
        f.validation.empty() && f.data.empty() ? f.data : folder(f.validation, f.data, "val");
    std::error_code ignored;
    auto const type = std::filesystem::symlink_status(path, ignored).type();
    if (path.empty() || (f.validation.empty() && type == std::filesystem::file_type::not_found)) return {};
    return existing_folder(path);
  }

  std::filesystem::path held_out_;
  class_order order_ = class_order::natural;
};

/// Looks at every sample of a set, unless a signal ends it, and prints what is wrong, on stderr; returns whether
/// nothing is.
[[nodiscard]] inline bool print_check(char const* name, dataset const& set, int threads,
                                      decode_options const& decoding) {
  progress_bar bar{set.size()};
  check_options options;
  options.threads = threads;
  options.decoding = decoding;
  options.progress = [&](std::size_t done) {
    bar.show(done);
    return !stop_requested;
  };
  check_report const report = check(set, options);
  bar.clear();
  for (file_error const& problem : report.listed) std::cerr << printable(problem.what()) << '\n';
  std::cerr << name << ": " << counted(report.samples, "sample") << ", " << counted(report.problems, "problem") << '\n';
  return report.problems == 0;
}

/// Throws usage_error unless the flag's first number is at most its second.
inline void require_order(char const* flag, std::pair<double, double> range) {
  if (!(range.first <= range.second)) throw usage_error{std::string{flag} + ": the first number is above the second"};
}

/// The augmentation that the flags describe. Throws usage_error where they make no sense.
[[nodiscard]] inline augmentation flagged_augmentation(training_flags const& f) {
  require_order("--scale", f.area);
  require_order("--ratio", f.ratio);
  require_order("--re-area", f.erase_area);
  require_order("--re-ratio", f.erase_ratio);
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
  return training_sample_transform(image, flagged_augmentation(f));
}

}  // namespace dm2::example
