/// @file
/// A cached shared object, followed by a statement of its contents.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/crc32c.hpp>
#include <dm2/run/hash64.hpp>
#include <dm2/run/private_folder.hpp>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dm2::run {

/// What an entry of the cache says of itself.
struct entry_statement {
  std::string title;         ///< for people, one line
  std::string identity;      ///< the whole text of what the object depends on
  std::uint64_t bytes = 0;   ///< of the shared object, without the statement
  std::uint32_t crc32c = 0;  ///< of those bytes
  std::int64_t made = 0;     ///< seconds since 1970
  std::int64_t took_ms = 0;  ///< milliseconds that compiling took
};

/// A file as the cache finds it: whole, missing, or with a problem for which it is made again.
struct found_entry {
  /// Whether it can be loaded.
  enum class kind { whole, missing, bad };
  kind state = kind::missing;  ///< of the file
  entry_statement statement;   ///< of a whole one
  std::string problem;         ///< of a bad one, a sentence's end: "is damaged: ..."
};

namespace detail {

/// The file's last bytes: this, the statement's length and its CRC-32C, eight digits each, and a line's end. A loader
/// reads what the object's headers lead to, and nothing behind it. Another format has another number here.
inline constexpr std::string_view entry_mark = "\ndm2 model, format 1: ";
inline constexpr std::size_t entry_footer_bytes = entry_mark.size() + 8 + 1 + 8 + 1;
inline constexpr std::uint64_t most_statement_bytes = std::uint64_t{1} << 20;

[[nodiscard]] inline std::string digits(std::uint32_t value) { return hash_text(value).substr(8); }

[[nodiscard]] inline std::uint32_t crc32c_of(std::string_view text) {
  return dm2::detail::crc32c(std::as_bytes(std::span{text}));
}

[[nodiscard]] inline std::string footer_text(std::uint32_t length, std::uint32_t crc) {
  return std::string{entry_mark} + digits(length) + ' ' + digits(crc) + '\n';
}

/// The text behind an object: a line a field, the identity byte by byte, the footer.
[[nodiscard]] inline std::string statement_text(entry_statement const& s) {
  std::string title = s.title;
  for (char& c : title)
    if (c == '\n') c = ' ';
  std::string text = "title " + title + "\nbytes " + std::to_string(s.bytes) + "\ncrc32c " + std::to_string(s.crc32c) +
                     "\nmade " + std::to_string(s.made) + "\ntook_ms " + std::to_string(s.took_ms) + "\nidentity\n" +
                     s.identity;
  return text + footer_text(std::uint32_t(text.size()), crc32c_of(text));
}

/// A number of which nothing is left over.
template <class T>
[[nodiscard]] bool parse_number(std::string_view text, T& value, int base = 10) {
  auto const [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  return problem == std::errc{} && end == text.data() + text.size();
}

/// Takes a statement's text, without the footer, apart; false where a field is missing or no number.
[[nodiscard]] inline bool parse_statement(std::string_view text, entry_statement& s) {
  auto const field = [&text](std::string_view name) -> std::string_view {
    std::size_t const end = text.find('\n');
    if (end == text.npos || !text.starts_with(name)) return {};
    std::string_view const value = text.substr(name.size(), end - name.size());
    text.remove_prefix(end + 1);
    return value;
  };
  s.title = field("title ");
  bool const numbers = parse_number(field("bytes "), s.bytes) && parse_number(field("crc32c "), s.crc32c) &&
                       parse_number(field("made "), s.made) && parse_number(field("took_ms "), s.took_ms);
  if (!numbers || !text.starts_with("identity\n")) return false;
  s.identity = text.substr(9);
  return true;
}

/// Length and CRC-32C of the statement, as the footer has them.
[[nodiscard]] inline bool parse_footer(std::string_view footer, std::uint32_t& length, std::uint32_t& crc) {
  return parse_number(footer.substr(entry_mark.size(), 8), length, 16) &&
         parse_number(footer.substr(entry_mark.size() + 9, 8), crc, 16) && footer == footer_text(length, crc);
}

/// The CRC-32C of a file's first `bytes` bytes; false where it has fewer or cannot be read.
[[nodiscard]] inline bool checksum(descriptor const& file, std::uint64_t bytes, std::uint32_t& crc) {
  std::vector<char> part(std::size_t{1} << 18);  // 256 KiB stay in the processor's cache
  crc = 0;
  for (std::uint64_t at = 0; at < bytes;) {
    auto const now = std::span{part}.first(std::size_t(std::min<std::uint64_t>(part.size(), bytes - at)));
    if (!read_all(file, now, std::size_t(at))) return false;
    crc = dm2::detail::crc32c(std::as_bytes(now), crc);
    at += now.size();
  }
  return true;
}

/// What is wrong with a file that opened; empty where nothing is, and then `s` is its statement.
[[nodiscard]] inline std::string read_entry(descriptor const& file, entry_statement& s) {
  struct ::stat status {};
  if (::fstat(file.get(), &status) != 0) return "cannot be examined: " + system_message(errno);
  if (!S_ISREG(status.st_mode)) return "is no regular file";
  if (status.st_uid != ::geteuid()) return "belongs to user " + std::to_string(status.st_uid);
  if ((status.st_mode & others_write) != 0) return "may be written by others (mode " + mode_text(status.st_mode) + ")";
  auto const size = std::uint64_t(status.st_size);
  std::array<char, entry_footer_bytes> footer;
  std::uint32_t length = 0, crc = 0, found = 0;
  if (size < footer.size() || !read_all(file, footer, std::size_t(size - footer.size())) ||
      !parse_footer({footer.data(), footer.size()}, length, crc))
    return "is truncated, of another format or no model of dm2";
  if (length > most_statement_bytes || length + footer.size() > size) return "is damaged: its statement's length";
  std::string text(length, '\0');
  std::uint64_t const object = size - footer.size() - length;
  if (!read_all(file, text, std::size_t(object)) || crc32c_of(text) != crc || !parse_statement(text, s))
    return "is damaged: its statement";
  if (s.bytes != object)
    return "is damaged: it has " + std::to_string(object) + " bytes, not " + std::to_string(s.bytes);
  if (!checksum(file, object, found) || found != s.crc32c) return "is damaged: its checksum";
  return {};
}

}  // namespace detail

/// Reads an entry and checks every byte of it: 15 ms for 10 MB. Follows no link.
[[nodiscard]] inline found_entry find_entry(std::filesystem::path const& path) {
  found_entry out;
  detail::descriptor const file = detail::open_file(path, O_RDONLY);
  if (!file && errno == ENOENT) return out;
  out.problem = file             ? detail::read_entry(file, out.statement)
                : errno == ELOOP ? "is a link"
                                 : "cannot be opened: " + detail::system_message(errno);
  out.state = out.problem.empty() ? found_entry::kind::whole : found_entry::kind::bad;
  return out;
}

/// Puts a statement behind a shared object that was just made: its title, identity and milliseconds are taken from `s`,
/// the others are filled in. The bytes are on the disk afterwards, and the file is the user's alone. Throws file_error.
inline void state_entry(std::filesystem::path const& object, entry_statement& s, std::int64_t now) {
  detail::descriptor const file = detail::open_file(object, O_RDWR | O_APPEND);
  struct ::stat status {};
  if (!file || ::fstat(file.get(), &status) != 0)
    throw file_error{object, "the linker has left no file: " + detail::system_message(errno)};
  if (!S_ISREG(status.st_mode) || status.st_size == 0) throw file_error{object, "the linker has left an empty file"};
  s.bytes = std::uint64_t(status.st_size);
  s.made = now;
  if (!detail::checksum(file, s.bytes, s.crc32c)) throw file_error{object, "cannot be read"};
  detail::write_all(file, detail::statement_text(s), object);
  if (::fchmod(file.get(), 0600) != 0 || ::fsync(file.get()) != 0)
    throw file_error{object, "cannot be written: " + detail::system_message(errno)};
}

}  // namespace dm2::run
