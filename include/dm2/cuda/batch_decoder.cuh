/// @file
/// Decodes what a batch of raw pictures has left encoded.
#pragma once

#include <dm2/cuda/check.cuh>
#include <dm2/cuda/decode.cuh>
#include <dm2/cuda/device/grown_memory.cuh>
#include <dm2/cuda/device/stopwatch.cuh>
#include <dm2/data/raw_pictures.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace dm2::cuda {

/// Copies a batch's raw pictures to the device, and decodes the JPEGs among them there, to libjpeg-turbo's pixels.
///
///     cuda::batch_decoder decoder{stream};
///     loader.leave_raw(cuda::pinned_resource::get(), &decoder);   // batches' pictures are in decoder's memory then
///
/// Its work goes into one stream, behind what is there: where a batch's pictures are finished in the same stream, or
/// have been finished, the next batch's may be decoded. One thread at a time may call it. Memory grows with the largest
/// batch so far: what is copied, 3 bytes a pixel, and what jpeg_decoder takes.
class batch_decoder final : public raw_decoder {
 public:
  /// In `s`, which outlives it.
  explicit batch_decoder(cudaStream_t s) : stream_{s} {}

  /// As raw_decoder; waits for the device. Throws cuda::error.
  [[nodiscard]] std::span<int const> decode(raw_pictures& raw) override {
    failed_.clear();
    gather(raw);
    if (requests_.empty()) return failed_;
    std::byte* const from = data_.reserve(raw.used);
    copying_.begin(stream_);
    check(cudaMemcpyAsync(from, raw.memory.get(), raw.used, cudaMemcpyHostToDevice, stream_),
          "batch_decoder: pictures");
    copying_.end(stream_);
    auto* const pixels = reinterpret_cast<std::uint8_t*>(pixels_.reserve(pixel_bytes_));
    decoder_.enqueue(requests_, from, pixels, stream_);
    for (int const k : decoder_.wait()) failed_.push_back(places_[std::size_t(k)]);
    for (std::size_t k = 0; k < places_.size(); ++k) {
      picture_task& t = raw.tasks[std::size_t(places_[k])];
      t.encoded = false;
      t.on_device = true;
      t.offset = requests_[k].pixels;
    }
    raw.on_device = pixels;
    return failed_;
  }

  /// Seconds that the device copied pictures, of batches that are done.
  [[nodiscard]] double seconds_copying() { return copying_.seconds(); }
  /// Seconds that it decoded them.
  [[nodiscard]] jpeg_decoder::times seconds_decoding() { return decoder_.seconds(); }
  /// Bytes on the device.
  [[nodiscard]] std::size_t bytes() const { return data_.size() + pixels_.size() + decoder_.bytes(); }

 private:
  /// The requests for a batch's encoded pictures.
  void gather(raw_pictures const& raw) {
    requests_.clear();
    places_.clear();
    pixel_bytes_ = 0;
    for (std::size_t i = 0; i < raw.tasks.size(); ++i) {
      picture_task const& t = raw.tasks[i];
      if (!t.encoded) continue;
      auto const* const header = reinterpret_cast<jpeg_record const*>(raw.memory.get() + t.offset);
      requests_.push_back({header, t.offset + sizeof(jpeg_record), t.part, pixel_bytes_});
      places_.push_back(int(i));
      pixel_bytes_ += (3 * std::size_t(t.part.height) * std::size_t(t.part.width) + 15) / 16 * 16;
    }
  }

  cudaStream_t stream_;
  jpeg_decoder decoder_;
  detail::grown_memory data_, pixels_;
  stopwatch copying_;
  std::vector<jpeg_request> requests_;
  std::vector<int> places_, failed_;  ///< of the requests, in the batch
  std::size_t pixel_bytes_ = 0;
};

}  // namespace dm2::cuda
