/// @file
/// Pictures on the host to logits on the host, batch after batch.
///
/// Copies and the network run side by side.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/cuda/augment.cuh>
#include <dm2/cuda/batch_decoder.cuh>
#include <dm2/cuda/check.cuh>
#include <dm2/cuda/device/memory.cuh>
#include <dm2/cuda/device/pinned_resource.cuh>
#include <dm2/cuda/device/stream.cuh>
#include <dm2/data/raw_pictures.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>

namespace dm2::cuda {

/// Feeds a network on the GPU from buffers in pinned memory. While it computes one batch, the next one is copied to the
/// device and the one after that can be written:
///
///     cuda::picture_pipeline pipeline{net, 256, bytes_type::normalised(nullptr, mean, deviation)};
///     while (int const n = decode_into(pipeline.staging())) {
///       pipeline.submit(n);
///       if (pipeline.pending() == 2) use(pipeline.take());
///     }
///     while (pipeline.pending() != 0) use(pipeline.take());
///
/// Model is a dm2::model of a cuda::context, or has its `pixels`, `classes`, `bytes_type` and forward_device. It must
/// outlive the pipeline. Memory: two buffers of `batch` pictures and their logits, on the host and on the device.
/// One thread at a time may call a pipeline; others may write to staging().
template <class Model>
class picture_pipeline {
 public:
  using bytes_type = typename Model::bytes_type;  ///< how bytes are normalised
  static constexpr int depth = 2;                 ///< batches submitted and not taken, at most

  /// Takes all memory and has the network plan both buffers, so that full batches allocate nothing. `normalise` says
  /// what bytes mean; its data is not read.
  picture_pipeline(Model& net, int batch, bytes_type const& normalise)
      : net_{&net}, batch_{required(batch)}, normalise_{normalise} {
    std::size_t const n = std::size_t(batch);
    for (slot& s : slots_) {
      s.pictures = pinned_memory{n * Model::pixels};
      s.logits = pinned_memory{n * Model::classes * sizeof(float)};
      s.device_pictures = device_memory{n * Model::pixels};
      s.device_logits = device_memory{n * Model::classes * sizeof(float)};
    }
    for (slot const& s : slots_) compute(s, batch);
    compute_.synchronize();
  }
  picture_pipeline(picture_pipeline const&) = delete;
  picture_pipeline& operator=(picture_pipeline const&) = delete;
  /// Waits for what was submitted.
  ~picture_pipeline() {
    static_cast<void>(cudaStreamSynchronize(copies_.get()));
    static_cast<void>(cudaStreamSynchronize(compute_.get()));
  }

  /// Pictures that fit a buffer.
  [[nodiscard]] int batch() const { return batch_; }
  /// Batches that were submitted and not taken.
  [[nodiscard]] int pending() const { return int(submitted_ - taken_); }

  /// Where the next batch goes, [batch, height, width, channels] bytes. Waits until the device has what was there.
  [[nodiscard]] std::span<std::uint8_t> staging() {
    slot const& s = slots_[submitted_ % depth];
    s.uploaded.synchronize();
    return {reinterpret_cast<std::uint8_t*>(s.pictures.data()), s.pictures.size()};
  }

  /// Where a batch's raw pictures go, `batch` places: one of three memories in turn, so that two can be filled while
  /// the device copies the third. Waits until the device has what was there.
  [[nodiscard]] raw_pictures& raw_staging() {
    raw_slot& r = raw_[raw_staged_++ % raw_.size()];
    r.copied.synchronize();
    r.pictures.prepare(batch_, Model::configuration.image, 0, pinned_resource::get());
    return r.pictures;
  }
  /// What decodes pictures that raw_staging() was given encoded, before submit_raw and behind what was submitted.
  [[nodiscard]] raw_decoder& decoder() { return decoder_; }
  /// As submit, of what raw_staging() gave: the device finishes it to the bytes that staging() would have had.
  void submit_raw(raw_pictures& from, int count) {
    slot& s = begin(count);
    from.tasks.resize(std::size_t(count));
    augment_.copy(from, copies_.get());
    for (raw_slot& r : raw_)
      if (&r.pictures == &from) r.copied.record(copies_.get());
    augment_.finish(reinterpret_cast<std::uint8_t*>(s.device_pictures.data()), copies_.get());
    enqueue(s);
  }

  /// Hands over the first `count` pictures of staging(), which must not be written until staging() gives it again.
  ///
  /// Throws shape_error unless count is 1 to batch(), std::logic_error where `depth` batches are pending, cuda::error.
  void submit(int count) {
    slot& s = begin(count);
    // The batch that was in this slot has been taken, so nothing on the device reads it any more.
    check(cudaMemcpyAsync(s.device_pictures.data(), s.pictures.data(), std::size_t(count) * Model::pixels,
                          cudaMemcpyHostToDevice, copies_.get()),
          "picture_pipeline: pictures");
    enqueue(s);
  }

  /// Waits for the oldest batch that was not taken. Its logits [count, classes] stay until the next submit.
  ///
  /// Throws std::logic_error where nothing is pending; cuda::error where the work failed.
  [[nodiscard]] std::span<float const> take() {
    if (pending() == 0) throw std::logic_error{"dm2::cuda::picture_pipeline: take before submit"};
    slot const& s = slots_[taken_ % depth];
    s.done.synchronize();
    ++taken_;
    return {reinterpret_cast<float const*>(s.logits.data()), logits_of(s)};
  }

 private:
  struct slot {
    pinned_memory pictures, logits;
    device_memory device_pictures, device_logits;
    event uploaded, done;
    int count = 0;
  };

  struct raw_slot {
    raw_pictures pictures;
    event copied;
  };

  /// The next slot, for `count` pictures.
  slot& begin(int count) {
    if (count < 1 || count > batch_)
      throw shape_error{"picture_pipeline.submit: got " + std::to_string(count) + " pictures, expected 1 to " +
                        std::to_string(batch_)};
    if (pending() == depth) throw std::logic_error{"dm2::cuda::picture_pipeline: submit before take"};
    slot& s = slots_[submitted_ % depth];
    s.count = count;
    return s;
  }
  /// Computes what is on its way to the device.
  void enqueue(slot& s) {
    s.uploaded.record(copies_.get());
    s.uploaded.make_wait(compute_.get());
    compute(s, s.count);
    check(cudaMemcpyAsync(s.logits.data(), s.device_logits.data(), logits_of(s) * sizeof(float), cudaMemcpyDeviceToHost,
                          compute_.get()),
          "picture_pipeline: logits");
    s.done.record(compute_.get());
    ++submitted_;
  }
  static int required(int batch) {
    if (batch < 1) throw shape_error{"picture_pipeline.batch: got " + std::to_string(batch) + ", expected at least 1"};
    return batch;
  }
  static std::size_t logits_of(slot const& s) { return std::size_t(s.count) * Model::classes; }

  void compute(slot const& s, int count) {
    bytes_type input = normalise_;
    input.data = reinterpret_cast<std::uint8_t const*>(s.device_pictures.data());
    net_->forward_device(input, count, reinterpret_cast<float*>(s.device_logits.data()), compute_.get());
  }

  Model* net_;
  int batch_;
  bytes_type normalise_;
  stream copies_, compute_;
  augmenter augment_;
  batch_decoder decoder_{copies_.get()};
  std::array<slot, depth> slots_;
  std::array<raw_slot, 3> raw_;
  std::size_t submitted_ = 0, taken_ = 0, raw_staged_ = 0;
};

}  // namespace dm2::cuda
