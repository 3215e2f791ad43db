/// @file
/// A shard's own account of itself: which records it holds, and that it was written to its end.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/pack/format.hpp>
#include <dm2/io/bytes.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace dm2::detail {

/// The tail of a shard's bytes, checked against their number. Throws file_error naming `file` and both numbers.
[[nodiscard]] inline pack_shard_tail read_pack_tail(std::span<std::byte const> bytes,
                                                    std::filesystem::path const& file) {
  pack_shard_tail tail;
  constexpr std::size_t least = sizeof(pack_shard_head) + sizeof tail;
  if (bytes.size() < least) refuse_pack(file, "size", bytes.size(), "at least " + std::to_string(least));
  require_pack_magic(file, bytes, pack_shard_head{}.magic, "shard of a packed set");
  require_pack_magic(file, bytes.last(sizeof tail), tail.magic, "whole shard of a packed set");
  tail = read_le<pack_shard_tail>(bytes.last(sizeof tail).data());
  require_pack_crc(file, "its tail", pack_own_crc(tail), tail.tail_crc);
  require_equal(file, "number", read_le<pack_shard_head>(bytes.data()).number, tail.number);
  require_equal(file, "reserved field of the tail", tail.reserved, 0);
  if (tail.records == 0 || tail.records > pack_limits::records)
    refuse_pack(file, "number of records", tail.records, "1 to " + std::to_string(pack_limits::records));
  std::uint64_t const table = bytes.size() - sizeof tail - tail.records * sizeof(pack_record);
  if (tail.records > (bytes.size() - least) / sizeof(pack_record) || tail.table != table)
    refuse_pack(
        file, "place of the table", tail.table,
        std::to_string(tail.records) + " records before the tail at " + std::to_string(bytes.size() - sizeof tail));
  return tail;
}

/// The records of a whole shard, checked. Throws file_error naming `file`, the field and both numbers.
[[nodiscard]] inline std::vector<pack_record> read_pack_table(std::span<std::byte const> bytes,
                                                              std::filesystem::path const& file) {
  pack_shard_tail const tail = read_pack_tail(bytes, file);
  auto const table = bytes.subspan(std::size_t(tail.table), std::size_t(tail.records) * sizeof(pack_record));
  require_pack_crc(file, "its table", crc32c(table), tail.table_crc);
  std::vector<pack_record> out;
  out.reserve(std::size_t(tail.records));
  std::uint64_t end = sizeof(pack_shard_head);
  for (std::size_t i = 0; i < tail.records; ++i) {
    pack_record const r = read_le<pack_record>(table.data() + i * sizeof(pack_record));
    require_equal(file, "offset of a record", r.offset, pack_aligned(end));
    require_equal(file, "shard of a record", r.shard, tail.number);
    require_equal(file, "end of a record's name", r.text_end, 0);
    end = pack_record_end(r);
    if (end > tail.table) refuse_pack(file, "end of a record", end, "at most " + std::to_string(tail.table));
    out.push_back(r);
  }
  require_equal(file, "end of the last record", pack_aligned(end), tail.table);
  return out;
}

}  // namespace dm2::detail
