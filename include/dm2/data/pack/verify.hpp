/// @file
/// Looks at every byte of a packed set.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/check_dataset.hpp>
#include <dm2/data/decode.hpp>
#include <dm2/data/pack/packed_set.hpp>
#include <dm2/data/pack/shard_writer.hpp>
#include <dm2/data/worker_threads.hpp>

#include <cstddef>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace dm2 {
namespace detail {

/// Throws file_error unless a shard's table is the index's part, and zeros lie between the records.
inline void verify_shard(packed_set const& set, std::size_t s) {
  pack_index const& index = set.index();
  mapped_file const& file = set.shard(s);
  std::vector<pack_record> const table = read_pack_table(file.bytes(), file.path());
  std::size_t const first = index.first_in(s);
  std::uint64_t at = sizeof(pack_shard_head);
  auto const zero_to = [&](std::uint64_t end) { check_zeros(file, at, end); };
  for (std::size_t i = 0; i < table.size(); ++i) {
    pack_record want = index.record(first + i);
    want.text_end = 0;
    if (table[i] != want)
      throw file_error{file.path(),
                       "is damaged: its table and the index differ in record " + std::to_string(first + i)};
    zero_to(want.offset);
    at = want.offset + want.bytes;
    if (want.map_bytes != 0) zero_to(pack_aligned(at));
    at = pack_record_end(want);
  }
  zero_to(index.shard(s).table);
}

/// Throws file_error unless record i is what the index says of it.
inline void verify_picture(packed_set const& set, std::size_t i, check_options const& options) {
  auto const bytes = set.picture(i);
  if (!options.decode) return;
  picture const p = decode_image(bytes, set.path_of(i), options.decoding);
  image_extent const want = set.extent(i), got{p.height, p.width};
  auto const text = [](image_extent e) { return std::to_string(e.height) + " x " + std::to_string(e.width); };
  if (got != want) throw file_error{set.path_of(i), "has " + text(got) + " pixels, and the index says " + text(want)};
}

}  // namespace detail

/// Holds every byte of a packed set against its checksums and the index, and lists the records that are damaged. With
/// options.decode every picture is decoded too, and its size compared.
///
/// The report is the same for any number of threads. Throws file_error where the set cannot be opened (packed_set).
[[nodiscard]] inline check_report verify_packed_set(std::filesystem::path const& root,
                                                    check_options const& options = {.decode = false}) {
  packed_set const set{root};
  detail::problem_list problems{options.listed};
  std::size_t const shards = set.index().shards();
  for_each_index(shards, options.threads,
                 [&](std::size_t s) { problems.guard(s, [&] { detail::verify_shard(set, s); }); });
  check_report report = detail::look_at_samples(set.size(), options, [&](std::size_t i) {
    problems.guard(shards + 2 * i, [&] { detail::verify_picture(set, i, options); });
    if (set.has_label_maps()) problems.guard(shards + 2 * i + 1, [&] { (void)set.label_map(i, int(set.classes())); });
  });
  problems.move_to(report);
  return report;
}

}  // namespace dm2
