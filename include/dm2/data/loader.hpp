/// @file
/// Loads batches of pictures ahead of time on several threads.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/random.hpp>
#include <dm2/data/batch.hpp>
#include <dm2/data/batch_queue.hpp>
#include <dm2/data/dataset.hpp>
#include <dm2/data/encoded_picture.hpp>
#include <dm2/data/epoch_order.hpp>
#include <dm2/data/label_map_file.hpp>
#include <dm2/data/loader_options.hpp>
#include <dm2/data/loading_times.hpp>
#include <dm2/data/raw_pictures.hpp>
#include <dm2/data/sample_transform.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <memory_resource>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace dm2 {
namespace detail {

/// The size that a transform writes; throws std::invalid_argument where there is none.
[[nodiscard]] inline std::optional<image_extent> size_written(sample_transform const& transform) {
  if (!transform) throw std::invalid_argument{"loader: no transform"};
  return transform.writes();
}

}  // namespace detail

/// Reads an epoch's batches, in order, ahead of their use.
///
/// What a batch holds is a function of the set, the transform, the seed, the epoch and the batch's number, never of the
/// number of threads or of their timing: the order is epoch_permutation, and sample i of epoch e draws from
/// random_stream{seed, e, i}. Any batch of an epoch can be the first that is read, so a run resumes where it stopped.
///
/// A sample is bad if its picture or its label map cannot be read (file_error). In evaluation it is left out of its
/// batch. In training its place is taken by the sample that follows in the epoch's order, round to the first, with the
/// bad one's random stream, so that it differs from that sample's own appearance. Each bad sample is reported once, and
/// more than max_bad of them make next() throw.
///
/// Memory: prefetch + 1 batches (raw ones of a fixed size, raw_pictures), taken by the first epoch and used again, and
/// a picture for each thread.
///
/// The set has to outlive the loader. One thread at a time may call it. Destroying it, or starting another epoch, at
/// any time waits for the samples that threads are at and drops them. In a process that was forked after it was made,
/// it can be destroyed, and throws std::logic_error otherwise: make another one there.
class loader {
 public:
  /// The size of the pictures is the transform's, where it says one.
  ///
  /// Throws std::invalid_argument if an option is out of range, if there is no transform, if the set is empty, or if a
  /// training set fills no batch; shape_error if options and transform name different sizes.
  loader(dataset const& set, loader_options options, sample_transform transform)
      : set_{&set},
        options_{detail::checked(std::move(options), detail::size_written(transform))},
        transform_{std::move(transform)},
        cut_{set.size(),
             std::size_t(options_.batch),
             std::size_t(options_.rank),
             std::size_t(options_.world),
             options_.mode == loading::training,
             std::size_t(options_.group)} {
    if (set.size() == 0) throw std::invalid_argument{"loader: the set has no sample"};
    if (options_.mode == loading::training && cut_.count() == 0)
      throw std::invalid_argument{"loader: " + std::to_string(set.size()) + " samples fill no batch of " +
                                  std::to_string(options_.batch)};
    if (options_.label_map_classes == 0) options_.label_map_classes = set.classes();
    queue_.reset(new detail::batch_queue{
        options_.prefetch + 1, worker_count(options_.threads),
        [this](detail::batch_slot& slot, int place) { load(slot, place, decoder_ != nullptr); }});
  }
  loader(loader const&) = delete;
  loader& operator=(loader const&) = delete;

  /// The options, with what the transform and the set decided.
  [[nodiscard]] loader_options const& options() const noexcept { return options_; }
  /// Classes of the set.
  [[nodiscard]] int classes() const noexcept { return set_->classes(); }
  /// Whether batches have label maps.
  [[nodiscard]] bool has_label_maps() const { return options_.label_maps && set_->has_label_maps(); }
  /// The samples.
  [[nodiscard]] dataset const& set() const noexcept { return *set_; }
  /// Batches of an epoch, over all processes. Some may be other processes' to read (epoch_batches).
  [[nodiscard]] std::size_t batches() const noexcept { return cut_.count(); }
  /// Seconds that next() has waited for data since the loader was made: for its threads, and for a device that decodes.
  [[nodiscard]] double seconds_waiting() const { return queue_->seconds_waiting() + seconds_decoder_; }
  /// Where its threads' time has gone so far.
  [[nodiscard]] loading_times times() const noexcept { return clock_.get(); }
  /// Different bad samples so far.
  [[nodiscard]] std::size_t bad() const noexcept { return bad_.size(); }

  /// From the next start() on batches are raw (batch::raw): pictures are decoded to memory from `memory`, which
  /// outlives the loader, and what else the transform does to them is described, for a device to finish with the same
  /// bytes. With a decoder, which outlives the loader, JPEGs that it can decode are not decoded here: next() has it do
  /// that. What it cannot is decoded in next(), so that the samples that are bad, and those that take their places, are
  /// the same.
  ///
  /// Throws std::invalid_argument where the transform cannot leave pictures so (sample_transform::can_leave_raw).
  void leave_raw(std::pmr::memory_resource& memory, raw_decoder* decoder = nullptr) {
    if (!transform_.can_leave_raw())
      throw std::invalid_argument{"loader: the transform leaves no picture for a device to finish"};
    raw_ = &memory;
    decoder_ = decoder;
  }

  /// Begins an epoch at its batch `first`, counted over all processes, and reading ahead. Drops the rest of the epoch
  /// before.
  ///
  /// Throws std::out_of_range if first > batches().
  void start(std::uint32_t epoch, std::size_t first = 0) {
    if (first > batches())
      throw std::out_of_range{"loader: batch " + std::to_string(first) + " of an epoch of " +
                              std::to_string(batches())};
    queue_->stop();
    epoch_ = epoch;
    if (options_.mode == loading::training) order_ = epoch_permutation(set_->size(), options_.seed, epoch);
    own_ = cut_.own(first);
    queue_->start(0, own_.size(), [this](detail::batch_slot& slot) {
      slot.content.number = own_[slot.content.number];
      slot.content.height = options_.image.height;
      slot.content.width = options_.image.width;
      slot.content.raw.tasks.clear();
      int const size = int(cut_.size(slot.content.number));
      if (raw_ != nullptr) slot.content.raw.prepare(size, options_.image, transform_.raw_steps(), *raw_);
      slot.content.resize(size, has_label_maps());
    });
  }

  /// The epoch's next batch that this process reads, valid until the next call of anything else here than the queries;
  /// null after the last one and before start. In evaluation a batch whose samples are all bad is passed over.
  ///
  /// Throws  file_error naming the last bad file, with the count, once there are more bad samples than max_bad or no
  ///         sample is good, then at every call; whatever else a thread threw.
  [[nodiscard]] batch const* next() {
    if (fatal_) throw file_error{*fatal_};
    while (detail::batch_slot* const slot = queue_->next()) {
      decode_encoded(*slot);
      report_bad(*slot);
      if (options_.mode == loading::evaluation) leave_out_bad(*slot);
      if (slot->content.size > 0) return &slot->content;
    }
    return nullptr;
  }

 private:
  /// The sample at a place of the epoch's order.
  [[nodiscard]] std::size_t sample_at(std::size_t place) const {
    return options_.mode == loading::training ? order_[place] : place;
  }

  /// Has the device decode what was left to it, and loads anew what it could not.
  void decode_encoded(detail::batch_slot& slot) {
    if (decoder_ == nullptr || !slot.content.is_raw()) return;
    auto const begin = std::chrono::steady_clock::now();
    for (int const i : decoder_->decode(slot.content.raw)) {
      slot.failures[std::size_t(i)].clear();
      load(slot, i, false);
    }
    seconds_decoder_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

  /// Fills place i of a batch, or marks it as bad. Called by the queue's threads.
  void load(detail::batch_slot& slot, int i, bool encoded) const {
    std::size_t const place = cut_.first(slot.content.number) + std::size_t(i), asked = sample_at(place);
    std::size_t const attempts =
        options_.mode == loading::training ? std::min(set_->size(), options_.max_bad + 1) : std::size_t{1};
    auto& failures = slot.failures[std::size_t(i)];
    for (std::size_t attempt = 0; attempt < attempts; ++attempt) {
      std::size_t const sample = sample_at((place + attempt) % set_->size());
      try {
        return read(slot.content, raw_place{slot.content.raw, i, encoded}, i, sample,
                    random_stream{options_.seed, epoch_, asked});
      } catch (file_error const& problem) {
        failures.push_back({sample, problem});
      }
    }
    slot.good[std::size_t(i)] = 0;
  }

  /// Reads and transforms a sample into place i, which is `place` among raw ones.
  void read(batch& to, raw_place const& place, int i, std::size_t sample, random_stream stream) const {
    std::size_t const at = std::size_t(i);
    auto const begin = detail::loading_clock::clock::now();
    label_map_data* map = nullptr;
    if (has_label_maps()) {
      map = &to.maps[at];
      *map = set_->load_label_map(sample, options_.label_map_classes);
    }
    picture_bytes const file = set_->open_image(sample);
    auto const read = detail::loading_clock::clock::now();
    encoded_picture encoded{file.bytes(), file.name(), options_.decoding};
    to.crops[at] =
        to.is_raw() ? transform_(encoded, map, stream, place) : transform_(encoded, map, stream, to.picture_at(i));
    clock_.add(begin, read, encoded.seconds_decoding());
    to.labels[at] = set_->label(sample);
    to.samples[at] = sample;
  }

  /// Reports bad samples that are new, and throws when there are too many.
  void report_bad(detail::batch_slot const& slot) {
    bool good = true;
    for (std::size_t i = 0; i < slot.failures.size(); ++i) {
      for (auto const& [sample, problem] : slot.failures[i]) {
        if (!bad_.insert(sample).second) continue;
        last_bad_ = problem;
        if (options_.report) options_.report(problem);
      }
      good = good && slot.good[i] != 0;
    }
    bool const none = bad_.size() == set_->size() || (options_.mode == loading::training && !good);
    if (!last_bad_ || (bad_.size() <= options_.max_bad && !none)) return;
    std::string const reason = std::string{last_bad_->what()}.substr(last_bad_->path().string().size() + 2);
    fatal_.emplace(last_bad_->path(), reason + "; " + std::to_string(bad_.size()) + " of " +
                                          std::to_string(set_->size()) + " samples are bad so far, the limit is " +
                                          std::to_string(options_.max_bad));
    throw file_error{*fatal_};
  }

  /// Closes the gaps that bad samples left.
  static void leave_out_bad(detail::batch_slot& slot) {
    batch& b = slot.content;
    int kept = 0;
    for (int i = 0; i < b.size; ++i) {
      if (slot.good[std::size_t(i)] == 0) continue;
      if (kept != i) {
        std::size_t const from = std::size_t(i), to = std::size_t(kept);
        if (b.is_raw())
          b.raw.move(from, to);
        else
          std::copy_n(b.picture_at(i).begin(), b.picture_size(), b.picture_at(kept).begin());
        b.labels[to] = b.labels[from];
        b.samples[to] = b.samples[from];
        b.crops[to] = b.crops[from];
        if (!b.maps.empty()) std::swap(b.maps[to], b.maps[from]);
      }
      ++kept;
    }
    if (kept != b.size) b.resize(kept, !b.maps.empty());
  }

  dataset const* set_;
  loader_options options_;
  sample_transform transform_;
  std::pmr::memory_resource* raw_ = nullptr;  ///< of raw pictures; null where they are finished here
  raw_decoder* decoder_ = nullptr;            ///< of those that are left encoded
  double seconds_decoder_ = 0;                ///< that next() was in decode_encoded
  mutable detail::loading_clock clock_;
  epoch_batches cut_;
  std::uint32_t epoch_ = 0;
  std::vector<std::uint32_t> order_;  ///< training only
  std::vector<std::size_t> own_;      ///< numbers of the batches that this process reads
  std::set<std::size_t> bad_;
  std::optional<file_error> last_bad_, fatal_;
  std::unique_ptr<detail::batch_queue, detail::batch_queue::release> queue_;  ///< last: its threads use the rest
};

}  // namespace dm2
