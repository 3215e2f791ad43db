/// @file
/// A picture that is not decoded yet: its size, and any part of it.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/decode.hpp>
#include <dm2/data/decode/jpeg_streams.hpp>
#include <dm2/data/picture.hpp>
#include <dm2/data/resize.hpp>

#ifdef DM2_WITH_JPEG
#include <dm2/data/decode/jpeg_part.hpp>
#endif

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>

namespace dm2 {

/// A JPEG or PNG in memory. Of a JPEG's part only what it needs is decoded: no row below it, and of the others' pixels
/// those in it, where the file's layout lets that be done with the whole picture's pixels (detail::has_exact_parts).
/// Other pictures are decoded whole, and the part is cut out.
///
/// The bytes have to outlive it. One thread at a time may use it.
class encoded_picture {
 public:
  /// Reads a JPEG's header; decodes other pictures. Messages call it `name`.
  /// Throws  file_error as decode_image does, for what the header tells.
  encoded_picture(std::span<std::byte const> file, std::filesystem::path name, decode_options const& options = {})
      : file_{file}, name_{std::move(name)}, options_{options} {
    guarded([&] { open(); });
  }
  encoded_picture(encoded_picture const&) = delete;
  encoded_picture& operator=(encoded_picture const&) = delete;

  /// Rows.
  [[nodiscard]] int height() const noexcept { return height_; }
  /// Columns.
  [[nodiscard]] int width() const noexcept { return width_; }
  /// How messages call it.
  [[nodiscard]] std::filesystem::path const& name() const noexcept { return name_; }

  /// decode_image of the bytes. Throws file_error as that does.
  [[nodiscard]] picture whole() {
    return guarded([&] { return decode_whole(); });
  }
  /// The pixels in `box`, equal to those of whole(); it takes memory for the box, and for a progressive JPEG's
  /// coefficients.
  ///
  /// Throws   shape_error if the box is empty or leaves the picture; file_error as decode_image does, but that damage
  ///          below a JPEG's part is not seen.
  [[nodiscard]] picture part(pixel_box box) {
    detail::require_box("encoded_picture::part", box, height_, width_);
    return guarded([&] { return decode_part(box); });
  }
  /// The same, written to `out`, [box.height, box.width, 3] bytes. Where it throws, `out` holds anything.
  void part_into(pixel_box box, std::uint8_t* out) {
    detail::require_box("encoded_picture::part_into", box, height_, width_);
    guarded([&] { decode_part_into(box, out); });
  }
  /// A JPEG for a device that decodes it to the pixels of whole(); nothing where the host has to: another format, a
  /// JPEG of another kind (detail::device_jpeg_of), one without its end marker. Before whole() and the others.
  [[nodiscard]] std::optional<device_jpeg> for_device() const {
#if defined(DM2_WITH_JPEG) && defined(LIBJPEG_TURBO_VERSION_NUMBER)
    if (jpeg_ && detail::ends_with_marker(file_)) return detail::device_jpeg_of(jpeg_->info);
#endif
    return std::nullopt;
  }
  /// Seconds that it has been decoding.
  [[nodiscard]] double seconds_decoding() const noexcept { return std::chrono::duration<double>(decoding_).count(); }

 private:
  /// Adds its lifetime to a duration.
  class timed {
   public:
    explicit timed(std::chrono::steady_clock::duration& sum) : sum_{sum} {}
    timed(timed const&) = delete;
    timed& operator=(timed const&) = delete;
    ~timed() { sum_ += std::chrono::steady_clock::now() - begin_; }

   private:
    std::chrono::steady_clock::duration& sum_;
    std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  };

  /// f(), timed, and with memory that runs out told as decode_image tells it.
  template <class F>
  auto guarded(F const& f) -> decltype(f()) {
    timed const watch{decoding_};
    try {
      return f();
    } catch (std::bad_alloc const&) {
      throw file_error{name_, "memory ran out" + detail::announced_size(file_)};
    } catch (std::length_error const&) {
      throw file_error{name_, "memory ran out" + detail::announced_size(file_)};
    }
  }
  void keep(picture p) {
    decoded_ = std::make_unique<picture>(std::move(p));
    height_ = decoded_->height;
    width_ = decoded_->width;
  }
  [[nodiscard]] picture taken() {
    if (!decoded_) return decode_image(file_, name_, options_);
    return std::move(*std::exchange(decoded_, nullptr));
  }
  [[nodiscard]] bool is_whole(pixel_box box) const noexcept { return box.height == height_ && box.width == width_; }

#ifdef DM2_WITH_JPEG
  void open() {
    if (sniff_format(file_) != picture_format::jpeg) return keep(decode_image(file_, name_, options_));
    jpeg_ = opened();
    height_ = static_cast<int>(jpeg_->info.image_height);
    width_ = static_cast<int>(jpeg_->info.image_width);
  }
  [[nodiscard]] std::unique_ptr<detail::jpeg_reader> opened() const {
    auto reader = std::make_unique<detail::jpeg_reader>(file_, name_, options_.max_scans);
    detail::read_jpeg_header(*reader, file_.size(), name_, options_);
    return reader;
  }
  /// The reader behind its header and libjpeg's preparations, for one picture or part.
  [[nodiscard]] std::unique_ptr<detail::jpeg_reader> started() {
    auto reader = jpeg_ ? std::move(jpeg_) : opened();
    detail::start_jpeg(*reader, name_);
    return reader;
  }
  [[nodiscard]] picture decode_whole() {
    if (sniff_format(file_) != picture_format::jpeg) return taken();
    auto const reader = started();
    return detail::read_jpeg_picture(*reader, file_.size(), name_, options_);
  }
  [[nodiscard]] picture decode_part(pixel_box box) {
    if (sniff_format(file_) != picture_format::jpeg || is_whole(box)) return cut(decode_whole(), box);
    auto const reader = started();
#ifdef LIBJPEG_TURBO_VERSION_NUMBER
    if (detail::ends_with_marker(file_) && detail::has_exact_parts(reader->info))
      return detail::read_jpeg_part(*reader, box, name_, options_);
#endif
    return cut(detail::read_jpeg_picture(*reader, file_.size(), name_, options_), box);
  }
  void decode_part_into(pixel_box box, std::uint8_t* out) {
#ifdef LIBJPEG_TURBO_VERSION_NUMBER
    if (sniff_format(file_) == picture_format::jpeg && detail::ends_with_marker(file_)) {
      auto const reader = started();
      if (detail::has_exact_parts(reader->info) && !is_whole(box))
        return detail::read_jpeg_part(*reader, box, name_, options_, out);
      if (is_whole(box)) return detail::read_jpeg_whole(*reader, name_, options_, out);
      return copy_out(cut(detail::read_jpeg_picture(*reader, file_.size(), name_, options_), box), out);
    }
#endif
    copy_out(decode_part(box), out);
  }
#else
  void open() { keep(decode_image(file_, name_, options_)); }
  [[nodiscard]] picture decode_whole() { return taken(); }
  [[nodiscard]] picture decode_part(pixel_box box) { return cut(taken(), box); }
  void decode_part_into(pixel_box box, std::uint8_t* out) { copy_out(decode_part(box), out); }
#endif

  [[nodiscard]] picture cut(picture p, pixel_box box) const {
    return is_whole(box) ? std::move(p) : detail::copy_box(p, box);
  }

  static void copy_out(picture const& p, std::uint8_t* out) { std::copy(p.pixels.begin(), p.pixels.end(), out); }

  std::span<std::byte const> file_;
  std::filesystem::path name_;
  decode_options options_;
  int height_ = 0, width_ = 0;
  std::chrono::steady_clock::duration decoding_{};
  std::unique_ptr<picture> decoded_;
#ifdef DM2_WITH_JPEG
  std::unique_ptr<detail::jpeg_reader> jpeg_;  ///< behind its header; null once it is used
#endif
};

}  // namespace dm2
