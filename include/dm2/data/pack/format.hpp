/// @file
/// The layout of packed picture sets: what stands at which byte. docs/files.md describes it for other readers.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/bytes.hpp>
#include <dm2/io/crc32c.hpp>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace dm2 {

/// The version of the format that this library writes, and the only one that it reads.
inline constexpr std::uint32_t pack_version = 1;

/// The index's name in a set's folder: where it is, the set is whole.
inline constexpr char const* pack_index_name = "index.dm2set";

/// How a record's picture came from its file.
enum class packed_form : std::uint8_t {
  kept = 0,      ///< byte by byte
  restarts = 1,  ///< a JPEG with the file's coefficients and a restart marker after each row of blocks: the same pixels
  encoded = 2    ///< a JPEG of other pixels, smaller or of another quality
};

/// The limits of the format. Files beyond them are refused.
struct pack_limits {
  static constexpr std::uint64_t records = 0xFFFF'FFFF;                  ///< samples of a set
  static constexpr std::uint32_t classes = 1u << 24;                     ///< classes of a set
  static constexpr std::uint32_t shards = 1u << 20;                      ///< files beside the index
  static constexpr std::uint64_t record_bytes = std::uint64_t{1} << 30;  ///< of one picture
  static constexpr std::uint64_t text_bytes = std::uint64_t{1} << 36;    ///< of all names
  static constexpr std::size_t name_bytes = 4096;                        ///< of one name
};

namespace detail {

/// What an index begins with: 128 bytes.
struct pack_index_head {
  std::array<char, 8> magic{'d', 'm', '2', 'i', 'n', 'd', 'e', 'x'};
  std::uint32_t version = pack_version;
  std::uint32_t classes = 0;
  std::uint64_t records = 0;
  std::uint32_t shards = 0;
  std::uint32_t side = 0;     ///< the longest that a picture's shorter side can be; 0: as it was
  std::uint32_t quality = 0;  ///< of the JPEGs that were encoded anew; 0: none was
  std::uint32_t maps = 0;     ///< 1 where the set has label maps
  std::uint64_t identity = 0;
  std::uint64_t text = 0;   ///< bytes of all names
  std::uint64_t bytes = 0;  ///< of the whole file
  std::array<std::uint64_t, 7> reserved{};
  std::uint32_t body_crc = 0;  ///< of what follows the head
  std::uint32_t head_crc = 0;  ///< of the head up to here
};
static_assert(sizeof(pack_index_head) == 128);

/// A class: 16 bytes. Its records are those from `first` to the next class's.
struct pack_class {
  std::uint64_t first = 0;
  std::uint64_t text_end = 0;  ///< where its name ends in the text, and the next one begins
};
static_assert(sizeof(pack_class) == 16);

/// A shard as the index knows it: 32 bytes.
struct pack_shard {
  std::uint64_t bytes = 0;  ///< of the file
  std::uint64_t first = 0;  ///< record
  std::uint64_t table = 0;  ///< where its table begins
  std::uint32_t table_crc = 0;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(pack_shard) == 32);

/// A record: 64 bytes, in the index and, without the name, in its shard's table.
struct pack_record {
  std::uint64_t offset = 0;  ///< of the picture in its shard, a multiple of 8; its label map is at the next one
  std::uint32_t bytes = 0;   ///< of the picture
  std::uint32_t crc = 0;
  std::uint32_t height = 0;  ///< 0 where it could not be decoded
  std::uint32_t width = 0;
  std::uint32_t map_bytes = 0;  ///< 0 where there is none
  std::uint32_t map_crc = 0;
  std::uint32_t source_bytes = 0;  ///< of the file that it came from
  std::uint32_t shard = 0;
  std::uint64_t text_end = 0;  ///< where its name ends in the text; 0 in a shard
  std::uint8_t form = 0;       ///< packed_form
  std::array<std::uint8_t, 15> reserved{};

  friend bool operator==(pack_record const&, pack_record const&) = default;
};
static_assert(sizeof(pack_record) == 64);

/// What a shard begins with: 16 bytes.
struct pack_shard_head {
  std::array<char, 8> magic{'d', 'm', '2', 's', 'h', 'a', 'r', 'd'};
  std::uint32_t version = pack_version;
  std::uint32_t number = 0;
};
static_assert(sizeof(pack_shard_head) == 16);

/// What a shard ends with: 64 bytes.
struct pack_shard_tail {
  std::array<char, 8> magic{'d', 'm', '2', 's', 'h', 'e', 'n', 'd'};
  std::uint32_t version = pack_version;
  std::uint32_t number = 0;
  std::uint64_t identity = 0;
  std::uint64_t first = 0;    ///< record
  std::uint64_t records = 0;  ///< in this shard
  std::uint64_t table = 0;    ///< where the table begins; it ends where this begins
  std::uint64_t reserved = 0;
  std::uint32_t table_crc = 0;
  std::uint32_t tail_crc = 0;  ///< of the tail up to here
};
static_assert(sizeof(pack_shard_tail) == 64);

/// The next multiple of 8.
[[nodiscard]] constexpr std::uint64_t pack_aligned(std::uint64_t at) noexcept { return (at + 7) / 8 * 8; }

/// Where a record ends in its shard, the padding behind it not counted.
[[nodiscard]] constexpr std::uint64_t pack_record_end(pack_record const& r) noexcept {
  std::uint64_t const end = r.offset + r.bytes;
  return r.map_bytes == 0 ? end : pack_aligned(end) + r.map_bytes;
}

/// "shard-00012.dm2set"
[[nodiscard]] inline std::string pack_shard_name(std::uint32_t number) {
  std::string const digits = std::to_string(number);
  return "shard-" + std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits + ".dm2set";
}

/// The bytes of a struct of the format.
template <class T>
[[nodiscard]] std::span<std::byte const> pack_bytes(T const& of) noexcept {
  return std::as_bytes(std::span{&of, 1});
}

/// The checksum of a struct up to its own last four bytes, which hold it.
template <class T>
[[nodiscard]] std::uint32_t pack_own_crc(T const& of) noexcept {
  return crc32c(pack_bytes(of).first(sizeof(T) - 4));
}

/// Refuses a file for a field that is not what it has to be, naming both numbers.
[[noreturn]] inline void refuse_pack(std::filesystem::path const& file, std::string const& field, std::uint64_t got,
                                     std::string const& expected) {
  throw file_error{file, field + " is " + std::to_string(got) + ", expected " + expected};
}

/// refuse_pack unless `ok`.
inline void require_pack(bool ok, std::filesystem::path const& file, char const* field, std::uint64_t got,
                         std::uint64_t expected) {
  if (!ok) refuse_pack(file, field, got, std::to_string(expected));
}

/// refuse_pack unless two numbers are equal.
inline void require_equal(std::filesystem::path const& file, char const* field, std::uint64_t got,
                          std::uint64_t expected) {
  require_pack(got == expected, file, field, got, expected);
}

/// Throws file_error unless a file begins, at `at`, with the words that its kind does, and is of this version.
inline void require_pack_magic(std::filesystem::path const& file, std::span<std::byte const> at,
                               std::array<char, 8> const& magic, char const* what) {
  if (std::memcmp(at.data(), magic.data(), magic.size()) != 0)
    throw file_error{file, std::string{"is no "} + what + ": \"" + std::string{magic.data(), magic.size()} +
                               "\" is not where it has to be"};
  require_equal(file, "version", read_le<std::uint32_t>(at.data() + magic.size()), pack_version);
}

/// Throws file_error unless the checksums are equal.
inline void require_pack_crc(std::filesystem::path const& file, char const* of, std::uint32_t got,
                             std::uint32_t expected) {
  if (got != expected)
    throw file_error{file, std::string{"is damaged: the checksum of "} + of + " is " + std::to_string(got) +
                               ", expected " + std::to_string(expected)};
}

/// A hash over numbers, FNV-1a of their bytes.
class pack_hash {
 public:
  void add(std::uint64_t number) noexcept {
    for (int i = 0; i < 8; ++i, number >>= 8) byte(static_cast<unsigned char>(number));
  }
  [[nodiscard]] std::uint64_t value() const noexcept { return value_; }

 private:
  void byte(unsigned char b) noexcept { value_ = (value_ ^ b) * 0x100000001B3u; }
  std::uint64_t value_ = 0xCBF29CE484222325u;
};

}  // namespace detail
}  // namespace dm2
