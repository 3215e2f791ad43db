/// @file
/// Finds faults in a set of pictures before training starts.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/dataset.hpp>
#include <dm2/data/decode.hpp>
#include <dm2/data/picture_bytes.hpp>
#include <dm2/data/worker_threads.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <functional>
#include <iterator>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace dm2 {

/// How check looks.
struct check_options {
  int threads = 0;           ///< 0 for one a processor
  std::size_t listed = 100;  ///< problems that are listed; all are counted
  bool decode = true;  ///< decode every picture, 5 ms of one processor for 500 x 375; else look at its first bytes
  /// The limits that training will read with; a picture beyond them is a fault.
  decode_options decoding{.max_pixels = max_sample_pixels, .max_scans = max_sample_scans};
  /// Called with the number of samples seen so far every 64 samples or fewer, by one thread at a time; false stops.
  std::function<bool(std::size_t)> progress{};
};

/// Faults that check found.
struct check_report {
  std::size_t samples = 0;         ///< that were looked at: all of them unless progress stopped it
  std::size_t problems = 0;        ///< that were found
  std::vector<file_error> listed;  ///< the first of them, in the order of the samples: file and reason
};

namespace detail {

/// Collects problems from several threads; which are listed does not depend on the threads.
class problem_list {
 public:
  explicit problem_list(std::size_t limit) : limit_{limit} {}

  void add(std::size_t key, file_error const& problem) {
    std::lock_guard const lock{mutex_};
    ++count_;
    first_.emplace(key, problem);
    if (first_.size() > limit_) first_.erase(std::prev(first_.end()));
  }
  /// Runs f() and adds the file_error that it throws.
  template <class F>
  void guard(std::size_t key, F&& f) {
    try {
      f();
    } catch (file_error const& problem) {
      add(key, problem);
    }
  }
  void move_to(check_report& report) {
    report.problems = count_;
    for (auto const& [key, problem] : first_) report.listed.push_back(problem);
  }

 private:
  std::mutex mutex_;
  std::size_t limit_, count_ = 0;
  std::map<std::size_t, file_error> first_;
};

/// Throws file_error unless the picture can be read, or with options.decode off looks as if it could.
inline void check_picture(dataset const& set, std::size_t i, check_options const& options) {
  picture_bytes const file = set.open_image(i);
  if (options.decode)
    (void)decode_image(file.bytes(), file.name(), options.decoding);
  else if (sniff_format(file.bytes()) == picture_format::unknown)
    throw file_error{file.name(), describe_unknown(file.bytes())};
}

/// Calls look(i) for each of `count` samples, with the options' threads, until their progress ends it; the report says
/// how many were looked at.
template <class Look>
check_report look_at_samples(std::size_t count, check_options const& options, Look const& look) {
  std::mutex mutex;
  check_report report;
  std::atomic<bool> stopped{false};
  constexpr std::size_t block = 64;
  for_each_index((count + block - 1) / block, options.threads, [&](std::size_t b) {
    if (stopped) return;
    std::size_t const end = std::min(count, (b + 1) * block);
    for (std::size_t i = b * block; i < end; ++i) look(i);
    std::lock_guard const lock{mutex};
    report.samples += end - b * block;
    if (options.progress && !options.progress(report.samples)) stopped = true;
  });
  return report;
}

}  // namespace detail

/// Looks at every picture, and at every label map where the set has them: pictures that cannot be decoded; label maps
/// that are missing, of a wrong shape or type, with scores that are not finite or class indices out of 0 .. classes() -
/// 1; class folders without a picture.
///
/// The report is the same for any number of threads. Throws what is no file_error, such as std::bad_alloc.
[[nodiscard]] inline check_report check(dataset const& set, check_options const& options = {}) {
  detail::problem_list problems{options.listed};
  for (int c = 0; c < set.classes(); ++c)
    if (set.samples_of(c) == 0)
      problems.add(std::size_t(c),
                   file_error{set.root() / set.class_names()[std::size_t(c)], "class has no .jpg, .jpeg or .png file"});
  std::size_t const first_key = std::size_t(set.classes());

  check_report report = detail::look_at_samples(set.size(), options, [&](std::size_t i) {
    problems.guard(first_key + 2 * i, [&] { detail::check_picture(set, i, options); });
    if (set.has_label_maps())
      problems.guard(first_key + 2 * i + 1, [&] { (void)set.load_label_map(i, set.classes()); });
  });
  problems.move_to(report);
  return report;
}

}  // namespace dm2
