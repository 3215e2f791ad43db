/// @file
/// Owned streams, events and graphs.
#pragma once

#include <dm2/cuda/check.cuh>

#include <memory>
#include <type_traits>

namespace dm2::cuda {
namespace detail {
struct stream_release {
  void operator()(cudaStream_t s) const { static_cast<void>(cudaStreamDestroy(s)); }
};
struct event_release {
  void operator()(cudaEvent_t e) const { static_cast<void>(cudaEventDestroy(e)); }
};
struct graph_release {
  void operator()(cudaGraphExec_t g) const { static_cast<void>(cudaGraphExecDestroy(g)); }
};
}  // namespace detail

/// A stream that does not wait for the default stream.
class stream {
 public:
  stream() {
    cudaStream_t s = nullptr;
    check(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), "stream");
    handle_.reset(s);
  }
  /// The runtime's handle.
  [[nodiscard]] cudaStream_t get() const { return handle_.get(); }
  /// Waits until all its work is done; throws error where some of it failed.
  void synchronize() const { check(cudaStreamSynchronize(get()), "stream: work"); }

 private:
  std::unique_ptr<std::remove_pointer_t<cudaStream_t>, detail::stream_release> handle_;
};

/// A point in a stream's work. One that was never recorded has passed.
class event {
 public:
  event() : event{false} {}
  /// `timed`: seconds_since may be asked.
  explicit event(bool timed) {
    cudaEvent_t e = nullptr;
    unsigned const timing = timed ? 0 : cudaEventDisableTiming;
    check(cudaEventCreateWithFlags(&e, timing | cudaEventBlockingSync), "event");
    handle_.reset(e);
  }
  /// After everything that is in `s` now.
  void record(cudaStream_t s) const { check(cudaEventRecord(handle_.get(), s), "event: record"); }
  /// Later work in `s` waits for the point.
  void make_wait(cudaStream_t s) const { check(cudaStreamWaitEvent(s, handle_.get()), "event: wait"); }
  /// Whether the stream has come by.
  [[nodiscard]] bool done() const {
    cudaError_t const status = cudaEventQuery(handle_.get());
    if (status == cudaErrorNotReady) return false;
    check(status, "event: work before it");
    return true;
  }
  /// From an earlier point to this one, both of them timed and passed.
  [[nodiscard]] double seconds_since(event const& earlier) const {
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, earlier.handle_.get(), handle_.get()), "event: time");
    return double(milliseconds) * 1e-3;
  }
  /// Waits until the stream has come by. The thread sleeps meanwhile, and leaves its processor to others.
  void synchronize() const { check(cudaEventSynchronize(handle_.get()), "event: work before it"); }

 private:
  std::unique_ptr<std::remove_pointer_t<cudaEvent_t>, detail::event_release> handle_;
};

/// Work that was recorded once and is launched as a whole.
class graph {
 public:
  graph() = default;
  /// Records what `work` enqueues in `s`, which must not be the default stream. Work in other threads' streams is not
  /// disturbed.
  template <class F>
  graph(stream const& s, F const& work) {
    check(cudaStreamBeginCapture(s.get(), cudaStreamCaptureModeThreadLocal), "graph: begin capture");
    cudaGraph_t recorded = nullptr;
    try {
      work();
    } catch (...) {
      static_cast<void>(cudaStreamEndCapture(s.get(), &recorded));
      if (recorded != nullptr) static_cast<void>(cudaGraphDestroy(recorded));
      static_cast<void>(cudaGetLastError());
      throw;
    }
    check(cudaStreamEndCapture(s.get(), &recorded), "graph: end capture");
    cudaGraphExec_t executable = nullptr;
    cudaError_t const status = cudaGraphInstantiate(&executable, recorded, 0);
    static_cast<void>(cudaGraphDestroy(recorded));
    check(status, "graph: instantiate");
    handle_.reset(executable);
  }
  /// Enqueues the work in `s`.
  void launch(cudaStream_t s) const { check(cudaGraphLaunch(handle_.get(), s), "graph: launch"); }

 private:
  std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, detail::graph_release> handle_;
};

}  // namespace dm2::cuda
