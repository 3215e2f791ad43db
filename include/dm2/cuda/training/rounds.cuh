/// @file
/// The rounds of a training step on the device: what its micro-batches leave, added in their order.
#pragma once

#include <dm2/comm/communicator.hpp>
#include <dm2/core/parameters.hpp>
#include <dm2/cuda/comm/device_messages.cuh>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/finite_guard.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/device/memory.cuh>
#include <dm2/cuda/memory.cuh>
#include <dm2/cuda/optimizer_step.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/token_label_loss.cuh>
#include <dm2/cuda/training/network.cuh>
#include <dm2/train/running_statistics.hpp>
#include <dm2/train/state_slices.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace dm2::cuda {

/// What a process tells of a micro-batch. Behind it follow the numbers that its forward would move the running
/// statistics by.
struct micro_batch_report {
  token_label_sums sums;  ///< the loss
  finite_guard guard;     ///< what was not finite on this process
  int stop;               ///< whether it was asked to stop
};

/// Where a round's results go, on the device.
struct round_results {
  token_label_sums* losses;  ///< of its micro-batches, in order
  finite_guard* guard;       ///< this process's, which takes over what another one has found
  int* stop;                 ///< 1 where a process was asked to stop
};

namespace detail {

/// kept = the statistics, which become zero: a forward comes (running_statistics). `places` [n] in the state.
template <class T>
__global__ void __launch_bounds__(256) take_statistics_kernel(T* state, std::uint32_t const* places, int n, T* kept) {
  for (int i = int(threadIdx.x); i < n; i += 256) {
    kept[i] = state[places[i]];
    state[places[i]] = 0;
  }
}

/// moved = what the forward left; the statistics are the kept ones again.
template <class T>
__global__ void __launch_bounds__(256)
    tell_statistics_kernel(T* state, std::uint32_t const* places, int n, T const* kept, T* moved) {
  for (int i = int(threadIdx.x); i < n; i += 256) {
    moved[i] = state[places[i]];
    state[places[i]] = kept[i];
  }
}

template <class Sums>
__global__ void __launch_bounds__(32)
    fill_report_kernel(Sums const* sums, finite_guard const* guard, int stop, micro_batch_report* report) {
  if (threadIdx.x == 0) *report = {*sums, *guard, stop};
}

/// Takes over `count` reports, `stride` bytes apart, in their order: losses, the first guard, statistics.
template <class T>
__global__ void __launch_bounds__(256)
    take_reports_kernel(std::byte const* reports, int count, std::uint32_t stride, T* state,
                        std::uint32_t const* places, int n, round_results to) {
  auto const report = [&](int r) { return reinterpret_cast<micro_batch_report const*>(reports + r * stride); };
  if (threadIdx.x == 0)
    for (int r = 0; r < count; ++r) {
      to.losses[r] = report(r)->sums;
      if (to.guard->step == 0) *to.guard = report(r)->guard;
      if (report(r)->stop != 0) *to.stop = 1;
    }
  for (int i = int(threadIdx.x); i < n; i += 256) {
    float x = state[places[i]];
    for (int r = 0; r < count; ++r) {
      float const* const moved = reinterpret_cast<float const*>(report(r) + 1);
      x = float(0.9 * double(x) + double(moved[i]));
    }
    state[places[i]] = x;
  }
}

/// sum = x, or sum += x. With `Clear`, x = 0.
template <bool First, bool Clear>
__global__ void __launch_bounds__(256) add_gradients_kernel(float* sum, float* x, std::uint32_t packets) {
  for (std::uint32_t i = blockIdx.x * 256 + threadIdx.x; i < packets; i += gridDim.x * 256) {
    std::size_t const at = std::size_t{i} * 4;
    auto v = load_packet<4>(x + at);
    if constexpr (!First) {
      auto const before = load_packet<4>(sum + at);
#pragma unroll
      for (int k = 0; k < 4; ++k) v.v[k] = before.v[k] + v.v[k];
    }
    store_packet<4>(sum + at, v);
    if constexpr (Clear) store_packet<4>(x + at, packet<float, 4>{});
  }
}

}  // namespace detail

/// The micro-batches of a step over the processes: as step_engine and gradient_sum have them on the host, with the same
/// result on any number of processes.
template <config C, precision P>
class training_rounds {
 public:
  /// Takes all memory: a gradient's slice, and one for each other process; nothing of it where one process makes steps
  /// of one micro-batch. Both outlive it.
  training_rounds(training_network<C, P>& net, communicator& processes, int micro_batches)
      : net_{net},
        processes_{processes},
        slices_{cut_state<C>(processes.size())},
        alone_{processes.size() == 1},
        single_{alone_ && micro_batches == 1},
        statistics_{net.frozen() > 0 ? 0 : int(statistic_count<C>)},
        staged_{processes},
        messages_{dynamic_cast<device_messages*>(&processes)},
        places_{statistic_count<C> * sizeof(std::uint32_t)},
        kept_{statistic_count<C> * sizeof(float)},
        reports_{report_bytes * std::size_t(processes.size())},
        sum_{single_ ? 0 : own().size() * sizeof(float)} {
    if (messages_ == nullptr) messages_ = &staged_;
    for (int r = 0; r < processes.size(); ++r)
      received_.emplace_back(r == processes.rank() ? 0 : own().size() * sizeof(float));
    std::vector<std::uint32_t> places;
    for (parameter_entry const& e : parameter_table<C>)
      for (std::size_t i = 0; e.kind == entry_kind::statistic && i < e.size; ++i)
        places.push_back(std::uint32_t(e.offset + i));
    check(cudaMemcpy(places_.data(), places.data(), places_.size(), cudaMemcpyHostToDevice), "statistics: places");
  }

  /// Whether there is no other process.
  [[nodiscard]] bool alone() const { return alone_; }
  /// The slice of the state that this process moves.
  [[nodiscard]] state_slice own() const { return slices_[rank()]; }
  /// The step's gradient, own().size() numbers on the device, after the last round.
  [[nodiscard]] float* sum() const { return single_ ? net_.gradients() : floats(sum_); }

  /// Whether sum() is the network's own gradients, which the optimizer has to clear.
  [[nodiscard]] bool sum_is_gradients() const { return single_; }

  /// Enqueues what a micro-batch's forward needs before it.
  void before_forward() {
    if (statistics_ != 0) statistics(detail::take_statistics_kernel<float>, floats(kept_));
  }
  /// Enqueues what it needs behind it.
  void after_forward() {
    if (statistics_ != 0)
      statistics(detail::tell_statistics_kernel<float>, floats(kept_), reinterpret_cast<float*>(own_report() + 1));
  }

  /// Enqueues the end of a round of `count` micro-batches. `first`: whether it is the step's first. `sums` is this
  /// process's loss; `stop`: whether it was asked to stop. The gradients are zero then, except where one process makes
  /// steps of one micro-batch. Throws process_error.
  void finish(int count, bool first, bool stop, token_label_sums const* sums, round_results const& to) {
    detail::launch("round: report", detail::fill_report_kernel<token_label_sums>, {1, 32}, stream(), sums, to.guard,
                   int(stop), own_report());
    share_reports(count);
    detail::launch("round: reports", detail::take_reports_kernel<float>, {1, 256}, stream(), reports_.data(), count,
                   std::uint32_t(report_bytes), net_.state(), places(), statistics_, to);
    if (!single_) add_gradients(count, first);
  }

  /// Enqueues the exchange of slices: every process gets each of the state's from its owner. `per` numbers of the state
  /// are one of `values`. Throws process_error.
  template <class T>
  void share(char const* what, T* values, std::size_t per = 1) {
    if (alone_ || values == nullptr) return;
    std::vector<outgoing_message> out;
    std::vector<incoming_message> in;
    auto const part = [&](std::size_t r) {
      return std::as_writable_bytes(std::span{values + slices_[r].first / per, slices_[r].size() / per});
    };
    for (std::size_t r = 0; r < slices_.size(); ++r) {
      if (r == rank()) continue;
      out.push_back({int(r), part(rank())});
      in.push_back({int(r), part(r)});
    }
    messages_->exchange_on_device(what, stream(), out, in);
  }

  /// Bytes on the device.
  [[nodiscard]] std::size_t bytes() const {
    std::size_t n = places_.size() + kept_.size() + reports_.size() + sum_.size();
    for (device_memory const& m : received_) n += m.size();
    return n;
  }

 private:
  /// Whole double-words, so that each report of an array begins at one.
  static constexpr std::size_t report_bytes =
      (sizeof(micro_batch_report) + statistic_count<C> * sizeof(float) + 7) / 8 * 8;

  static float* floats(device_memory const& m) { return reinterpret_cast<float*>(m.data()); }
  [[nodiscard]] std::size_t rank() const { return std::size_t(processes_.rank()); }
  [[nodiscard]] cudaStream_t stream() const { return net_.stream().get(); }
  [[nodiscard]] std::uint32_t const* places() const { return reinterpret_cast<std::uint32_t const*>(places_.data()); }
  [[nodiscard]] std::span<std::byte> report_of(std::size_t r) const {
    return {reports_.data() + r * report_bytes, report_bytes};
  }
  [[nodiscard]] micro_batch_report* own_report() const {
    return reinterpret_cast<micro_batch_report*>(report_of(rank()).data());
  }

  template <class Kernel, class... To>
  void statistics(Kernel const& kernel, To... to) {
    detail::launch("round: statistics", kernel, {1, 256}, stream(), net_.state(), places(), statistics_, to...);
  }
  void share_reports(int count) {
    if (alone_) return;
    std::vector<outgoing_message> out;
    std::vector<incoming_message> in;
    for (std::size_t r = 0; r < slices_.size(); ++r) {
      if (r == rank()) continue;
      if (int(rank()) < count) out.push_back({int(r), report_of(rank())});
      if (int(r) < count) in.push_back({int(r), report_of(r)});
    }
    messages_->exchange_on_device("losses", stream(), out, in);
  }
  void add_gradients(int count, bool first) {
    float* const gradients = net_.gradients();
    if (alone_) return add<true>(first, gradients);
    std::vector<outgoing_message> out;
    std::vector<incoming_message> in;
    for (std::size_t r = 0; r < slices_.size(); ++r) {
      if (r == rank()) continue;
      std::span const theirs{gradients + slices_[r].first, slices_[r].size()};
      if (int(rank()) < count) out.push_back({int(r), std::as_bytes(theirs)});
      if (int(r) < count) in.push_back({int(r), {received_[r].data(), received_[r].size()}});
    }
    messages_->exchange_on_device("gradients", stream(), out, in);
    for (std::size_t r = 0; r < std::size_t(count); ++r)
      add<false>(std::exchange(first, false), r == rank() ? gradients + own().first : floats(received_[r]));
    if (int(rank()) < count)
      check(cudaMemsetAsync(gradients, 0, state_extent<C> * sizeof(float), stream()), "gradients: zero");
  }
  template <bool Clear>
  void add(bool first, float* x) {
    std::uint32_t const packets = detail::whole_lines("training_rounds.slice modulo 64", own().size());
    if (packets == 0) return;
    auto const kernel = first ? detail::add_gradients_kernel<true, Clear> : detail::add_gradients_kernel<false, Clear>;
    detail::launch_shape shape{1, 256};
    shape.grid = detail::resident_blocks("round: gradients", kernel, shape, net_.ctx().device().multiprocessors,
                                         int(detail::blocks_for(packets, 256)));
    detail::launch("round: gradients", kernel, shape, stream(), floats(sum_), x, packets);
  }

  training_network<C, P>& net_;
  communicator& processes_;
  std::vector<state_slice> slices_;
  bool alone_, single_;
  int statistics_;  ///< numbers of BatchNorm's statistics that move: none where the stem is frozen
  staged_messages staged_;
  device_messages* messages_;
  device_memory places_, kept_, reports_, sum_;
  std::vector<device_memory> received_;  ///< gradients' slices, by process
};

}  // namespace dm2::cuda
