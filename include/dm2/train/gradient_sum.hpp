/// @file
/// Sums the gradients of a step's micro-batches, in a fixed order.
#pragma once

#include <dm2/comm/communicator.hpp>
#include <dm2/core/error.hpp>
#include <dm2/train/state_slices.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

namespace dm2 {

/// Sums over micro-batches whose order alone decides their last bit: not who computed which, nor how many processes
/// there are.
///
/// The processes compute a round of micro-batches at a time, one each: process r the round's number r. Then each sends
/// the others their slices of its gradient, and adds the slices that it has got, in the order of the micro-batches.
template <class T>
class gradient_sum {
 public:
  /// `slices`: one a process. `rounds`: the most of a step. Takes all memory: a slice, and one for each other process;
  /// nothing where one process makes steps of one micro-batch.
  gradient_sum(communicator& processes, std::vector<state_slice> slices, int rounds)
      : processes_{processes}, slices_{std::move(slices)}, alone_{processes.size() == 1 && rounds == 1} {
    if (!alone_) sum_.resize(own().size());
    received_.resize(std::size_t(processes.size()));
    for (std::size_t r = 0; r < received_.size(); ++r)
      if (int(r) != processes.rank()) received_[r].resize(own().size());
  }

  /// The slice that this process adds up.
  [[nodiscard]] state_slice own() const { return slices_[std::size_t(processes_.rank())]; }
  /// All slices, by process.
  [[nodiscard]] std::span<state_slice const> slices() const { return slices_; }

  /// Forgets the sum: a step begins.
  void begin() { empty_ = true; }

  /// Adds a round of `count` micro-batches: those of processes 0 to count - 1. `gradients`, laid out as the state, are
  /// this process's, and are not looked at where it had none. Throws process_error.
  void add_round(std::span<T> gradients, int count) {
    std::vector<outgoing_message> out;
    std::vector<incoming_message> in;
    std::size_t const self = std::size_t(processes_.rank());
    for (std::size_t r = 0; r < slices_.size(); ++r) {
      if (r == self) continue;
      if (int(self) < count) out.push_back({int(r), std::as_bytes(part(gradients, slices_[r]))});
      if (int(r) < count) in.push_back({int(r), std::as_writable_bytes(std::span{received_[r]})});
    }
    processes_.exchange("gradients", out, in);
    for (std::size_t r = 0; r < std::size_t(count); ++r)
      add(r == self ? part(gradients, own()) : std::span{received_[r]});
  }

  /// The sum's slice: own().size() numbers, until the next begin().
  [[nodiscard]] std::span<T> sum() { return alone_ ? latest_ : std::span<T>{sum_}; }

  /// Every process gets every slice of `state` from the process that moved it. Throws process_error.
  void share(char const* what, std::span<T> state) const {
    if (state.empty()) return;
    std::vector<outgoing_message> out;
    std::vector<incoming_message> in;
    for (std::size_t r = 0; r < slices_.size(); ++r) {
      if (int(r) == processes_.rank()) continue;
      out.push_back({int(r), std::as_bytes(part(state, own()))});
      in.push_back({int(r), std::as_writable_bytes(part(state, slices_[r]))});
    }
    processes_.exchange(what, out, in);
  }

 private:
  static std::span<T> part(std::span<T> all, state_slice s) { return all.subspan(s.first, s.size()); }

  void add(std::span<T> gradients) {
    if (alone_) {
      latest_ = gradients;
    } else if (std::exchange(empty_, false)) {
      std::copy(gradients.begin(), gradients.end(), sum_.begin());
    } else {
      for (std::size_t i = 0; i < sum_.size(); ++i) sum_[i] += gradients[i];
    }
  }

  communicator& processes_;
  std::vector<state_slice> slices_;
  bool alone_, empty_ = true;
  std::span<T> latest_;
  std::vector<T> sum_;
  std::vector<std::vector<T>> received_;  ///< by process
};

}  // namespace dm2
