/// @file
/// A batch's pictures as they are decoded.
///
/// With what is left to do to each: a device finishes them.
#pragma once

#include <dm2/core/shapes.hpp>
#include <dm2/data/augment/picture_task.hpp>
#include <dm2/data/decode/jpeg_streams.hpp>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <memory_resource>
#include <new>
#include <span>
#include <vector>

namespace dm2 {

/// Pixels of a batch's pictures, one picture behind the other in memory of a fixed size, and a task for each.
///
/// A JPEG can be left encoded, for a device that decodes it (raw_decoder). The memory is taken once and used again for
/// the batches that follow. Pictures that do not fit are finished on the host, in the room that every picture has for
/// its result. Copies share the memory.
struct raw_pictures {
  /// Bytes that a picture may take on average: one of 500 x 375 takes 562,500, and crops take less.
  static constexpr std::size_t bytes_each = std::size_t{640} << 10;
  /// Bytes for the pictures of the smallest batches.
  static constexpr std::size_t least_bytes = std::size_t{16} << 20;

  image_extent size{};                      ///< of the finished pictures
  int steps_each = 0;                       ///< places for a picture's operations
  std::vector<picture_task> tasks;          ///< one a picture; none: the batch's pictures are finished
  std::vector<picture_step> steps;          ///< [pictures, steps_each]
  std::shared_ptr<std::byte> memory;        ///< `capacity` bytes, then room for each picture's result
  std::size_t bytes = 0;                    ///< of all of it
  std::size_t capacity = 0;                 ///< of the pictures as they are decoded
  std::size_t used = 0;                     ///< of them; an atomic number while a batch is filled
  std::size_t samples = 0;                  ///< that a device has to decode; likewise, and at most `capacity`
  std::uint8_t const* on_device = nullptr;  ///< pixels of tasks that a device has decoded, in its memory

  /// Bytes of a finished picture.
  [[nodiscard]] std::size_t finished_bytes() const noexcept {
    return 3 * std::size_t(size.height) * std::size_t(size.width);
  }
  /// Makes room for `count` pictures of `extent` after up to `most_steps` operations; keeps the memory it has where
  /// that is enough.
  void prepare(int count, image_extent extent, int most_steps, std::pmr::memory_resource& from) {
    std::size_t const n = std::size_t(count);
    size = extent;
    steps_each = most_steps;
    tasks.assign(n, {});
    steps.resize(n * std::size_t(most_steps));
    used = samples = 0;
    on_device = nullptr;
    std::size_t const wanted = std::max(least_bytes, n * bytes_each), all = wanted + n * finished_bytes();
    if (memory && wanted <= capacity && capacity + n * finished_bytes() <= bytes) return;
    memory = {static_cast<std::byte*>(from.allocate(all)), [&from, all](std::byte* p) { from.deallocate(p, all); }};
    capacity = wanted;
    bytes = all;
  }
  /// Picture `to` becomes picture `from`.
  void move(std::size_t from, std::size_t to) {
    tasks[to] = tasks[from];
    std::size_t const each = std::size_t(steps_each);
    std::copy_n(steps.begin() + std::ptrdiff_t(from * each), each, steps.begin() + std::ptrdiff_t(to * each));
  }
};

/// One picture's place among a batch's raw ones. Several threads fill different places at once.
class raw_place {
 public:
  /// Place i of `of`, which outlives it. `encoded`: a device will decode JPEGs that it can (raw_decoder).
  raw_place(raw_pictures& of, int i, bool encoded = false) : of_{&of}, i_{std::size_t(i)}, encoded_{encoded} {}

  /// Of the finished picture.
  [[nodiscard]] image_extent size() const noexcept { return of_->size; }
  /// Where its operations go.
  [[nodiscard]] std::span<picture_step> steps() const {
    return std::span{of_->steps}.subspan(i_ * std::size_t(of_->steps_each), std::size_t(of_->steps_each));
  }
  /// Memory for the pixels of the task's part, which becomes this place's task; null where there is not enough, or the
  /// picture would take more than an eighth of all.
  [[nodiscard]] std::uint8_t* take(picture_task const& t) const {
    std::size_t at = 0;
    if (!reserve(of_->used, 3 * std::size_t(t.part.height) * std::size_t(t.part.width), at)) return nullptr;
    of_->tasks[i_] = t;
    of_->tasks[i_].offset = at;
    return pixels(at);
  }
  /// Whether JPEGs may be left encoded here.
  [[nodiscard]] bool takes_encoded() const noexcept { return encoded_; }
  /// Leaves the task's picture encoded, which becomes this place's task: its header, and behind it what write_streams
  /// writes. False where its data are libjpeg's to judge, or there is not enough memory for them or, on the device, for
  /// what they are decoded to.
  [[nodiscard]] bool take_encoded(picture_task const& t, device_jpeg const& jpeg) const {
    std::size_t const data = detail::streams_extent(jpeg.header, jpeg.data.size());
    std::size_t at = 0, ignored = 0;
    if (!reserve(of_->samples, samples_of(jpeg.header, rows_needed(jpeg.header, t.part)), ignored)) return false;
    if (!reserve(of_->used, sizeof(jpeg_record) + data, at)) return false;
    std::byte* const to = of_->memory.get() + at;
    new (to) jpeg_record{jpeg.header};
    if (detail::write_streams(jpeg.header, jpeg.data, to + sizeof(jpeg_record)) == 0) return false;
    of_->tasks[i_] = t;
    of_->tasks[i_].offset = at;
    of_->tasks[i_].encoded = true;
    return true;
  }
  /// Room for the finished picture, [height, width, 3], of a task that the host has finished but for normalising and
  /// erasing.
  [[nodiscard]] std::uint8_t* take_finished(picture_task const& t) const {
    of_->tasks[i_] = finished_task(t, of_->size.height, of_->size.width);
    of_->tasks[i_].offset = of_->capacity + i_ * of_->finished_bytes();
    return pixels(of_->tasks[i_].offset);
  }

 private:
  [[nodiscard]] std::uint8_t* pixels(std::size_t at) const {
    return reinterpret_cast<std::uint8_t*>(of_->memory.get() + at);
  }

  /// Takes `bytes`, rounded up, of the capacity, of which `used` are; false where there are not enough left, or they
  /// would be more than an eighth of all.
  [[nodiscard]] bool reserve(std::size_t& used, std::size_t bytes, std::size_t& at) const {
    if (bytes > of_->capacity / 8) return false;
    std::size_t const rounded = (bytes + 15) / 16 * 16;
    std::atomic_ref<std::size_t> counter{used};
    at = counter.load(std::memory_order_relaxed);
    do
      if (at + rounded > of_->capacity) return false;
    while (!counter.compare_exchange_weak(at, at + rounded, std::memory_order_relaxed));
    return true;
  }

  raw_pictures* of_;
  std::size_t i_;
  bool encoded_;
};

/// A device that decodes what a batch has left encoded.
class raw_decoder {
 public:
  virtual ~raw_decoder() = default;
  /// Decodes the encoded pictures of a batch that is filled: their tasks have pixels on the device then, which stay
  /// until the next call. Returns the places of those that the host is to decode after all (a raw_place that takes none
  /// encoded); valid until the next call.
  [[nodiscard]] virtual std::span<int const> decode(raw_pictures& raw) = 0;
};

}  // namespace dm2
