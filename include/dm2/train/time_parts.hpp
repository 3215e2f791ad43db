/// @file
/// Where the time of a training run goes: waiting for data, computing, exchanging.
#pragma once

#include <dm2/comm/communicator.hpp>
#include <dm2/data/loading_times.hpp>

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <span>
#include <vector>

namespace dm2 {

/// Seconds that a device spent on raw pictures, beside the network.
struct device_times {
  double copying = 0;     ///< to the device
  double augmenting = 0;  ///< operations, resizing, normalising, erasing
  double decoding = 0;    ///< JPEGs, where the host leaves them encoded
};

/// Seconds of one process, and the bytes that it sent. What is left of the total is the adding of gradients, the
/// optimizer and checkpoints. On a GPU the parts overlap, since it computes while the host waits for data.
struct time_parts {
  double total = 0;          ///< by the clock
  double waiting = 0;        ///< for data, on the host
  double computing = 0;      ///< loss and gradients of the process's micro-batches; on a GPU the device's own time
  traffic exchanged{};       ///< with other processes, the waiting for later ones included
  loading_times loading{};   ///< of the threads that load the training pictures, added up
  device_times augmented{};  ///< where a device finishes the pictures

  /// What has come since an earlier time.
  [[nodiscard]] friend time_parts operator-(time_parts const& now, time_parts const& before) {
    return {now.total - before.total,
            now.waiting - before.waiting,
            now.computing - before.computing,
            {now.exchanged.bytes - before.exchanged.bytes, now.exchanged.seconds - before.exchanged.seconds},
            now.loading - before.loading,
            {now.augmented.copying - before.augmented.copying, now.augmented.augmenting - before.augmented.augmenting,
             now.augmented.decoding - before.augmented.decoding}};
  }
  /// Outside of exchanges: the process's own work, and its waiting for data.
  [[nodiscard]] double work() const { return total - exchanged.seconds; }
};

/// Each process's parts, by rank, on every process. Throws process_error.
[[nodiscard]] inline std::vector<time_parts> gather_times(communicator& processes, time_parts const& own) {
  std::vector<time_parts> all(std::size_t(processes.size()));
  processes.gather("times", std::span<time_parts const>{&own, 1}, std::span{all});
  return all;
}

/// The process that worked longest, and by how much.
struct slowest_process {
  int rank = 0;     ///< its number
  double lead = 0;  ///< its work over the processes' mean, less 1

  /// `all` is not empty.
  explicit slowest_process(std::span<time_parts const> all) {
    auto const less = [](time_parts const& a, time_parts const& b) { return a.work() < b.work(); };
    auto const most = std::max_element(all.begin(), all.end(), less);
    double const sum =
        std::accumulate(all.begin(), all.end(), 0.0, [](double s, time_parts const& p) { return s + p.work(); });
    rank = int(most - all.begin());
    lead = sum > 0 ? most->work() / (sum / double(all.size())) - 1 : 0;
  }
};

}  // namespace dm2
