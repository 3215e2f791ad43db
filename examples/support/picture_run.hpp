/// @file
/// A model over a list of picture files: threads read a batch while the one before is computed.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/encoded_picture.hpp>
#include <dm2/data/image_folder.hpp>
#include <dm2/data/pack/packed_set.hpp>
#include <dm2/data/picture_bytes.hpp>
#include <dm2/data/raw_pictures.hpp>
#include <dm2/data/sample_transform.hpp>
#include <dm2/data/transform.hpp>
#include <dm2/run/classifier.hpp>

#include "device_pictures.hpp"
#include "reading_threads.hpp"
#include "text.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <exception>
#include <filesystem>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace dm2::example {

/// A picture file or a packed set's record, or why it cannot be read.
struct picture_entry {
  std::filesystem::path path;
  std::string error;
  std::shared_ptr<packed_set const> set{};  ///< null for a file
  std::size_t record = 0;

  /// The encoded picture. Throws file_error where it cannot be read.
  [[nodiscard]] picture_bytes open() const { return set ? picture_bytes{set, record} : picture_bytes{path}; }
};

/// What an exception says of a picture, with the picture's name in front.
[[nodiscard]] inline std::string reason(std::filesystem::path const& picture, std::exception const& problem) {
  if (dynamic_cast<file_error const*>(&problem) != nullptr) return problem.what();
  if (dynamic_cast<std::bad_alloc const*>(&problem) != nullptr ||
      dynamic_cast<std::length_error const*>(&problem) != nullptr)
    return picture.string() + ": memory ran out";
  if (auto const* const system = dynamic_cast<std::filesystem::filesystem_error const*>(&problem))
    return (system->path1().empty() ? picture : system->path1()).string() + ": " + system->code().message();
  return picture.string() + ": " + problem.what();
}

/// The pictures that the paths name, folders and packed sets opened. A path that cannot be is an entry with an error.
[[nodiscard]] inline std::vector<picture_entry> gather_pictures(std::span<std::filesystem::path const> paths) {
  std::vector<picture_entry> out;
  for (auto const& path : paths) {
    try {
      if (is_packed_set(path)) {
        auto const set = std::make_shared<packed_set const>(path);
        for (std::size_t i = 0; i < set->size(); ++i) out.push_back({set->path_of(i), "", set, i});
      } else {
        for (auto& picture : list_images(path)) out.push_back({std::move(picture), ""});
      }
    } catch (std::exception const& problem) {
      out.push_back({path, reason(path, problem)});
    }
  }
  return out;
}

/// Some entries in a row; those without an error, `good` of them, are in the classifier's buffer in this order.
struct picture_batch {
  std::size_t first = 0;  ///< number of the first entry in the whole list
  std::vector<picture_entry> entries;
  int good = 0;
};

/// How fast pictures went through.
struct run_speed {
  std::size_t pictures = 0;
  double seconds = 0;
  double waiting = 0;  ///< seconds of them in which the program waited for pictures to be read

  [[nodiscard]] double rate() const { return seconds > 0 ? double(pictures) / seconds : 0; }
  [[nodiscard]] double waiting_share() const { return seconds > 0 ? waiting / seconds : 0; }
  /// "1,234 pictures in 1.2 s, 1028.3/s, 12 % of the time waiting for data"
  [[nodiscard]] std::string text() const {
    std::array<char, 96> numbers;
    std::snprintf(numbers.data(), numbers.size(), " in %.2f s, %.1f/s, %.0f %% of the time waiting for data", seconds,
                  rate(), 100 * waiting_share());
    return counted(pictures, "picture") + numbers.data();
  }
};

/// Where a batch's pictures go: finished bytes, or raw ones.
class batch_memory {
 public:
  /// The next batch's of `net`: raw where the model's device finishes pictures and is to.
  batch_memory(run::classifier& net, device_pictures on_device)
      : crop_{net.crop()},
        raw_{on_device.finishes ? net.raw_staging() : nullptr},
        decoder_{raw_ != nullptr && on_device.decodes ? net.decoder() : nullptr} {
    if (raw_ == nullptr) bytes_ = net.staging();
  }
  [[nodiscard]] bool is_raw() const { return raw_ != nullptr; }
  /// Hands the first `count` pictures over.
  void submit(run::classifier& net, int count) const {
    if (raw_ != nullptr)
      net.submit_raw(*raw_, count);
    else
      net.submit(count);
  }
  /// Has the device decode what was left encoded; returns the places that it could not.
  [[nodiscard]] std::span<int const> decode() const {
    return decoder_ == nullptr ? std::span<int const>{} : decoder_->decode(*raw_);
  }
  /// The evaluation's pixels of a picture, in place i, or what leads to them. `decoded`: the device is not to decode
  /// it. Throws as evaluation_transform.
  void put(std::size_t i, encoded_picture& encoded, bool decoded) const {
    if (raw_ != nullptr)
      return evaluation_transform(encoded, crop_, evaluation_resize(crop_), imagenet_normalisation,
                                  raw_place{*raw_, int(i), decoder_ != nullptr && !decoded});
    picture const p = evaluation_transform(encoded, crop_);
    std::copy(p.pixels.begin(), p.pixels.end(), place(i));
  }
  /// Picture `to` becomes picture `from`.
  void move(std::size_t from, std::size_t to) const {
    if (raw_ != nullptr)
      raw_->move(from, to);
    else
      std::copy_n(place(from), each(), place(to));
  }

 private:
  [[nodiscard]] std::size_t each() const { return 3 * std::size_t(crop_.height) * std::size_t(crop_.width); }
  [[nodiscard]] std::span<std::uint8_t>::iterator place(std::size_t i) const {
    return bytes_.begin() + std::ptrdiff_t(i * each());
  }

  image_extent crop_;
  raw_pictures* raw_;
  raw_decoder* decoder_;
  std::span<std::uint8_t> bytes_;
};

/// A batch that threads are reading.
class batch_reading {
 public:
  /// Has `threads`, which outlive it as `decoding` does, read the entries, from number `first` on into `to`.
  batch_reading(reading_threads& threads, std::span<picture_entry const> entries, std::size_t first,
                decode_options const& decoding, batch_memory const& to)
      : threads_{threads}, decoding_{decoding}, out_{first, {entries.begin(), entries.end()}, 0}, memory_{to} {
    list_ = threads.start(entries.size(), [this](std::size_t i) { read(i, false); });
  }
  batch_reading(batch_reading const&) = delete;
  batch_reading& operator=(batch_reading const&) = delete;
  /// Waits for the threads.
  ~batch_reading() { threads_.wait(*list_); }

  /// Waits until all are read and, where the device decodes, decoded.
  void wait() {
    threads_.wait(*list_);
    for (int const i : memory_.decode()) read(std::size_t(i), true);
  }
  /// The entries, the bad ones' gaps among their pictures closed; call it once, after wait().
  [[nodiscard]] picture_batch take() {
    for (std::size_t i = 0; i < out_.entries.size(); ++i) {
      if (!out_.entries[i].error.empty()) continue;
      std::size_t const at = std::size_t(out_.good++);
      if (at != i) memory_.move(i, at);
    }
    return std::move(out_);
  }
  [[nodiscard]] batch_memory const& memory() const { return memory_; }

 private:
  void read(std::size_t i, bool decoded) {
    picture_entry& entry = out_.entries[i];
    if (!entry.error.empty()) return;
    try {
      picture_bytes const file = entry.open();
      encoded_picture encoded{file.bytes(), file.name(), decoding_};
      memory_.put(i, encoded, decoded);
    } catch (std::exception const& problem) {
      entry.error = reason(entry.path, problem);
    }
  }

  reading_threads& threads_;
  decode_options const& decoding_;
  picture_batch out_;
  batch_memory memory_;
  std::shared_ptr<reading_threads::list> list_;
};

/// Runs the model over the entries in batches of up to `batch`, in their order, and calls
/// use(picture_batch const&, run::batch_results const&) after each, with results of the good ones.
///
/// `decoding` are the limits that pictures are held against. `on_device`: what a device that can does to the pictures.
///
/// Three batches are in hand: one whose results are used, one that is computed, one that is read; of raw ones, two are
/// read, so that no thread waits for the others at a batch's end.
template <class Use>
run_speed run_pictures(run::classifier& net, std::span<picture_entry const> entries, int batch, int workers,
                       Use const& use, decode_options const& decoding = {}, device_pictures on_device = {}) {
  using clock = std::chrono::steady_clock;
  auto const begin = clock::now();
  run_speed speed;
  std::size_t next = 0;
  reading_threads threads{workers};
  std::deque<std::unique_ptr<batch_reading>> readings;
  auto const read_ahead = [&] {
    while (next < entries.size() &&
           (readings.empty() || (readings.size() < 2 && readings.front()->memory().is_raw()))) {
      auto const own = entries.subspan(next, std::min(std::size_t(batch), entries.size() - next));
      readings.push_back(std::make_unique<batch_reading>(threads, own, next, decoding, batch_memory{net, on_device}));
      next += own.size();
    }
  };
  std::optional<picture_batch> computed;
  auto const finish = [&] {
    if (!computed) return;
    use(*computed, computed->good > 0 ? net.take() : run::batch_results{});
    speed.pictures += std::size_t(computed->good);
  };
  for (read_ahead(); !readings.empty();) {
    auto const asked = clock::now();
    readings.front()->wait();
    speed.waiting += std::chrono::duration<double>(clock::now() - asked).count();
    picture_batch now = readings.front()->take();
    if (now.good > 0) readings.front()->memory().submit(net, now.good);
    readings.pop_front();
    read_ahead();
    finish();
    computed = std::move(now);
  }
  finish();
  speed.seconds = std::chrono::duration<double>(clock::now() - begin).count();
  return speed;
}

}  // namespace dm2::example
