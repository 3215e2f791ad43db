/// @file
/// Walks a JPEG's markers before a trusting decoder sees the bytes.
/// Source: ITU-T T.81, annex B.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/decode/options.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace dm2::detail {

/// Walks the markers of a JPEG: every table that a scan names is there before the scan, every component is the frame's,
/// and the file leads through a scan to an end marker. Entropy-coded data are passed over.
///
/// Where data run out stb_image decodes zeros, and a table that nobody has defined it takes from memory that nobody has
/// written.
class jpeg_markers {
 public:
  jpeg_markers(std::span<std::byte const> file, std::filesystem::path const& name, decode_options const& options)
      : file_{file}, name_{name}, max_scans_{options.max_scans} {}

  /// Throws file_error naming the file and what is wrong.
  void check() {
    for (std::size_t at = 2; at + 1 < file_.size();) {
      unsigned const marker = byte(at + 1);
      if (byte(at) != 0xff || marker == 0xff) {  // entropy-coded data, or a fill byte
        ++at;
      } else if (marker == 0 || (marker >= 0xd0 && marker <= 0xd7)) {  // an escaped FF, or a restart
        at += 2;
      } else if (marker == 0xd9) {
        if (scans_ == 0) fail("has no picture in it");
        return;
      } else {
        std::size_t const length = at + 3 < file_.size() ? byte(at + 2) << 8 | byte(at + 3) : 0;
        if (length < 2 || length > file_.size() - at - 2) break;
        segment(marker, file_.subspan(at + 4, length - 2));
        at += 2 + length;
      }
    }
    throw file_error{name_, "JPEG file is truncated: it has no end marker"};
  }

 private:
  struct component {
    unsigned id, quantisation;
  };

  [[noreturn]] void fail(std::string const& reason) const { throw file_error{name_, "JPEG: " + reason}; }
  [[nodiscard]] unsigned byte(std::size_t at) const { return std::to_integer<unsigned>(file_[at]); }
  [[nodiscard]] static unsigned value(std::byte b) { return std::to_integer<unsigned>(b); }

  void segment(unsigned marker, std::span<std::byte const> content) {
    bool const frame = marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
    if (marker == 0xc4)
      huffman_tables(content);
    else if (marker == 0xdb)
      quantisation_tables(content);
    else if (frame)
      begin_frame(marker, content);
    else if (marker == 0xda)
      scan(content);
  }

  /// Each table: class and number, 16 counts, as many values as the counts say, at most one for each byte.
  void huffman_tables(std::span<std::byte const> s) {
    while (s.size() >= 17) {
      unsigned const kind = value(s[0]) >> 4, number = value(s[0]) & 15;
      std::size_t codes = 0;
      for (std::byte const count : s.subspan(1, 16)) codes += value(count);
      if (codes > 256 || s.size() - 17 < codes || kind > 1 || number > 3) break;
      huffman_[kind][number] = true;
      s = s.subspan(17 + codes);
    }
    if (!s.empty()) fail("a Huffman table is not valid");
  }
  /// Each table: precision and number, 64 values of one or two bytes.
  void quantisation_tables(std::span<std::byte const> s) {
    while (!s.empty()) {
      unsigned const wide = value(s[0]) >> 4, number = value(s[0]) & 15;
      std::size_t const size = wide == 0 ? 65 : 129;
      if (wide > 1 || number > 3 || s.size() < size) fail("a quantisation table is not valid");
      quantisation_[number] = true;
      s = s.subspan(size);
    }
  }
  /// Precision, height, width, and for each component its id, sampling and quantisation table.
  void begin_frame(unsigned marker, std::span<std::byte const> s) {
    if (!components_.empty()) fail("has more than one frame");
    std::size_t const count = s.size() < 6 ? 0 : value(s[5]);
    if (count == 0 || s.size() != 6 + 3 * count) fail("a frame's header is not valid");
    progressive_ = marker == 0xc2;
    for (std::size_t i = 0; i < count; ++i) {
      component const c{value(s[6 + 3 * i]), value(s[8 + 3 * i])};
      if (c.quantisation > 3) fail("a component names quantisation table " + std::to_string(c.quantisation));
      components_.push_back(c);
    }
  }
  /// A count, for each component its id and tables, and the spectral selection and successive approximation.
  void scan(std::span<std::byte const> s) {
    std::size_t const count = s.empty() ? 0 : value(s[0]);
    if (components_.empty()) fail("a scan begins before the frame");
    if (count < 1 || count > 4 || s.size() != 4 + 2 * count) fail("a scan's header is not valid");
    if (++scans_ > max_scans_) fail("more than " + std::to_string(max_scans_) + " scans");
    unsigned const first = value(s[1 + 2 * count]), approximation = value(s[3 + 2 * count]);
    for (std::size_t i = 0; i < count; ++i)
      scan_component(value(s[1 + 2 * i]), value(s[2 + 2 * i]), first, approximation);
  }
  void scan_component(unsigned id, unsigned tables, unsigned first, unsigned approximation) const {
    auto const found = std::find_if(components_.begin(), components_.end(), [id](auto const& c) { return c.id == id; });
    if (found == components_.end()) fail("a scan names component " + std::to_string(id) + ", which the frame lacks");
    if (!quantisation_[found->quantisation])
      fail("quantisation table " + std::to_string(found->quantisation) + " is named and not there");
    bool const direct = !progressive_ || (first == 0 && approximation >> 4 == 0),
               alternating = !progressive_ || first > 0;
    require_huffman(direct, 0, tables >> 4);
    require_huffman(alternating, 1, tables & 15);
  }
  void require_huffman(bool needed, std::size_t kind, unsigned number) const {
    if (number > 3 || (needed && !huffman_[kind][number]))
      fail("Huffman table " + std::to_string(number) + " is named by a scan and not there");
  }

  std::span<std::byte const> file_;
  std::filesystem::path const& name_;
  int max_scans_, scans_ = 0;
  std::array<std::array<bool, 4>, 2> huffman_{};
  std::array<bool, 4> quantisation_{};
  std::vector<component> components_;
  bool progressive_ = false;
};

}  // namespace dm2::detail
