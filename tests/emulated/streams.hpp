/// @file
/// Streams, events and graphs on the host: a stream's work is done when it is enqueued, or recorded where the stream is
/// being captured.
#pragma once

#include "device.hpp"

#include <chrono>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

namespace emulated {

/// What has been enqueued while a stream was captured.
using work_list = std::vector<std::function<void()>>;
struct stream_state {
  std::shared_ptr<work_list> capture;
};
struct event_state {
  std::shared_ptr<work_list> capture;
  std::chrono::steady_clock::time_point time;
};
struct graph_state {
  work_list work;
};

}  // namespace emulated

using cudaStream_t = emulated::stream_state*;
using cudaEvent_t = emulated::event_state*;
using cudaGraph_t = emulated::graph_state*;
using cudaGraphExec_t = emulated::graph_state*;

namespace emulated {

template <class F>
cudaError_t enqueue(cudaStream_t s, F&& work) {
  if (s != nullptr && s->capture)
    s->capture->emplace_back(std::forward<F>(work));
  else
    work();
  return cudaSuccess;
}

}  // namespace emulated

enum { cudaStreamDefault = 0, cudaStreamNonBlocking = 1 };
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) {
  if (auto const status = emulated::decided(dm2::faults::gpu_stream)) return *status;
  *s = new emulated::stream_state;
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t s) {
  delete s;
  return emulated::given_back();
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  if (auto const status = emulated::decided(dm2::faults::gpu_wait)) return *status;
  return s != nullptr && s->capture ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
}
inline cudaError_t cudaStreamQuery(cudaStream_t) {
  return emulated::decided(dm2::faults::gpu_wait).value_or(cudaSuccess);
}
inline cudaError_t cudaDeviceSynchronize() { return emulated::decided(dm2::faults::gpu_wait).value_or(cudaSuccess); }

enum { cudaEventDefault = 0, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2 };
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) {
  if (auto const status = emulated::decided(dm2::faults::gpu_event)) return *status;
  *e = new emulated::event_state;
  return cudaSuccess;
}
inline cudaError_t cudaEventCreate(cudaEvent_t* e) { return cudaEventCreateWithFlags(e, 0); }
inline cudaError_t cudaEventDestroy(cudaEvent_t e) {
  delete e;
  return emulated::given_back();
}
inline cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s = nullptr) {
  if (auto const status = emulated::decided(dm2::faults::gpu_event, false)) return *status;
  e->capture = s == nullptr ? nullptr : s->capture;
  e->time = std::chrono::steady_clock::now();
  return cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t) {
  return emulated::decided(dm2::faults::gpu_wait).value_or(cudaSuccess);
}
inline cudaError_t cudaEventQuery(cudaEvent_t) {
  return emulated::decided(dm2::faults::gpu_wait).value_or(cudaSuccess);
}
inline cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t a, cudaEvent_t b) {
  if (auto const status = emulated::decided(dm2::faults::gpu_event)) return *status;
  *ms = std::chrono::duration<float, std::milli>(b->time - a->time).count();
  return cudaSuccess;
}
inline cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned = 0) {
  if (auto const status = emulated::decided(dm2::faults::gpu_event, false)) return *status;
  if (s != nullptr && e->capture) s->capture = e->capture;
  return cudaSuccess;
}

enum cudaStreamCaptureMode {
  cudaStreamCaptureModeGlobal,
  cudaStreamCaptureModeThreadLocal,
  cudaStreamCaptureModeRelaxed
};
inline cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) {
  if (auto const status = emulated::decided(dm2::faults::gpu_graph)) return *status;
  s->capture = std::make_shared<emulated::work_list>();
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* g) {
  if (auto const status = emulated::decided(dm2::faults::gpu_graph)) {
    s->capture.reset();  // the capture is over whatever is said of it
    return *status;
  }
  *g = new emulated::graph_state{std::move(*s->capture)};
  s->capture.reset();
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* x, cudaGraph_t g, unsigned long long = 0) {
  if (auto const status = emulated::decided(dm2::faults::gpu_graph)) return *status;
  *x = new emulated::graph_state{*g};
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t g) {
  delete g;
  return emulated::given_back();
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t g) {
  delete g;
  return emulated::given_back();
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t g, cudaStream_t s) {
  if (auto const status = emulated::decided(dm2::faults::gpu_graph, false)) return *status;
  for (auto const& work : g->work) emulated::enqueue(s, work);
  return cudaSuccess;
}
