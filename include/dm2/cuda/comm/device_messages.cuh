/// @file
/// Messages between the memories of the processes' devices.
#pragma once

#include <dm2/comm/communicator.hpp>
#include <dm2/cuda/check.cuh>
#include <dm2/cuda/device/memory.cuh>

#include <cstddef>
#include <span>
#include <vector>

namespace dm2::cuda {

/// Moves bytes between devices, in the order of a stream. A communicator that can do so by itself derives from it, too.
class device_messages {
 public:
  device_messages() = default;
  device_messages(device_messages const&) = delete;
  device_messages& operator=(device_messages const&) = delete;
  virtual ~device_messages() = default;

  /// As communicator::exchange, of device memory: after the work that is in `s`, and before later work there. No
  /// process sends to itself. May return before it is done. Throws process_error, cuda::error.
  virtual void exchange_on_device(char const* what, cudaStream_t s, std::span<outgoing_message const> out,
                                  std::span<incoming_message const> in) = 0;
};

/// By way of pinned host memory and any communicator. Each call waits for the stream.
class staged_messages final : public device_messages {
 public:
  /// `processes` outlives it.
  explicit staged_messages(communicator& processes) : processes_{processes} {}

  void exchange_on_device(char const* what, cudaStream_t s, std::span<outgoing_message const> out,
                          std::span<incoming_message const> in) override {
    std::size_t bytes = 0;
    for (auto const& m : out) bytes += m.bytes.size();
    for (auto const& m : in) bytes += m.bytes.size();
    if (bytes > memory_.size()) memory_ = pinned_memory{bytes};
    std::vector<outgoing_message> sent;
    std::vector<incoming_message> received;
    std::byte* at = memory_.data();
    for (auto const& m : out) {
      sent.push_back({m.to, std::span{at, m.bytes.size()}});
      check(cudaMemcpyAsync(at, m.bytes.data(), m.bytes.size(), cudaMemcpyDeviceToHost, s), what);
      at += m.bytes.size();
    }
    for (auto const& m : in) {
      received.push_back({m.from, std::span{at, m.bytes.size()}});
      at += m.bytes.size();
    }
    check(cudaStreamSynchronize(s), what);
    processes_.exchange(what, sent, received);
    for (std::size_t i = 0; i < in.size(); ++i)
      check(
          cudaMemcpyAsync(in[i].bytes.data(), received[i].bytes.data(), in[i].bytes.size(), cudaMemcpyHostToDevice, s),
          what);
    check(cudaStreamSynchronize(s), what);  // the pinned memory is used again
  }

 private:
  communicator& processes_;
  pinned_memory memory_;
};

}  // namespace dm2::cuda
