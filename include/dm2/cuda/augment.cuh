/// @file
/// Raw pictures to what the network reads, on the device.
///
/// The bytes are those that the host would come to.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/error.hpp>
#include <dm2/cuda/augment/levels.cuh>
#include <dm2/cuda/augment/records.cuh>
#include <dm2/cuda/augment/resize.cuh>
#include <dm2/cuda/augment/step.cuh>
#include <dm2/cuda/augment/weights.cuh>
#include <dm2/cuda/check.cuh>
#include <dm2/cuda/device/grown_memory.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/device/memory.cuh>
#include <dm2/cuda/device/stopwatch.cuh>
#include <dm2/cuda/device/stream.cuh>
#include <dm2/data/raw_pictures.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <vector>

namespace dm2::cuda {
namespace detail {

/// What a batch's records take in the augmenter's memory.
struct augment_extent {
  std::size_t raw = 0;      ///< bytes of pictures
  std::size_t results = 0;  ///< bytes of steps' results
  std::size_t narrow = 0;   ///< bytes of resampled columns
  std::size_t windows = 0, weights = 0;
  int largest = 1;  ///< pixels of the largest step's result, or rows times columns of the largest resampled columns
};

/// The steps of one number: the pictures that have it, those first whose levels are counted.
struct step_list {
  std::vector<int> pictures;
  int counted = 0;
};

/// The pictures of each step.
[[nodiscard]] inline std::vector<step_list> list_steps(raw_pictures const& raw) {
  using enum augment_operation;
  std::vector<step_list> lists(std::size_t(raw.steps_each));
  for (int k = 0; k < raw.steps_each; ++k)
    for (bool const counted : {true, false}) {
      step_list& list = lists[std::size_t(k)];
      for (std::size_t i = 0; i < raw.tasks.size(); ++i) {
        if (raw.tasks[i].steps <= k) continue;
        auto const operation = raw.steps[i * std::size_t(raw.steps_each) + std::size_t(k)].operation;
        bool const counts = operation == auto_contrast || operation == equalize || operation == contrast;
        if (counts == counted) list.pictures.push_back(int(i));
      }
      if (counted) list.counted = int(list.pictures.size());
    }
  return lists;
}

/// Gives a picture its places.
inline void place_picture(picture_record& p, std::span<step_record> steps, augment_extent& e) {
  auto const pixels = [](pixel_box b) { return std::size_t(b.height) * std::size_t(b.width); };
  auto const take = [](std::size_t& end, std::size_t n) {
    std::size_t const at = end;
    end += (n + 15) / 16 * 16;
    return at;
  };
  picture_task const& t = p.task;
  for (step_record& s : steps.first(std::size_t(t.steps))) {
    s.result = take(e.results, 3 * pixels(s.step.out));
    e.largest = std::max(e.largest, int(pixels(s.step.out)));
  }
  std::size_t const narrow = std::size_t(t.down.reads) * std::size_t(t.across.count);
  p.narrow = take(e.narrow, 3 * narrow);
  e.largest = std::max(e.largest, int(narrow));
  p.windows = take(e.windows, std::size_t(t.down.count) + std::size_t(t.across.count));
  p.weights = take(e.weights, std::size_t(t.down.count) * std::size_t(t.down.taps) +
                                  std::size_t(t.across.count) * std::size_t(t.across.taps));
}

}  // namespace detail

/// Finishes raw pictures on the device: copies them there, and does what their tasks say.
///
///     cuda::augmenter augment;
///     augment.enqueue(batch.raw, floats, stream);   // [pictures, 3, height, width]
///     augment.wait_until_copied();                  // the batch may go
///
/// The bytes are those of the transform on the host. One batch is under way at a time: calls on one stream follow each
/// other, and one thread at a time calls. Memory grows with the largest batch so far: the pictures, the operations'
/// results, and 3 bytes for each of a crop's rows and a result's columns.
class augmenter {
 public:
  /// Enqueues the floats of a batch, behind what is in `s`.
  ///
  /// Shapes   out [pictures, 3, height, width] on the device, normalised and erased as the tasks say.
  /// Throws   cuda::error.
  void enqueue(raw_pictures const& raw, float* out, cudaStream_t s) { run(raw, detail::finished_floats{out}, s); }
  /// Enqueues the bytes of a batch.
  ///
  /// Shapes   out [pictures, height, width, 3] on the device, neither normalised nor erased.
  void enqueue(raw_pictures const& raw, std::uint8_t* out, cudaStream_t s) { run(raw, detail::finished_bytes{out}, s); }
  /// The same in two parts: copies a batch's pictures to the device. Later work in `s` may still read the results of
  /// the batch before. Throws std::logic_error where a picture is encoded still: raw_decoder::decode comes first.
  void copy(raw_pictures const& raw, cudaStream_t s) {
    for (picture_task const& t : raw.tasks)
      if (t.encoded) throw std::logic_error{"dm2::cuda::augmenter: a batch with encoded pictures, not decoded yet"};
    copied_.synchronize();
    prepare(raw);
    copying_.begin(s);
    copy_pictures(raw, s);
    copying_.end(s);
    copied_.record(s);
  }
  /// And finishes what was copied.
  void finish(float* out, cudaStream_t s) { finish_copied(detail::finished_floats{out}, s); }
  /// @copydoc finish
  void finish(std::uint8_t* out, cudaStream_t s) { finish_copied(detail::finished_bytes{out}, s); }
  /// Waits until the device has the latest batch's pictures.
  void wait_until_copied() const { copied_.synchronize(); }

  /// Seconds that the device copied pictures, of batches that are done.
  [[nodiscard]] double seconds_copying() { return copying_.seconds(); }
  /// Seconds that it worked on them.
  [[nodiscard]] double seconds_augmenting() { return augmenting_.seconds(); }
  /// Bytes on the device.
  [[nodiscard]] std::size_t bytes() const {
    return raw_.size() + results_.size() + narrow_.size() + windows_.size() + weights_.size() + records_.size() +
           counts_.size();
  }

 private:
  static constexpr int most_blocks = 64;  ///< that share a picture

  template <class Finished>
  void run(raw_pictures const& raw, Finished const& finished, cudaStream_t s) {
    copy(raw, s);
    finish_copied(finished, s);
  }

  [[nodiscard]] static std::size_t bytes_of(picture_task const& t) {
    return 3 * std::size_t(t.part.height) * std::size_t(t.part.width);
  }

  /// The records of a batch, in pinned memory.
  struct record_part {
    detail::picture_record* pictures;
    detail::step_record* steps;
    int* chosen;  ///< the pictures of each step, one step behind the other

    record_part(arena& a, std::size_t count, std::size_t steps_each)
        : pictures{a.take<detail::picture_record>(count)},
          steps{a.take<detail::step_record>(count * steps_each)},
          chosen{a.take<int>(count * steps_each)} {}
  };
  [[nodiscard]] record_part records_in(std::byte* memory, std::size_t bytes) const {
    arena a{memory, bytes};
    return {a, count_, std::size_t(steps_each_)};
  }

  /// Gives the pictures of a batch their places, and writes their records.
  void prepare(raw_pictures const& raw) {
    count_ = raw.tasks.size();
    steps_each_ = raw.steps_each;
    height_ = raw.size.height, width_ = raw.size.width;
    record_bytes_ = planned_bytes<record_part>(count_, std::size_t(steps_each_));
    if (record_bytes_ > host_records_.size()) host_records_ = pinned_memory{record_bytes_ + record_bytes_ / 4};
    record_part const to = records_in(host_records_.data(), record_bytes_);
    extent_ = {};
    decoded_ = raw.on_device;
    extent_.raw = decoded_ == nullptr ? raw.used : 0;
    behind_.clear();
    for (std::size_t i = 0; i < count_; ++i) {
      std::size_t const first = i * std::size_t(steps_each_);
      to.pictures[i] = {raw.tasks[i], 0, 0, 0};
      for (std::size_t k = first; k < first + std::size_t(steps_each_); ++k) to.steps[k] = {raw.steps[k], 0};
      detail::place_picture(to.pictures[i], {to.steps + first, std::size_t(steps_each_)}, extent_);
      if (raw.tasks[i].on_device || (decoded_ == nullptr && !raw.tasks[i].finished)) continue;
      behind_.push_back(i);  // the others on the device
      to.pictures[i].task.offset = extent_.raw;
      extent_.raw += (bytes_of(raw.tasks[i]) + 15) / 16 * 16;
    }
    lists_ = detail::list_steps(raw);
    int* at = to.chosen;
    for (detail::step_list const& list : lists_) at = std::copy(list.pictures.begin(), list.pictures.end(), at);
  }

  void copy_pictures(raw_pictures const& raw, cudaStream_t s) {
    std::byte* const to = raw_.reserve(extent_.raw);
    auto const copy_bytes = [&](std::byte* out, std::byte const* in, std::size_t n) {
      if (n != 0) check(cudaMemcpyAsync(out, in, n, cudaMemcpyHostToDevice, s), "augmenter: pictures");
    };
    if (decoded_ == nullptr) copy_bytes(to, raw.memory.get(), raw.used);
    record_part const records = records_in(host_records_.data(), record_bytes_);
    for (std::size_t const i : behind_)
      copy_bytes(to + records.pictures[i].task.offset, raw.memory.get() + raw.tasks[i].offset, bytes_of(raw.tasks[i]));
    copy_bytes(records_.reserve(record_bytes_), host_records_.data(), record_bytes_);
  }

  [[nodiscard]] detail::augment_call make_call() {
    record_part const on_device = records_in(records_.reserve(record_bytes_), record_bytes_);
    auto const bytes = [](std::byte* p) { return reinterpret_cast<std::uint8_t*>(p); };
    return {on_device.pictures,
            on_device.steps,
            steps_each_,
            bytes(raw_.reserve(extent_.raw)),
            decoded_,
            bytes(results_.reserve(extent_.results)),
            bytes(narrow_.reserve(extent_.narrow)),
            reinterpret_cast<detail::tap_range*>(windows_.reserve(extent_.windows * sizeof(detail::tap_range))),
            reinterpret_cast<std::int32_t*>(weights_.reserve(extent_.weights * sizeof(std::int32_t))),
            height_,
            width_};
  }

  template <class Finished>
  void finish_copied(Finished const& finished, cudaStream_t s) {
    if (count_ == 0) return;
    detail::augment_call const call = make_call();
    augmenting_.begin(s);
    int const* chosen = records_in(records_.reserve(record_bytes_), record_bytes_).chosen;
    for (std::size_t k = 0; k < lists_.size(); ++k) {
      apply_steps(call, int(k), lists_[k], chosen, s);
      chosen += lists_[k].pictures.size();
    }
    unsigned const count = unsigned(count_);
    detail::launch("resize weights", detail::resize_weights_kernel<detail::augment_call>, {dim3(count, 4), 128}, s,
                   call);
    detail::launch("resize columns", detail::resize_columns_kernel<detail::augment_call>,
                   {dim3(count, blocks(extent_.largest)), 256}, s, call);
    detail::launch("finish pictures", detail::finish_pictures_kernel<detail::augment_call, Finished>,
                   {dim3(count, blocks(height_ * width_)), 256}, s, call, finished);
    augmenting_.end(s);
  }

  /// The steps of one number; `chosen`, on the device, is list.pictures.
  void apply_steps(detail::augment_call const& call, int number, detail::step_list const& list, int const* chosen,
                   cudaStream_t s) {
    unsigned const all = unsigned(list.pictures.size()), counted = unsigned(list.counted), others = all - counted;
    unsigned const each = blocks(extent_.largest);
    if (counted > 0) {
      std::size_t const count_bytes = counted * sizeof(detail::level_counts);
      std::byte* const memory = counts_.reserve(count_ * (sizeof(detail::level_counts) + sizeof(detail::level_tables)));
      auto* const counts = reinterpret_cast<detail::level_counts*>(memory);
      auto* const tables = reinterpret_cast<detail::level_tables*>(memory + count_ * sizeof(detail::level_counts));
      check(cudaMemsetAsync(counts, 0, count_bytes, s), "augmenter: counts");
      detail::launch("count levels", detail::count_levels_kernel<detail::augment_call>, {dim3(counted, each), 256}, s,
                     call, chosen, number, counts);
      detail::launch("level tables", detail::make_tables_kernel<detail::augment_call>, {dim3(counted), 256}, s, call,
                     chosen, number, counts, tables);
      detail::launch("augment", detail::apply_step_kernel<detail::augment_call>, {dim3(counted, each), 256}, s, call,
                     chosen, number, tables);
    }
    if (others > 0)
      detail::launch("augment", detail::apply_step_kernel<detail::augment_call>, {dim3(others, each), 256}, s, call,
                     chosen + counted, number, static_cast<detail::level_tables const*>(nullptr));
  }

  /// Blocks that share a picture whose largest part has so many pixels: 2,048 each, where that makes few enough.
  [[nodiscard]] static unsigned blocks(int pixels) { return unsigned(std::clamp(pixels / 2048, 1, most_blocks)); }

  pinned_memory host_records_;
  detail::grown_memory raw_, results_, narrow_, windows_, weights_, records_, counts_;
  event copied_;
  stopwatch copying_, augmenting_;
  std::vector<detail::step_list> lists_;
  std::vector<std::size_t> behind_;  ///< pictures that are copied one by one: those that the host has finished
                                     ///< and, where the device has decoded others, all that the host has decoded
  std::uint8_t const* decoded_ = nullptr;
  detail::augment_extent extent_;
  std::size_t count_ = 0, record_bytes_ = 0;
  int steps_each_ = 0, height_ = 0, width_ = 0;
};

}  // namespace dm2::cuda
