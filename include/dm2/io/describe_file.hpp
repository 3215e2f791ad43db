/// @file
/// Guesses an unexpected file's format by its first bytes, for messages.
#pragma once

#include <dm2/io/bytes.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>

namespace dm2::detail {

/// A format, and the bytes at some place of its files.
struct file_signature {
  std::size_t at;
  std::string_view bytes, name;
};

namespace file_formats {
using namespace std::string_view_literals;
inline constexpr std::array known{
    // what takes the place of a file that is not there
    file_signature{0, "version https://git-lfs.github.com/spec/"sv,
                   "a git LFS pointer: the file itself was not downloaded (git lfs pull)"sv},
    // pictures
    file_signature{0, "\xff\xd8\xff"sv, "a JPEG picture"sv},
    file_signature{0, "\x89PNG\r\n\x1a\n"sv, "a PNG picture"sv}, file_signature{8, "WEBP"sv, "a WebP picture"sv},
    file_signature{0, "GIF8"sv, "a GIF picture"sv}, file_signature{0, "II*\0"sv, "a TIFF picture"sv},
    file_signature{0, "MM\0*"sv, "a TIFF picture"sv}, file_signature{4, "ftypavi"sv, "an AVIF picture"sv},
    file_signature{4, "ftyphe"sv, "a HEIC picture"sv}, file_signature{4, "ftypmif1"sv, "a HEIF picture"sv},
    file_signature{4, "ftypmsf1"sv, "a HEIF picture"sv}, file_signature{4, "ftyp"sv, "a video (MP4 or its like)"sv},
    file_signature{0, "\0\0\0\x0cJXL \r\n"sv, "a JPEG XL picture"sv},
    file_signature{0, "\xff\x0a"sv, "a JPEG XL picture"sv},
    file_signature{0, "\0\0\0\x0cjP  \r\n"sv, "a JPEG 2000 picture"sv},
    file_signature{0, "8BPS"sv, "a Photoshop picture"sv}, file_signature{0, "\0\0\1\0"sv, "an icon (ICO)"sv},
    file_signature{0, "qoif"sv, "a QOI picture"sv}, file_signature{0, "DDS "sv, "a DDS texture"sv},
    // tensors
    file_signature{0, "GGUF"sv, "a GGUF model"sv},
    file_signature{0, "\x89HDF\r\n\x1a\n"sv, "an HDF5 file, as Keras writes them"sv},
    file_signature{0, "\x93NUMPY"sv, "a NumPy array (.npy)"sv},
    file_signature{4, "TFL3"sv, "a TensorFlow Lite model"sv}, file_signature{0, "MATLAB "sv, "a MATLAB file"sv},
    // archives
    file_signature{0, "PK\3\4"sv, "a zip archive"sv}, file_signature{0, "PK\5\6"sv, "an empty zip archive"sv},
    file_signature{257, "ustar"sv, "a tar archive: unpack it first"sv},
    file_signature{0, "\x1f\x8b"sv, "compressed by gzip: unpack it first"sv},
    file_signature{0, "BZh"sv, "compressed by bzip2: unpack it first"sv},
    file_signature{0, "\xfd\x37zXZ\0"sv, "compressed by xz: unpack it first"sv},
    file_signature{0, "\x28\xb5\x2f\xfd"sv, "compressed by zstd: unpack it first"sv},
    file_signature{0, "7z\xbc\xaf\x27\x1c"sv, "a 7z archive"sv}, file_signature{0, "Rar!"sv, "a RAR archive"sv},
    // others
    file_signature{0, "%PDF"sv, "a PDF document"sv}, file_signature{0, "SQLite format 3"sv, "an SQLite database"sv},
    file_signature{0, "PAR1"sv, "a Parquet table"sv}, file_signature{1, "ELF"sv, "a program or library"sv}};
}  // namespace file_formats

/// The name of the format whose signature the file has; empty where none is known.
[[nodiscard]] constexpr std::string_view signed_format(std::string_view file) noexcept {
  for (file_signature const& s : file_formats::known)
    if (file.size() >= s.at && file.substr(s.at).starts_with(s.bytes)) return s.name;
  return {};
}

/// Whether `text`, less the white space before it, begins with `word` (small letters), in any case.
[[nodiscard]] constexpr bool begins_like(std::string_view text, std::string_view word) noexcept {
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  while (!text.empty() && std::string_view{" \t\r\n"}.find(text.front()) != std::string_view::npos)
    text.remove_prefix(1);
  if (text.size() < word.size()) return false;
  for (std::size_t i = 0; i < word.size(); ++i) {
    char const c = text[i];
    if ((c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c) != word[i]) return false;
  }
  return true;
}

/// "an HTML page", or the text's first line, where all of `head` can be read; empty where it is no text.
[[nodiscard]] inline std::string text_kind(std::string_view head, std::string_view all) {
  using namespace std::string_view_literals;
  for (auto const& [word, name] : {std::pair{"<!doctype html"sv, "an HTML page, as servers send in place of a file"sv},
                                   std::pair{"<html"sv, "an HTML page, as servers send in place of a file"sv},
                                   std::pair{"<svg"sv, "an SVG drawing"sv}, std::pair{"<?xml"sv, "an XML file"sv}})
    if (begins_like(head, word)) return std::string{name};
  bool const readable = std::all_of(head.begin(), head.end(), [](char c) {
    return static_cast<unsigned char>(c) >= 0x20 || c == '\n' || c == '\r' || c == '\t';
  });
  if (head.empty() || !readable) return {};
  if (begins_like(head, "{") || begins_like(head, "["))
    return all.find("\"weight_map\"") != all.npos
               ? "the index of a model in several parts: the tensors are in the parts"
               : "JSON text";
  std::string line{head.substr(0, std::min(head.find_first_of("\r\n"), std::size_t{40}))};
  while (!line.empty() && !is_utf8(line) && line.size() > 36) line.pop_back();  // a character that was cut
  return is_utf8(line) ? "text: '" + line + "'" : std::string{};
}

/// " (it is a WebP picture)", or what the file begins with where that is not known.
[[nodiscard]] inline std::string described(std::span<std::byte const> file) {
  std::string_view const all = as_text(file);
  if (std::string_view const name = signed_format(all); !name.empty()) return " (it is " + std::string{name} + ")";
  if (all.ends_with("\x57\xfb\x80\x8b\x24\x75\x47\xdb")) return " (it is the index of a TensorFlow checkpoint)";
  std::string_view const head = all.substr(0, 256);
  if (head.size() > 3 && head[0] == '\x08' && head[1] < 0x20 && head[2] == '\x12' &&
      (head.find("onnx") != head.npos || head.find("pytorch") != head.npos || head.substr(4, 3) == "dm2"))
    return " (it is an ONNX model)";
  if (!file.empty() && std::all_of(file.begin(), file.end(), [](std::byte b) { return b == std::byte{0}; }))
    return " (it is nothing but zeros)";
  if (std::string const text = text_kind(head, all.substr(0, 1 << 20)); !text.empty()) return " (it is " + text + ")";
  if (all.starts_with("BM")) return " (it is a BMP picture)";
  constexpr char const* digits = "0123456789abcdef";
  std::string out = " (it begins with";
  for (std::byte const b : file.first(std::min<std::size_t>(4, file.size()))) {
    out += ' ';
    out += digits[std::to_integer<unsigned>(b) >> 4];
    out += digits[std::to_integer<unsigned>(b) & 15];
  }
  return out + ")";
}

}  // namespace dm2::detail
