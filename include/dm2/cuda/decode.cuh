/// @file
/// Baseline JPEGs to RGB on the device, with libjpeg-turbo's pixels.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/cuda/check.cuh>
#include <dm2/cuda/decode/coefficients.cuh>
#include <dm2/cuda/decode/colour.cuh>
#include <dm2/cuda/decode/inverse_dct.cuh>
#include <dm2/cuda/decode/records.cuh>
#include <dm2/cuda/device/grown_memory.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/device/memory.cuh>
#include <dm2/cuda/device/stopwatch.cuh>
#include <dm2/cuda/device/stream.cuh>
#include <dm2/data/decode/jpeg_record.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace dm2::cuda {

/// A JPEG of a batch, and what is asked of it.
struct jpeg_request {
  jpeg_record const* jpeg;  ///< its header
  std::size_t streams;      ///< of its list of intervals and their data (write_streams), in bytes; a multiple of 4
  pixel_box part;           ///< pixels, inside the picture
  std::size_t pixels;       ///< where they go, in bytes
};

/// Decodes baseline JPEGs on the device, a thread for each interval between two restarts.
///
///     cuda::jpeg_decoder decode;
///     decode.enqueue(requests, data, pixels, stream);          // [part.height, part.width, 3] of each
///     for (int const i : decode.wait()) ...                    // the host's to decode
///
/// The pixels are those of libjpeg-turbo's default, which Pillow has: accurate integer transform, smooth upsampling.
/// Whatever the data are, nothing outside them is read and nothing outside a request's pixels is written. One batch is
/// under way at a time, and one thread at a time calls. Memory grows with the largest batch so far: 3 bytes for each
/// sample of the MCUs' rows that the parts lie in, and 2 KiB a picture.
class jpeg_decoder {
 public:
  /// What kernels take of the device's time so far.
  struct times {
    double coefficients = 0;  ///< seconds of entropy decoding, with clearing what it writes to
    double samples = 0;       ///< seconds of the transform
    double colours = 0;       ///< seconds of upsampling and colours

    /// Seconds of all.
    [[nodiscard]] double sum() const noexcept { return coefficients + samples + colours; }
  };

  /// Enqueues a batch, behind what is in `s`: the pixels of each request's part.
  ///
  /// Shapes   data, pixels: on the device; places in them are the requests'.
  /// Throws   cuda::error; shape_error where a part is empty or leaves its picture.
  void enqueue(std::span<jpeg_request const> requests, std::byte const* data, std::uint8_t* pixels, cudaStream_t s) {
    for (jpeg_request const& r : requests) require_part(r);
    told_.synchronize();
    count_ = requests.size();
    if (count_ == 0) return;
    plan(requests);
    std::byte* const records = records_.reserve(count_ * sizeof(detail::decode_record));
    check(cudaMemcpyAsync(records, host_.data(), count_ * sizeof(detail::decode_record), cudaMemcpyHostToDevice, s),
          "jpeg_decoder: records");
    int* const damaged = reinterpret_cast<int*>(damaged_.reserve(count_ * sizeof(int)));
    check(cudaMemsetAsync(damaged, 0, count_ * sizeof(int), s), "jpeg_decoder: damage");
    decode({reinterpret_cast<detail::decode_record const*>(records), reinterpret_cast<std::uint32_t const*>(data),
            reinterpret_cast<std::int16_t*>(coefficients_.reserve(samples_ * sizeof(std::int16_t))),
            reinterpret_cast<std::uint8_t*>(planes_.reserve(samples_)), pixels, damaged, int(count_)},
           s);
    check(cudaMemcpyAsync(host_damaged(), damaged, count_ * sizeof(int), cudaMemcpyDeviceToHost, s),
          "jpeg_decoder: damage");
    told_.record(s);
  }
  /// Waits for the latest batch. Returns the requests whose data are damaged, or hold numbers that are no picture's:
  /// their pixels hold anything, and libjpeg is to judge them. Valid until the next call.
  [[nodiscard]] std::span<int const> wait() {
    told_.synchronize();
    failed_.clear();
    for (std::size_t i = 0; i < count_; ++i)
      if (host_damaged()[i] != 0) failed_.push_back(int(i));
    return failed_;
  }

  /// Of batches that are done.
  [[nodiscard]] times seconds() { return {watches_[0].seconds(), watches_[1].seconds(), watches_[2].seconds()}; }
  /// Bytes on the device.
  [[nodiscard]] std::size_t bytes() const {
    return records_.size() + damaged_.size() + coefficients_.size() + planes_.size();
  }

 private:
  static constexpr unsigned most_blocks = 64;  ///< that share a picture

  static void require_part(jpeg_request const& r) {
    pixel_box const b = r.part;
    if (b.top < 0 || b.left < 0 || b.height < 1 || b.width < 1 || b.height > r.jpeg->height - b.top ||
        b.width > r.jpeg->width - b.left)
      throw shape_error{"jpeg_decoder: a part that is not inside its picture"};
  }

  /// Gives the pictures their places, and writes their records.
  void plan(std::span<jpeg_request const> requests) {
    std::size_t const bytes = count_ * sizeof(detail::decode_record) + count_ * sizeof(int);
    if (bytes > host_.size()) host_ = pinned_memory{bytes + bytes / 4};
    auto* to = reinterpret_cast<detail::decode_record*>(host_.data());
    samples_ = 0, intervals_ = blocks_ = pixels_ = 1;
    for (jpeg_request const& r : requests) {
      detail::decode_record p{*r.jpeg, r.part, rows_needed(*r.jpeg, r.part), r.streams / 4, {}, r.pixels};
      for (int c = 0; c < p.jpeg.components; ++c) {
        std::size_t const blocks = std::size_t(p.blocks_down(c)) * std::size_t(p.blocks_across(c));
        p.samples[c] = samples_;
        samples_ += 64 * blocks;
        blocks_ = std::max(blocks_, blocks);
      }
      intervals_ = std::max(intervals_, std::size_t(p.jpeg.intervals));
      pixels_ = std::max(pixels_, std::size_t(r.part.height) * std::size_t(r.part.width));
      *to++ = p;
    }
  }

  void decode(detail::decode_call const& call, cudaStream_t s) {
    using call_type = detail::decode_call;
    unsigned const count = unsigned(count_);
    auto const timed = [&](stopwatch& watch, auto const& work) {
      watch.begin(s);
      work();
      watch.end(s);
    };
    timed(watches_[0], [&] {
      check(cudaMemsetAsync(call.coefficients, 0, samples_ * sizeof(std::int16_t), s), "jpeg_decoder: coefficients");
      using shape = detail::interval_threads;
      detail::launch("jpeg intervals", detail::decode_intervals_kernel<call_type>,
                     {dim3((count - 1) / shape::pictures + 1, share(intervals_, shape::intervals)),
                      shape::threads * shape::pictures},
                     s, call);
    });
    timed(watches_[1], [&] {
      detail::launch("jpeg transform", detail::inverse_dct_kernel<call_type>,
                     {dim3(count, share(blocks_, 256), 3), detail::transform_threads}, s, call);
    });
    timed(watches_[2], [&] {
      detail::launch("jpeg colours", detail::colour_kernel<call_type>, {dim3(count, share(pixels_, 2048)), 256}, s,
                     call);
    });
  }

  /// Blocks that share a picture's `all`, `each` of them a block where that makes few enough.
  [[nodiscard]] static unsigned share(std::size_t all, std::size_t each) {
    return unsigned(std::min<std::size_t>((all - 1) / each + 1, most_blocks));
  }
  [[nodiscard]] int* host_damaged() const {
    return reinterpret_cast<int*>(host_.data() + count_ * sizeof(detail::decode_record));
  }

  pinned_memory host_;  ///< records, and behind them what is damaged
  detail::grown_memory records_, damaged_, coefficients_, planes_;
  std::array<stopwatch, 3> watches_;
  event told_;
  std::vector<int> failed_;
  std::size_t count_ = 0, samples_ = 0, intervals_ = 1, blocks_ = 1, pixels_ = 1;
};

}  // namespace dm2::cuda
