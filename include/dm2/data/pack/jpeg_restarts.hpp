/// @file
/// JPEGs written anew through libjpeg: the same coefficients with restart markers, or other pixels.
#pragma once

#ifdef DM2_WITH_JPEG

#include <dm2/core/error.hpp>
#include <dm2/data/decode/jpeg.hpp>
#include <dm2/data/picture.hpp>

#include <array>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace dm2::detail {

/// libjpeg's state for a file that is written to memory. Errors leave libjpeg as in jpeg_reader: by longjmp to run(),
/// over frames without destructors.
class jpeg_writer {
 public:
  jpeg_compress_struct info{};

  explicit jpeg_writer(std::filesystem::path const& name) : name_{name} {
    info.err = jpeg_std_error(&errors_);
    errors_.error_exit = fail;
    errors_.emit_message = [](j_common_ptr, int) {};
    info.client_data = this;
    run([this] { jpeg_create_compress(&info); });
    target_.init_destination = [](j_compress_ptr c) { self(c).offer(0); };
    target_.empty_output_buffer = [](j_compress_ptr c) -> boolean {
      self(c).offer(self(c).out_.size());
      return TRUE;
    };
    target_.term_destination = [](j_compress_ptr c) {
      self(c).out_.resize(self(c).out_.size() - c->dest->free_in_buffer);
    };
    info.dest = &target_;
  }
  jpeg_writer(jpeg_writer const&) = delete;
  jpeg_writer& operator=(jpeg_writer const&) = delete;
  ~jpeg_writer() { jpeg_destroy_compress(&info); }

  /// Calls step(); throws file_error with libjpeg's message if libjpeg gives up inside.
  template <class Step>
  void run(Step const& step) {
    if (!completes(step)) throw file_error{name_, std::string{"JPEG: "} + message_.data()};
  }
  /// The file, after jpeg_finish_compress.
  [[nodiscard]] std::vector<std::byte> take() { return std::move(out_); }

 private:
  template <class Step>
  bool completes(Step const& step) {
    if (setjmp(jump_) != 0) return false;
    step();
    return true;
  }
  static jpeg_writer& self(j_compress_ptr c) { return *static_cast<jpeg_writer*>(c->client_data); }
  [[noreturn]] static void fail(j_common_ptr info) {
    auto& writer = *static_cast<jpeg_writer*>(info->client_data);
    info->err->format_message(info, writer.message_.data());
    std::longjmp(writer.jump_, 1);
  }
  /// Lets libjpeg write on behind `used` bytes.
  void offer(std::size_t used) {
    std::size_t const more = used == 0 ? std::size_t{1} << 16 : used;
    if (!grow(used + more)) {
      std::snprintf(message_.data(), message_.size(), "memory ran out");
      std::longjmp(jump_, 1);
    }
    target_.next_output_byte = reinterpret_cast<JOCTET*>(out_.data()) + used;
    target_.free_in_buffer = more;
  }
  /// Whether there was memory: nothing may be thrown through libjpeg.
  bool grow(std::size_t size) noexcept {
    try {
      out_.resize(size);
      return true;
    } catch (...) {
      return false;
    }
  }

  std::filesystem::path const& name_;
  jpeg_error_mgr errors_{};
  jpeg_destination_mgr target_{};
  std::jmp_buf jump_{};
  std::array<char, JMSG_LENGTH_MAX> message_{};
  std::vector<std::byte> out_;
};

/// A JPEG with the coefficients of another one, as one baseline scan with a restart marker after each row of blocks and
/// Huffman tables made for it. What is no pixel is left out: profiles, EXIF, comments, what stands behind the end.
///
/// Throws   file_error naming `name`, where libjpeg cannot read or write it, or warns of damage.
[[nodiscard]] inline std::vector<std::byte> with_restarts(std::span<std::byte const> file,
                                                          std::filesystem::path const& name,
                                                          decode_options const& options) {
  jpeg_reader from{file, name, options.max_scans};
  read_jpeg_header(from, file.size(), name, options);
  jvirt_barray_ptr* coefficients = nullptr;
  from.run([&] { coefficients = jpeg_read_coefficients(&from.info); });
  if (coefficients == nullptr) throw file_error{name, "JPEG file is truncated"};
  if (from.damaged()) throw file_error{name, std::string{"JPEG: "} + from.message()};
  jpeg_writer to{name};
  // arrays of coefficients are read while they are written: an error of either leaves by its own way, and both last
  from.run([&] {
    to.run([&] {
      jpeg_copy_critical_parameters(&from.info, &to.info);
      to.info.restart_in_rows = 1;
      to.info.optimize_coding = TRUE;
      jpeg_write_coefficients(&to.info, coefficients);
      jpeg_finish_compress(&to.info);
    });
  });
  return to.take();
}

/// A picture as a JPEG of that quality, 1 to 100: chroma at half the sides, a restart marker after each row of blocks.
/// Throws shape_error where p has no pixel, file_error naming `name` where libjpeg refuses it (a side over 65,500).
[[nodiscard]] inline std::vector<std::byte> encode_jpeg(picture const& p, int quality,
                                                        std::filesystem::path const& name) {
  require_picture("encode_jpeg", p);
  jpeg_writer to{name};
  to.run([&] {
    jpeg_compress_struct& c = to.info;
    c.image_height = static_cast<JDIMENSION>(p.height);
    c.image_width = static_cast<JDIMENSION>(p.width);
    c.input_components = 3;
    c.in_color_space = JCS_RGB;
    jpeg_set_defaults(&c);
    jpeg_set_quality(&c, quality, TRUE);
    c.restart_in_rows = 1;
    c.optimize_coding = TRUE;
    jpeg_start_compress(&c, TRUE);
    while (c.next_scanline < c.image_height) {
      JSAMPROW row = const_cast<JSAMPROW>(p.row(static_cast<int>(c.next_scanline)));
      jpeg_write_scanlines(&c, &row, 1);
    }
    jpeg_finish_compress(&c);
  });
  return to.take();
}

}  // namespace dm2::detail

#endif  // DM2_WITH_JPEG
