/// @file
/// The index of a packed set, checked field by field: names, classes, shards and records.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/data/pack/format.hpp>
#include <dm2/io/bytes.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <set>
#include <span>
#include <string>
#include <string_view>

namespace dm2::detail {

/// Whether a name may stand in a set: a relative path without `.` and `..`, that joined to a folder stays in it.
[[nodiscard]] constexpr bool is_packed_name(std::string_view name, bool folders) noexcept {
  if (name.empty() || name.size() > pack_limits::name_bytes || name.find('\0') != name.npos) return false;
  for (std::size_t at = 0; at <= name.size();) {
    std::size_t const end = std::min(name.find('/', at), name.size());
    std::string_view const part = name.substr(at, end - at);
    if (part.empty() || part == "." || part == ".." || (!folders && part.size() != name.size())) return false;
    at = end + 1;
  }
  return true;
}

/// A view of an index's bytes, which have to outlive it. The constructor checks all of them, once, in time that grows
/// with their number; whatever the accessors return lies inside.
class pack_index {
 public:
  /// Throws file_error naming `file`, the field and both numbers, where the bytes are no index of this version.
  pack_index(std::span<std::byte const> bytes, std::filesystem::path const& file) {
    if (bytes.size() < sizeof head_)
      refuse_pack(file, "size", bytes.size(), "at least " + std::to_string(sizeof head_));
    require_pack_magic(file, bytes, pack_index_head{}.magic, "index of a packed set");
    head_ = read_le<pack_index_head>(bytes.data());
    require_pack_crc(file, "its head", pack_own_crc(head_), head_.head_crc);
    check_head(bytes.size(), file);
    std::span<std::byte const> const body = bytes.subspan(sizeof head_);
    require_pack_crc(file, "what follows its head", crc32c(body), head_.body_crc);
    classes_ = body.data();
    shards_ = classes_ + sizeof(pack_class) * head_.classes;
    records_ = shards_ + sizeof(pack_shard) * head_.shards;
    text_ = as_text(bytes.last(std::size_t(head_.text)));
    check_classes(file);
    check_shards(file);
    check_records(file);
  }

  [[nodiscard]] pack_index_head const& head() const noexcept { return head_; }
  [[nodiscard]] std::size_t records() const noexcept { return std::size_t(head_.records); }
  [[nodiscard]] std::size_t classes() const noexcept { return head_.classes; }
  [[nodiscard]] std::size_t shards() const noexcept { return head_.shards; }
  /// Record i < records().
  [[nodiscard]] pack_record record(std::size_t i) const noexcept {
    return read_le<pack_record>(records_ + i * sizeof(pack_record));
  }
  /// Shard s < shards().
  [[nodiscard]] pack_shard shard(std::size_t s) const noexcept {
    return read_le<pack_shard>(shards_ + s * sizeof(pack_shard));
  }
  /// The first record of class c <= classes(); of the last one, records().
  [[nodiscard]] std::size_t first_of(std::size_t c) const noexcept {
    return c == classes() ? records() : std::size_t(class_at(c).first);
  }
  /// The first record of shard s <= shards(); of the last one, records().
  [[nodiscard]] std::size_t first_in(std::size_t s) const noexcept {
    return s == shards() ? records() : std::size_t(shard(s).first);
  }
  /// The name of class c < classes().
  [[nodiscard]] std::string_view class_name(std::size_t c) const noexcept {
    return between(c == 0 ? 0 : class_at(c - 1).text_end, class_at(c).text_end);
  }
  /// The name of record i < records(), relative to its class's folder.
  [[nodiscard]] std::string_view name(std::size_t i) const noexcept {
    return between(i == 0 ? class_at(classes() - 1).text_end : text_end(i - 1), text_end(i));
  }

 private:
  [[nodiscard]] pack_class class_at(std::size_t c) const noexcept {
    return read_le<pack_class>(classes_ + c * sizeof(pack_class));
  }
  [[nodiscard]] std::uint64_t text_end(std::size_t i) const noexcept {
    return read_le<std::uint64_t>(records_ + i * sizeof(pack_record) + offsetof(pack_record, text_end));
  }
  [[nodiscard]] std::string_view between(std::uint64_t first, std::uint64_t end) const noexcept {
    return text_.substr(std::size_t(first), std::size_t(end - first));
  }

  void check_head(std::uint64_t size, std::filesystem::path const& file) const {
    pack_index_head const& h = head_;
    auto const at_most = [&](char const* field, std::uint64_t got, std::uint64_t least, std::uint64_t most) {
      if (got < least || got > most)
        refuse_pack(file, field, got, std::to_string(least) + " to " + std::to_string(most));
    };
    at_most("number of classes", h.classes, 1, pack_limits::classes);
    at_most("number of records", h.records, 1, pack_limits::records);
    at_most("number of shards", h.shards, 1, pack_limits::shards);
    at_most("bytes of names", h.text, 1, pack_limits::text_bytes);
    at_most("quality", h.quality, 0, 100);
    at_most("mark of label maps", h.maps, 0, 1);
    for (std::uint64_t const reserved : h.reserved) require_equal(file, "reserved field of the head", reserved, 0);
    require_equal(file, "size", size, h.bytes);
    std::uint64_t const want = sizeof h + sizeof(pack_class) * std::uint64_t{h.classes} +
                               sizeof(pack_shard) * std::uint64_t{h.shards} + sizeof(pack_record) * h.records + h.text;
    require_equal(file, "size", size, want);
  }
  void check_name(std::filesystem::path const& file, std::uint64_t begin, std::uint64_t end, bool folders,
                  char const* what) const {
    if (end < begin || end > text_.size())
      refuse_pack(file, std::string{"end of a "} + what, end,
                  std::to_string(begin) + " to " + std::to_string(text_.size()));
    if (!is_packed_name(between(begin, end), folders))
      throw file_error{file, std::string{what} + " \"" + std::string{between(begin, end).substr(0, 200)} +
                                 "\" is not one that a file can have"};
  }
  void check_classes(std::filesystem::path const& file) const {
    std::set<std::string_view> names;
    std::uint64_t first = 0, text = 0;
    for (std::size_t c = 0; c < classes(); ++c) {
      pack_class const at = class_at(c);
      if (c == 0) require_equal(file, "first record of the first class", at.first, 0);
      if (at.first < first || at.first > head_.records)
        refuse_pack(file, "first record of class " + std::to_string(c), at.first,
                    std::to_string(first) + " to " + std::to_string(head_.records));
      check_name(file, text, at.text_end, false, "class name");
      if (!names.insert(class_name(c)).second)
        throw file_error{file, "has two classes named " + std::string{class_name(c)}};
      first = at.first;
      text = at.text_end;
    }
  }
  void check_shards(std::filesystem::path const& file) const {
    for (std::size_t s = 0; s < shards(); ++s) {
      pack_shard const at = shard(s);
      std::string const which = " of shard " + std::to_string(s);
      if (s == 0) require_equal(file, "first record of the first shard", at.first, 0);
      if (at.first >= head_.records || (s > 0 && at.first <= shard(s - 1).first))
        refuse_pack(file, "first record" + which, at.first,
                    "more than the shard before, less than " + std::to_string(head_.records));
      require_equal(file, "reserved field of a shard", at.reserved, 0);
    }
    for (std::size_t s = 0; s < shards(); ++s) {
      pack_shard const at = shard(s);
      std::uint64_t const count = first_in(s + 1) - first_in(s);
      std::uint64_t const table = count * sizeof(pack_record) + sizeof(pack_shard_tail);
      if (at.table < sizeof(pack_shard_head) || at.table % 8 != 0 || at.table > at.bytes ||
          at.bytes - at.table != table)
        refuse_pack(file, "place of the table of shard " + std::to_string(s), at.table,
                    "a multiple of 8, " + std::to_string(table) + " bytes before the shard's end at " +
                        std::to_string(at.bytes));
    }
  }
  void check_records(std::filesystem::path const& file) const {
    std::size_t s = 0;
    std::uint64_t end = sizeof(pack_shard_head), text = class_at(classes() - 1).text_end;
    for (std::size_t i = 0; i < records(); ++i) {
      if (s + 1 < shards() && i == shard(s + 1).first) {
        require_equal(file, "end of the last record of a shard", pack_aligned(end), shard(s).table);
        ++s;
        end = sizeof(pack_shard_head);
      }
      pack_record const r = record(i);
      end = check_record(file, i, r, s, end);
      check_name(file, text, r.text_end, true, "picture name");
      text = r.text_end;
    }
    require_equal(file, "end of the last record", pack_aligned(end), shard(s).table);
    require_equal(file, "end of the last name", text, text_.size());
  }
  /// Holds a record against the end of the one before; returns its own.
  std::uint64_t check_record(std::filesystem::path const& file, std::size_t i, pack_record const& r, std::size_t s,
                             std::uint64_t before) const {
    auto const refuse = [&](char const* field, std::uint64_t got, std::string const& expected) {
      refuse_pack(file, std::string{field} + " of record " + std::to_string(i), got, expected);
    };
    if (r.shard != s) refuse("shard", r.shard, std::to_string(s));
    if (r.offset != pack_aligned(before)) refuse("offset", r.offset, std::to_string(pack_aligned(before)));
    if (r.bytes > pack_limits::record_bytes) refuse("size", r.bytes, "at most 1073741824");
    if (r.map_bytes > pack_limits::record_bytes) refuse("size of the label map", r.map_bytes, "at most 1073741824");
    if (r.map_bytes != 0 && head_.maps == 0) refuse("size of the label map", r.map_bytes, "0 in a set without them");
    if (r.form > std::uint8_t(packed_form::encoded)) refuse("form", r.form, "0 to 2");
    if ((r.height == 0) != (r.width == 0)) refuse("width", r.width, "0 where the height is, and only there");
    for (std::uint8_t const reserved : r.reserved)
      if (reserved != 0) refuse("reserved field", reserved, "0");
    std::uint64_t const end = pack_record_end(r);
    if (end > shard(s).table) refuse("end", end, "at most " + std::to_string(shard(s).table));
    return end;
  }

  pack_index_head head_;
  std::byte const *classes_ = nullptr, *shards_ = nullptr, *records_ = nullptr;
  std::string_view text_;
};

/// Fills in the checksums of an index: of the body, then of the head. `bytes` has at least a head.
inline void seal_pack_index(std::span<std::byte> bytes) {
  auto head = read_le<pack_index_head>(bytes.data());
  head.body_crc = crc32c(bytes.subspan(sizeof head));
  head.head_crc = pack_own_crc(head);
  std::memcpy(bytes.data(), &head, sizeof head);
}

}  // namespace dm2::detail
