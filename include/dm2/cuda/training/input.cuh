/// @file
/// A micro-batch on its way to the device.
///
/// Pictures, label maps, labels and the MixToken box.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/cuda/augment.cuh>
#include <dm2/cuda/check.cuh>
#include <dm2/cuda/device/memory.cuh>
#include <dm2/cuda/device/stream.cuh>
#include <dm2/cuda/label_maps.cuh>
#include <dm2/data/batch.hpp>
#include <dm2/train/token_label_target.hpp>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>

namespace dm2::cuda {

/// How targets are cut out of label maps.
struct target_options {
  int rows;               ///< patches down
  int cols;               ///< patches across
  double smoothing;       ///< as label_smoothing takes it
  crop_convention crops;  ///< how label maps are cut
};

/// Pinned memory for one micro-batch and its place on the device. Two of them let one be filled and copied while the
/// other is computed with.
class training_input {
 public:
  /// For batches of exactly `count` pictures of `numbers` floats.
  training_input(int count, std::size_t numbers, target_options const& options)
      : count_{std::size_t(count)},
        numbers_{numbers},
        options_{options},
        fixed_{planned_bytes<fixed_part>(count_)},
        device_pictures_{count_ * numbers_ * sizeof(float)},
        device_{fixed_.size()} {}

  /// Copies a batch into the pinned memory; waits until its last contents have been copied to the device. Label maps
  /// that are larger than any before take new memory, for which the device's work is waited for.
  void fill(batch const& b, mix_box box) {
    copied_.synchronize();
    fixed_part const host{fixed_.data(), count_};
    raw_ = b.is_raw();
    if (!raw_) {
      if (pictures_.size() == 0) pictures_ = pinned_memory{device_pictures_.size()};
      std::memcpy(pictures_.data(), b.pictures.data(), pictures_.size());
    }
    *host.box = box;
    std::size_t total = 0;
    side_ = 0;
    for (auto const& m : b.maps) {
      total += m.values.size();
      side_ = std::max({side_, m.height, m.width});
    }
    reserve_maps(total);
    float* const values = reinterpret_cast<float*>(maps_.data());
    std::size_t at = 0;
    for (std::size_t i = 0; i < count_; ++i) {
      int const label = b.labels[i];
      if (b.maps.empty()) {
        host.samples[i] = make_label_sample(label);
        continue;
      }
      label_map_data const& m = b.maps[i];
      host.samples[i] =
          make_label_sample(at, m.height, m.width, b.crops[i], label, options_.rows, options_.cols, options_.crops);
      std::memcpy(values + at, m.values.data(), m.values.size() * sizeof(float));
      at += m.values.size();
    }
    used_ = total;
  }

  /// Enqueues the copies to the device, after everything that computes with the earlier contents. The pictures of a raw
  /// batch, which may be used before that, are copied and finished by `augment`: `b` has to stay until the device has
  /// them (augmenter::wait_until_copied).
  void upload(batch const& b, augmenter& augment, cudaStream_t s) {
    if (!raw_) return upload(s);
    augment.copy(b.raw, s);
    computed_.make_wait(s);
    augment.finish(pictures(), s);
    upload_targets(s);
  }
  /// The same of a batch whose pictures are finished.
  void upload(cudaStream_t s) {
    computed_.make_wait(s);
    check(cudaMemcpyAsync(device_pictures_.data(), pictures_.data(), pictures_.size(), cudaMemcpyHostToDevice, s),
          "pictures: copy");
    upload_targets(s);
  }
  /// Later work in `s` finds the contents on the device.
  void make_wait(cudaStream_t s) const { copied_.make_wait(s); }
  /// What is in `s` now is the last that reads these contents.
  void release(cudaStream_t s) const { computed_.record(s); }

  /// [count, channels, height, width] on the device.
  [[nodiscard]] float* pictures() const { return reinterpret_cast<float*>(device_pictures_.data()); }
  /// The box on the device.
  [[nodiscard]] mix_box const* box() const { return device_part().box; }
  /// The label maps on the device, as token_label_loss takes them.
  [[nodiscard]] label_maps<float> maps() const {
    return {.values = reinterpret_cast<float const*>(device_maps_.data()),
            .samples = device_part().samples,
            .side = side_,
            .rows = options_.rows,
            .cols = options_.cols,
            .smoothing = options_.smoothing};
  }
  /// The pictures on the host, which are brought there where a device has finished them. Waits for the device then.
  [[nodiscard]] std::span<float const> host_pictures() {
    std::size_t const bytes = device_pictures_.size();
    if (pictures_.size() == 0) pictures_ = pinned_memory{bytes};
    if (raw_) {
      copied_.synchronize();
      check(cudaMemcpy(pictures_.data(), device_pictures_.data(), bytes, cudaMemcpyDeviceToHost),
            "pictures: copy back");
    }
    return {reinterpret_cast<float const*>(pictures_.data()), count_ * numbers_};
  }
  /// Bytes on the device.
  [[nodiscard]] std::size_t bytes() const { return device_.size() + device_pictures_.size() + device_maps_.size(); }

 private:
  /// All but the pictures.
  void upload_targets(cudaStream_t s) {
    check(cudaMemcpyAsync(device_.data(), fixed_.data(), fixed_.size(), cudaMemcpyHostToDevice, s), "batch: copy");
    if (used_ != 0)
      check(cudaMemcpyAsync(device_maps_.data(), maps_.data(), used_ * sizeof(float), cudaMemcpyHostToDevice, s),
            "label maps: copy");
    copied_.record(s);
  }
  /// What has the same size in every batch.
  struct fixed_part {
    label_sample* samples;
    mix_box* box;

    fixed_part(arena& a, std::size_t count) : samples{a.take<label_sample>(count)}, box{a.take<mix_box>(1)} {}
    fixed_part(std::byte* memory, std::size_t count)
        : fixed_part{arena{memory, planned_bytes<fixed_part>(count)}, count} {}

   private:
    fixed_part(arena&& a, std::size_t count) : fixed_part{a, count} {}
  };

  [[nodiscard]] fixed_part device_part() const { return {device_.data(), count_}; }

  void reserve_maps(std::size_t numbers) {
    if (numbers * sizeof(float) <= maps_.size()) return;
    computed_.synchronize();
    std::size_t const bytes = numbers * sizeof(float) * 5 / 4;
    maps_ = pinned_memory{bytes};
    device_maps_ = device_memory{bytes};
  }

  std::size_t count_, numbers_;
  target_options options_;
  pinned_memory fixed_, maps_, pictures_;
  device_memory device_pictures_, device_, device_maps_;
  event copied_, computed_;
  std::size_t used_ = 0;
  int side_ = 0;
  bool raw_ = false;  ///< whether a device finishes the pictures
};

}  // namespace dm2::cuda
