/// @file
/// Processes with a GPU each, connected by NCCL.
#pragma once

#include <dm2/comm/communicator.hpp>
#include <dm2/comm/end_limit.hpp>
#include <dm2/comm/process_board.hpp>
#include <dm2/comm/rendezvous.hpp>
#include <dm2/comm/waiting.hpp>
#include <dm2/cuda/check.cuh>
#include <dm2/cuda/comm/device_messages.cuh>
#include <dm2/cuda/device/memory.cuh>
#include <dm2/cuda/device/stream.cuh>

#include <nccl.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace dm2::cuda {

/// How nccl_communicator is made.
struct nccl_options {
  /// What connects the processes already, such as MPI: it hands out NCCL's id, carries the host's messages and outlives
  /// this. Null: they meet at `meeting`.
  communicator* host = nullptr;
  rendezvous_place meeting{};  ///< this process's place, and where process 0 hands out NCCL's id
  double deadline = 30;        ///< seconds, on top of four times the longest work between two exchanges
  /// A file for the notice board of one machine's processes; empty for none: a lost process is not named then.
  std::filesystem::path board{};
  /// Told of a process that is lost, by a thread of its own: what waits in the driver cannot be called back. It does
  /// not return.
  std::function<void(std::string const&)> on_lost = [](std::string const& text) {
    std::fprintf(stderr, "%s\n", text.c_str());
    std::_Exit(6);
  };
};

/// One process a GPU: the current device of the thread that makes it.
///
/// Device memory goes from GPU to GPU, in the order of a stream, without the host's waiting. The host's messages go by
/// way of a small piece of device memory. A thread looks four times a second whether an exchange that has begun is
/// done. Not for a run of one process: one_process() needs nothing.
class nccl_communicator final : public communicator, public device_messages {
 public:
  /// Meets the others. Throws process_error where they do not come, cuda::error.
  explicit nccl_communicator(nccl_options options) : options_{std::move(options)} {
    if (options_.host != nullptr) {
      options_.meeting.rank = options_.host->rank();
      options_.meeting.size = options_.host->size();
    }
    if (!options_.board.empty()) board_.emplace(options_.board, rank(), size());
    ncclUniqueId id{};
    std::optional<rendezvous> meeting;
    if (options_.host == nullptr) meeting.emplace(options_.meeting);
    if (rank() == 0) require(ncclGetUniqueId(&id), "start");
    if (meeting)
      meeting->share(std::as_writable_bytes(std::span{&id, 1}));
    else
      options_.host->broadcast("NCCL id", std::span{&id, 1});
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;  // so that a deadline holds
    require(ncclCommInitRankConfig(&comm_, size(), id, rank(), &config), "start");
    settle("start");
    check(cudaGetDevice(&device_), "device");
    watch_ = std::jthread{[this](std::stop_token const& stop) { watch(stop); }};
  }
  /// Waits for the others' ends; where one does not come within the deadline, options.on_lost is told.
  ~nccl_communicator() override {
    watch_ = {};
    double const most = options_.deadline + 4 * longest_work_;
    dm2::detail::end_limit const end{
        most + 1, [&] { options_.on_lost(dm2::detail::waiting::end_text(most + 1, options_.meeting.rank)); }};
    static_cast<void>(ncclCommFinalize(comm_));
    ncclResult_t state = ncclInProgress;
    for (detail_limit const limit{most}; state == ncclInProgress && !limit.over();)
      if (ncclCommGetAsyncError(comm_, &state) != ncclSuccess) break;
    // ncclCommAbort may wait for a process that is gone; what is left here goes with this one.
    if (state == ncclSuccess) static_cast<void>(ncclCommDestroy(comm_));
  }

  [[nodiscard]] int rank() const override { return options_.meeting.rank; }
  [[nodiscard]] int size() const override { return options_.meeting.size; }
  [[nodiscard]] std::string name() const override { return "NCCL"; }

  void exchange_on_device(char const* what, cudaStream_t s, std::span<outgoing_message const> out,
                          std::span<incoming_message const> in) override {
    enqueue(what, s, out, in);
    for (outgoing_message const& m : out) on_device_sent_.bytes += m.bytes.size();
  }
  [[nodiscard]] traffic sent() const override {
    traffic all = communicator::sent();
    std::lock_guard const lock{mutex_};
    forget_done();
    return {all.bytes + on_device_sent_.bytes, all.seconds + on_device_sent_.seconds};
  }

 protected:
  /// Small messages of the host.
  void move(char const* what, std::span<outgoing_message const> out, std::span<incoming_message const> in) override {
    if (options_.host == nullptr) return move_by_device(what, out, in);
    options_.host->at_step(step());
    options_.host->exchange(what, out, in);
  }

 private:
  using clock = std::chrono::steady_clock;
  using detail_limit = dm2::detail::time_limit;

  /// `counts`: its time on the device is part of sent().
  void enqueue(char const* what, cudaStream_t s, std::span<outgoing_message const> out,
               std::span<incoming_message const> in, bool counts = true) {
    entered e{what, step(), ++exchanges_, counts};
    e.ready.record(s);
    require(ncclGroupStart(), what);
    for (incoming_message const& m : in)
      if (!m.bytes.empty()) in_group(ncclRecv(m.bytes.data(), m.bytes.size(), ncclUint8, m.from, comm_, s), what);
    for (outgoing_message const& m : out)
      if (!m.bytes.empty()) in_group(ncclSend(m.bytes.data(), m.bytes.size(), ncclUint8, m.to, comm_, s), what);
    in_group(ncclGroupEnd(), what);
    settle(what);
    e.done.record(s);
    std::lock_guard const lock{mutex_};
    under_way_.push_back(std::move(e));
  }

  void move_by_device(char const* what, std::span<outgoing_message const> out, std::span<incoming_message const> in) {
    std::size_t bytes = 0;
    auto const place = [&](std::size_t n) { return std::exchange(bytes, bytes + (n + 15) / 16 * 16); };
    std::vector<std::size_t> from, to;
    for (auto const& m : out) from.push_back(place(m.bytes.size()));
    for (auto const& m : in) to.push_back(place(m.bytes.size()));
    if (bytes > on_device_.size()) {
      on_device_ = device_memory{bytes};
      on_host_ = pinned_memory{bytes};
    }
    std::vector<outgoing_message> sent;
    std::vector<incoming_message> received;
    for (std::size_t i = 0; i < out.size(); ++i) {
      std::copy(out[i].bytes.begin(), out[i].bytes.end(), on_host_.data() + from[i]);
      sent.push_back({out[i].to, {on_device_.data() + from[i], out[i].bytes.size()}});
    }
    for (std::size_t i = 0; i < in.size(); ++i)
      received.push_back({in[i].from, {on_device_.data() + to[i], in[i].bytes.size()}});
    cudaStream_t const s = stream_.get();
    check(cudaMemcpyAsync(on_device_.data(), on_host_.data(), bytes, cudaMemcpyHostToDevice, s), what);
    enqueue(what, s, sent, received, false);  // exchange() counts it
    check(cudaMemcpyAsync(on_host_.data(), on_device_.data(), bytes, cudaMemcpyDeviceToHost, s), what);
    stream_.synchronize();
    for (std::size_t i = 0; i < in.size(); ++i)
      std::copy_n(on_host_.data() + to[i], in[i].bytes.size(), in[i].bytes.begin());
  }

  /// An exchange in a stream.
  struct entered {
    std::string what;
    std::int64_t step;
    std::uint64_t number;
    bool counts;
    event ready{true}, done{true};
    std::optional<clock::time_point> since{};  ///< this process's own work before it was done
  };

  static void require(ncclResult_t status, char const* what) {
    if (status != ncclSuccess && status != ncclInProgress)
      throw process_error{"NCCL: " + std::string{ncclGetErrorString(status)} + ", " + ncclGetLastError(nullptr) +
                          ", in the exchange '" + what + "'"};
  }
  /// A call inside a group: after an error the group is closed, else the next one would go on with it.
  static void in_group(ncclResult_t status, char const* what) {
    if (status != ncclSuccess && status != ncclInProgress) static_cast<void>(ncclGroupEnd());
    require(status, what);
  }
  /// Waits until NCCL has taken up what it was asked for.
  void settle(char const* what) {
    ncclResult_t state = ncclInProgress;
    for (detail_limit const limit{std::max(60.0, options_.deadline)}; state == ncclInProgress;) {
      require(ncclCommGetAsyncError(comm_, &state), what);
      require(state, what);
      if (state == ncclInProgress && limit.over()) lost(options_.deadline);
      if (state == ncclInProgress) std::this_thread::yield();
    }
  }

  void watch(std::stop_token const& stop) {
    static_cast<void>(cudaSetDevice(device_));
    while (!stop.stop_requested()) {
      if (board_) board_->beat();
      look();
      std::this_thread::sleep_for(std::chrono::milliseconds{250});
    }
  }
  /// Looks at the oldest exchange that is not done.
  void look() {
    ncclResult_t state = ncclSuccess;
    if (ncclCommGetAsyncError(comm_, &state) == ncclSuccess && state != ncclSuccess && state != ncclInProgress)
      options_.on_lost("NCCL: " + std::string{ncclGetErrorString(state)} + "; " + report(0));
    std::lock_guard const lock{mutex_};
    forget_done();
    if (under_way_.empty()) return;
    entered& e = under_way_.front();
    if (!e.since && passed(e.ready)) {
      e.since = clock::now();
      longest_work_ = std::max(longest_work_, seconds(*e.since - last_));
      if (board_) board_->enter(e.number, e.step, e.what);
    }
    double const limit = options_.deadline + 4 * longest_work_;
    if (e.since && seconds(clock::now() - *e.since) > limit) lost(limit);
  }
  /// Under the mutex.
  void forget_done() const {
    while (!under_way_.empty() && passed(under_way_.front().done)) {
      entered const& e = under_way_.front();
      if (e.counts) on_device_sent_.seconds += e.done.seconds_since(e.ready);
      last_ = clock::now();
      under_way_.pop_front();
    }
  }
  /// An error of the device is the main thread's to tell; this one only looks.
  static bool passed(event const& e) {
    try {
      return e.done();
    } catch (error const&) {
      return false;
    }
  }
  static double seconds(clock::duration d) { return std::chrono::duration<double>(d).count(); }
  [[nodiscard]] std::string report(double limit) const {
    return board_ ? board_->report(limit)
                  : "a process did not answer process " + std::to_string(rank()) + " within " +
                        dm2::detail::waiting::tenths(limit) + " s at step " + std::to_string(step() + 1);
  }
  void lost(double limit) { options_.on_lost(report(limit)); }

  nccl_options options_;
  std::optional<dm2::detail::process_board> board_;
  ncclComm_t comm_ = nullptr;
  int device_ = 0;
  stream stream_;
  device_memory on_device_;
  pinned_memory on_host_;
  std::uint64_t exchanges_ = 0;
  mutable std::mutex mutex_;
  mutable std::deque<entered> under_way_;          ///< under the mutex
  mutable traffic on_device_sent_;                 ///< its seconds under the mutex
  mutable clock::time_point last_ = clock::now();  ///< under the mutex: when one was seen to be done
  double longest_work_ = 0;                        ///< the watching thread's
  std::jthread watch_;                             ///< last: it uses the rest
};

}  // namespace dm2::cuda
