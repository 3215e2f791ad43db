/// @file
/// An evaluation that several processes share: who counts which pictures, and the counts of all.
#pragma once

#include <dm2/comm/communicator.hpp>
#include <dm2/train/evaluate.hpp>

#include "picture_run.hpp"

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

namespace dm2::example {

/// Deals whole batches in turn: each is computed as on one process, so that its logits are the same.
struct picture_deal {
  std::size_t pictures = 0, batch = 1;
  std::size_t rank = 0, world = 1;

  /// Whether this process has picture `i` of the set.
  [[nodiscard]] bool owns(std::size_t i) const { return owner(i) == rank; }
  /// The process that has it.
  [[nodiscard]] std::size_t owner(std::size_t i) const { return i / batch % world; }
  /// Where it stands among its owner's.
  [[nodiscard]] std::size_t place(std::size_t i) const { return i / batch / world * batch + i % batch; }
  /// The number in the set of this process's picture `own`.
  [[nodiscard]] std::size_t number(std::size_t own) const { return (own / batch * world + rank) * batch + own % batch; }
  /// The most pictures that a process has, in whole batches.
  [[nodiscard]] std::size_t most() const {
    std::size_t const batches = (pictures + batch - 1) / batch;
    return (batches + world - 1) / world * batch;
  }
};

/// Every process's counts of single pictures, in the set's order: one for each picture, with no sample where it could
/// not be read. `own` [of this process's pictures] in their order. Throws process_error.
[[nodiscard]] inline std::vector<evaluation> gather_counts(communicator& processes, picture_deal const& deal,
                                                           std::vector<evaluation> own) {
  own.resize(deal.most());
  std::vector<evaluation> all(own.size() * deal.world), out;
  processes.gather("counts", std::span<evaluation const>{own}, std::span{all});
  out.reserve(deal.pictures);
  for (std::size_t i = 0; i < deal.pictures; ++i) out.push_back(all[deal.owner(i) * own.size() + deal.place(i)]);
  return out;
}

/// The speed of all processes together: their pictures in the time of the slowest, and what they waited on average.
/// Throws process_error.
[[nodiscard]] inline run_speed gather_speed(communicator& processes, run_speed const& own) {
  std::vector<run_speed> all(std::size_t(processes.size()));
  processes.gather("speed", std::span<run_speed const>{&own, 1}, std::span{all});
  run_speed sum;
  for (run_speed const& one : all) {
    sum.pictures += one.pictures;
    sum.seconds = std::max(sum.seconds, one.seconds);
    sum.waiting += one.waiting / double(all.size());
  }
  return sum;
}

}  // namespace dm2::example
