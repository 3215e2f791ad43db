/// @file
/// Packs a set of pictures: into a few large files that are quick to read in any order.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/dataset.hpp>
#include <dm2/data/decode/options.hpp>
#include <dm2/data/pack/format.hpp>
#include <dm2/data/pack/index.hpp>
#include <dm2/data/pack/prepare_record.hpp>
#include <dm2/data/pack/shard_writer.hpp>
#include <dm2/data/worker_threads.hpp>
#include <dm2/io/atomic_file.hpp>
#include <dm2/io/mapped_file.hpp>
#include <dm2/io/synced_folder.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace dm2 {

/// How pictures are packed. The defaults change no pixel.
struct pack_options {
  int side = 0;     ///< pixels that a picture's shorter side is reduced to, bicubic; 0 for none; needs a quality
  int quality = 0;  ///< 1 to 100: encode every picture as a JPEG anew, which changes pixels; 0: keep them
  std::uint64_t shard_bytes = std::uint64_t{256} << 20;  ///< after which a shard is full; what a kill can cost
  int threads = 0;                                       ///< that decode and encode; 0 for one a processor
  std::size_t block = 256;                               ///< pictures prepared at once, fewer where they pass 32 MiB
  std::size_t listed = 100;                              ///< problems that are listed; all are counted
  /// The limits that training will read with; a picture beyond them is a problem.
  decode_options decoding{.max_pixels = max_sample_pixels, .max_scans = max_sample_scans};
  /// Called with the number of records done so far, every block; false stops, and finished shards are kept.
  std::function<bool(std::size_t)> progress{};
};

/// What packing did.
struct pack_report {
  bool whole = false;              ///< the set is complete; false where progress stopped it
  std::size_t records = 0;         ///< in finished shards
  std::size_t taken_over = 0;      ///< of them, from shards of an earlier packing
  std::size_t forms[3]{};          ///< of them, by packed_form
  std::uint64_t source_bytes = 0;  ///< of the pictures' files
  std::uint64_t bytes = 0;         ///< of the shards
  std::size_t problems = 0;        ///< pictures and label maps packed now that training cannot read
  std::vector<file_error> listed;  ///< the first of them
};

namespace detail {

/// A packing under way.
class packer {
 public:
  packer(dataset const& set, std::filesystem::path folder, pack_options const& options)
      : set_{set}, folder_{std::move(folder)}, options_{options}, identity_{identity()} {}

  [[nodiscard]] pack_report run() {
    open_folder();
    while (report_.records < set_.size()) {
      auto const number = std::uint32_t(shards_.size());
      if (number == pack_limits::shards) refuse_pack(folder_, "number of shards", number + 1ull, "at most 1048576");
      std::filesystem::path const path = folder_ / pack_shard_name(number);
      std::error_code ignored;
      bool const there = std::filesystem::exists(std::filesystem::symlink_status(path, ignored));
      if (there)
        take_over(take_over_shard(path, number, identity_, report_.records));
      else if (!write_shard(number))
        return std::move(report_);
    }
    write_index();
    report_.whole = true;
    return std::move(report_);
  }

 private:
  /// A number that shards of one set share: of its names, classes and options.
  [[nodiscard]] std::uint64_t identity() const {
    pack_hash hash;
    for (std::uint64_t const part :
         {std::uint64_t{pack_version}, set_.fingerprint(), std::uint64_t{set_.size()},
          std::uint64_t{set_.has_label_maps()}, std::uint64_t(options_.side), std::uint64_t(options_.quality),
          options_.shard_bytes, options_.decoding.max_pixels, std::uint64_t(options_.decoding.max_scans)})
      hash.add(part);
    return hash.value();
  }

  /// Makes the folder, or looks that nothing is in it but a set of this identity, and removes what a kill left.
  void open_folder() {
    make_synced_folders(folder_);
    std::error_code problem;
    for (std::filesystem::directory_iterator at{folder_, problem}, end; !problem && at != end; at.increment(problem)) {
      std::string const name = at->path().filename().string();
      bool const ours = name.ends_with(".dm2set") && (name == pack_index_name || name.starts_with("shard-"));
      bool const left = name.ends_with(".tmp") &&
                        (name.starts_with(".shard-") || name.starts_with("." + std::string{pack_index_name}));
      if (left)
        std::filesystem::remove(at->path());
      else if (!ours && name != ".lock")
        throw file_error{folder_, "is not empty and no packed set: it has " + name + " in it"};
    }
    if (problem) throw file_error{folder_, "cannot be listed: " + problem.message()};
    std::filesystem::path const index = folder_ / pack_index_name;
    if (!std::filesystem::exists(index, problem)) return;
    mapped_file const file{index};
    if (pack_index{file.bytes(), index}.head().identity != identity_)
      throw file_error{index, "is of a set of other pictures, or packed with other options; name another folder"};
  }

  /// Bytes of sample i's picture before it is packed.
  [[nodiscard]] std::uint64_t source_size(std::size_t i) const {
    if (set_.packed()) return set_.packed()->index().record(set_.record(i)).bytes;
    std::error_code problem;
    std::uint64_t const size = std::filesystem::file_size(set_.image(i), problem);
    if (problem) throw file_error{set_.image(i), "cannot be examined: " + problem.message()};
    return size;
  }

  void count(finished_shard shard) {
    for (pack_record const& r : shard.records) {
      ++report_.forms[std::min<std::size_t>(r.form, 2)];
      report_.source_bytes += r.source_bytes;
    }
    report_.records += shard.records.size();
    report_.bytes += shard.entry.bytes;
    records_.insert(records_.end(), shard.records.begin(), shard.records.end());
    shards_.push_back(shard.entry);
  }
  /// Counts an earlier packing's shard, whose pictures have to be of the sizes that they are of now.
  void take_over(finished_shard shard) {
    for (std::size_t i = 0; i < shard.records.size(); ++i) {
      std::size_t const sample = report_.records + i;
      if (sample >= set_.size()) refuse_pack(folder_, "number of records", sample + 1, std::to_string(set_.size()));
      if (std::uint64_t const size = source_size(sample); size != shard.records[i].source_bytes)
        throw file_error{set_.image(sample), "has " + std::to_string(size) + " bytes, and had " +
                                                 std::to_string(shard.records[i].source_bytes) +
                                                 " when it was packed into " + folder_.string()};
    }
    ready_.clear();  // prepared for this shard
    report_.taken_over += shard.records.size();
    count(std::move(shard));
    if (options_.progress) (void)options_.progress(report_.records);
  }

  /// Prepares the records behind `first`, some 32 MiB of them, on several threads.
  void prepare(std::size_t first) {
    std::size_t end = first;
    for (std::uint64_t bytes = 0; end < set_.size() && end - first < options_.block && bytes < std::uint64_t{32} << 20;
         ++end)
      bytes += source_size(end);
    prepare_options const how{options_.side, options_.quality, options_.decoding};
    ready_.resize(end - first);
    for_each_index(end - first, options_.threads,
                   [&](std::size_t i) { ready_[i] = prepare_record(set_, first + i, how); });
    for (prepared_record const& r : ready_)
      for (file_error const& problem : r.problems) {
        ++report_.problems;
        if (report_.listed.size() < options_.listed) report_.listed.push_back(problem);
      }
  }
  /// Writes a shard; false where progress stopped it, and then it is not there.
  bool write_shard(std::uint32_t number) {
    shard_writer shard{folder_, number, identity_, report_.records};
    for (std::size_t next = report_.records; next < set_.size(); ++next) {
      if (ready_.empty()) {
        if (options_.progress && !options_.progress(next)) return false;
        prepare(next);
      }
      if (shard.size() > 0 && shard.reach(ready_.front()) > options_.shard_bytes) break;
      shard.add(ready_.front());
      ready_.pop_front();
    }
    count(shard.finish());
    return true;
  }

  /// The names in the index's text, and where each ends.
  void add_name(std::string& text, std::string_view name, bool folders, std::uint64_t& end) const {
    if (!is_packed_name(name, folders))
      throw file_error{folder_, "a packed set cannot hold the name " + std::string{name.substr(0, 200)}};
    text += name;
    end = text.size();
  }
  void write_index() {
    pack_index_head head;
    std::string text;
    std::vector<pack_class> classes;
    std::uint64_t first = 0;
    for (int c = 0; c < set_.classes(); first += set_.samples_of(c++)) {
      pack_class& one = classes.emplace_back();
      one.first = first;
      add_name(text, set_.class_names()[std::size_t(c)], false, one.text_end);
    }
    for (std::size_t i = 0; i < records_.size(); ++i) add_name(text, set_.name(i), true, records_[i].text_end);
    head.classes = std::uint32_t(classes.size());
    head.records = records_.size();
    head.shards = std::uint32_t(shards_.size());
    head.side = std::uint32_t(options_.side);
    head.quality = std::uint32_t(options_.quality);
    head.maps = set_.has_label_maps() ? 1 : 0;
    head.identity = identity_;
    head.text = text.size();
    std::vector<std::byte> bytes(sizeof head);
    auto const append = [&](std::span<std::byte const> part) { bytes.insert(bytes.end(), part.begin(), part.end()); };
    append(std::as_bytes(std::span{classes}));
    append(std::as_bytes(std::span{shards_}));
    append(std::as_bytes(std::span{records_}));
    append(std::as_bytes(std::span{text}));
    head.bytes = bytes.size();
    std::memcpy(bytes.data(), &head, sizeof head);
    seal_pack_index(bytes);
    (void)pack_index{bytes, folder_ / pack_index_name};  // nothing is written that would be refused
    atomic_file file{folder_ / pack_index_name};
    file.write(bytes);
    file.commit();
  }

  dataset const& set_;
  std::filesystem::path folder_;
  pack_options const& options_;
  std::uint64_t identity_;
  pack_report report_;
  std::vector<pack_shard> shards_;
  std::vector<pack_record> records_;
  std::deque<prepared_record> ready_;  ///< the records behind those that were written
};

}  // namespace detail

/// Packs a set into a folder: shards one after the other, then the index, each of which appears whole or not at all. A
/// packing that was killed or stopped goes on behind its last shard, and ends with the same bytes as one that was not;
/// one that is whole is looked through, every byte, and left as it is.
///
/// JPEGs are written with their own coefficients and a restart marker after each row of blocks, where the result was
/// seen to decode to the same pixels, and else kept byte by byte, as PNGs are. Profiles, EXIF and comments of rewritten
/// JPEGs are left out. With a quality, every picture becomes a JPEG of other pixels. A picture that is not decodable is
/// kept as it is, and a problem; so is a label map that cannot be read, which is left out.
///
/// One process at a time may pack into a folder (run_lock).
///
/// Throws std::invalid_argument where an option is out of range, file_error where a picture's file cannot be read or
/// has changed since it was packed, the folder holds something else, or something cannot be written.
///
/// Example
///     dm2::pack_pictures(dm2::dataset{"imagenet/train"}, "sets/train");
///     dm2::dataset const set{"sets/train"};  // the same samples, in the same order
inline pack_report pack_pictures(dataset const& set, std::filesystem::path const& folder,
                                 pack_options const& options = {}) {
  detail::require_option(options.quality >= 0 && options.quality <= 100, "pack: quality", options.quality,
                         "1 to 100, or 0 to keep pixels");
  detail::require_option(options.side >= 0 && options.side <= 65'500, "pack: side", options.side,
                         "1 to 65500, or 0 for none");
  detail::require_option(options.side == 0 || options.quality != 0, "pack: quality", options.quality,
                         "1 to 100 where a side is given");
  detail::require_option(options.block >= 1, "pack: block", options.block, "at least 1");
  detail::require_option(options.shard_bytes >= 1 && options.shard_bytes <= std::uint64_t{1} << 40, "pack: shard_bytes",
                         options.shard_bytes, "1 to 1099511627776");
#ifndef DM2_WITH_JPEG
  detail::require_option(options.quality == 0, "pack: quality", options.quality, "0 in a program without libjpeg");
#endif
  return detail::packer{set, folder, options}.run();
}

}  // namespace dm2
