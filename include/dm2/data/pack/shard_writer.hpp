/// @file
/// Writes one shard, whole or not at all; keeps a finished one.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/pack/format.hpp>
#include <dm2/data/pack/prepare_record.hpp>
#include <dm2/data/pack/shard.hpp>
#include <dm2/io/atomic_file.hpp>
#include <dm2/io/crc32c.hpp>
#include <dm2/io/mapped_file.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace dm2::detail {

/// A shard that stands under its name: its line in the index, and its records.
struct finished_shard {
  pack_shard entry;
  std::vector<pack_record> records;
};

/// A shard on its way to the disk, under a temporary name until finish().
class shard_writer {
 public:
  shard_writer(std::filesystem::path const& folder, std::uint32_t number, std::uint64_t identity, std::uint64_t first)
      : file_{folder / pack_shard_name(number)} {
    tail_.number = number;
    tail_.identity = identity;
    tail_.first = first;
    pack_shard_head head;
    head.number = number;
    put(pack_bytes(head));
  }

  /// Records so far.
  [[nodiscard]] std::size_t size() const noexcept { return records_.size(); }
  /// Bytes that the shard's records would reach to with one more.
  [[nodiscard]] std::uint64_t reach(prepared_record const& with) const noexcept {
    return pack_aligned(at_) + pack_aligned(with.entry.bytes) + with.entry.map_bytes;
  }
  /// Appends a record.
  void add(prepared_record const& record) {
    pad();
    pack_record entry = record.entry;
    entry.offset = at_;
    entry.shard = tail_.number;
    put(record.picture);
    if (entry.map_bytes != 0) {
      pad();
      put(record.map);
    }
    records_.push_back(entry);
  }
  /// Writes the table and the tail, waits for the disk, and gives the shard its name.
  [[nodiscard]] finished_shard finish() {
    pad();
    auto const table = std::as_bytes(std::span{records_});
    tail_.records = records_.size();
    tail_.table = at_;
    tail_.table_crc = crc32c(table);
    tail_.tail_crc = pack_own_crc(tail_);
    put(table);
    put(pack_bytes(tail_));
    file_.commit();
    return {{at_, tail_.first, tail_.table, tail_.table_crc, 0}, std::move(records_)};
  }

 private:
  void put(std::span<std::byte const> bytes) {
    file_.write(bytes);
    at_ += bytes.size();
  }
  void pad() {
    static constexpr std::array<std::byte, 8> zeros{};
    put(std::span{zeros}.first(std::size_t(pack_aligned(at_) - at_)));
  }

  atomic_file file_;
  pack_shard_tail tail_;
  std::vector<pack_record> records_;
  std::uint64_t at_ = 0;
};

/// Throws file_error naming the shard and the place unless its bytes from `at` to `end` are zero.
inline void check_zeros(mapped_file const& file, std::uint64_t at, std::uint64_t end) {
  for (; at < end; ++at)
    if (int const value = std::to_integer<int>(file.bytes()[std::size_t(at)]); value != 0)
      throw file_error{file.path(), "is damaged: byte " + std::to_string(at) + " is " + std::to_string(value) +
                                        ", expected 0 between two records"};
}

/// Throws file_error naming the shard unless each record has its checksums, and what lies between them is zero.
inline void check_shard_bytes(mapped_file const& file, std::span<pack_record const> records, std::uint64_t table) {
  std::uint64_t at = sizeof(pack_shard_head);
  auto const part = [&](char const* what, std::uint64_t size, std::uint32_t crc) {
    check_zeros(file, at, pack_aligned(at));
    at = pack_aligned(at);
    require_pack_crc(file.path(), what, crc32c(file.bytes().subspan(std::size_t(at), std::size_t(size))), crc);
    at += size;
  };
  for (pack_record const& r : records) {
    part("a picture", r.bytes, r.crc);
    if (r.map_bytes != 0) part("a label map", r.map_bytes, r.map_crc);
  }
  check_zeros(file, at, table);
}

/// A shard that an earlier packing finished, every byte of it checked. Throws file_error where it is damaged, or of
/// other pictures or options; `first` is the record that it has to begin with.
[[nodiscard]] inline finished_shard take_over_shard(std::filesystem::path const& path, std::uint32_t number,
                                                    std::uint64_t identity, std::uint64_t first) {
  mapped_file const file{path, 0};
  pack_shard_tail const tail = read_pack_tail(file.bytes(), path);
  if (tail.identity != identity)
    throw file_error{path, "is of a set of other pictures, or packed with other options (identity " +
                               std::to_string(tail.identity) + ", expected " + std::to_string(identity) +
                               "); remove the set, or name another folder"};
  require_equal(path, "number", tail.number, number);
  require_equal(path, "first record", tail.first, first);
  std::vector<pack_record> records = read_pack_table(file.bytes(), path);
  check_shard_bytes(file, records, tail.table);
  return {{file.bytes().size(), tail.first, tail.table, tail.table_crc, 0}, std::move(records)};
}

}  // namespace dm2::detail
