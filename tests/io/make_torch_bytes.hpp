/// @file
/// Writes zip archives, pickles and torch files byte by byte, well-formed or not, independently of the library.
#pragma once

#include "support/raw_bytes.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dm2::test {

struct zip_options {
  std::uint16_t method = 0, flags = 0;
  bool zip64 = false;  ///< sizes and offsets in extra blocks and a ZIP64 end record, as archives over 4 GiB have them
  std::string comment{};
};

/// A zip archive of the given entries, in order.
inline std::string make_zip(std::vector<std::pair<std::string, std::string>> const& entries,
                            zip_options const& o = {}) {
  std::string out, directory;
  for (auto const& [name, bytes] : entries) {
    auto const size = static_cast<std::uint32_t>(bytes.size()), at = static_cast<std::uint32_t>(out.size());
    auto const length = static_cast<std::uint16_t>(name.size());
    std::string const head =
        raw<std::uint16_t>(20) + raw(o.flags) + raw(o.method) + raw<std::uint32_t>(0) + raw<std::uint32_t>(0);
    std::string const extra = o.zip64 ? raw<std::uint16_t>(1) + raw<std::uint16_t>(24) + raw<std::uint64_t>(size) +
                                            raw<std::uint64_t>(size) + raw<std::uint64_t>(at)
                                      : "";
    std::uint32_t const all = 0xFFFFFFFF, shown = o.zip64 ? all : size;
    out += "PK\3\4" + head + raw(size) + raw(size) + raw(length) + raw<std::uint16_t>(5) + name + "extra" + bytes;
    directory += "PK\1\2" + raw<std::uint16_t>(20) + head + raw(shown) + raw(shown) + raw(length) +
                 raw(static_cast<std::uint16_t>(extra.size())) + raw<std::uint16_t>(0) + raw<std::uint16_t>(0) +
                 raw<std::uint16_t>(0) + raw<std::uint32_t>(0) + raw(o.zip64 ? all : at) + name + extra;
  }
  std::size_t const start = out.size();
  out += directory;
  if (o.zip64) {
    std::size_t const end = out.size();
    out += "PK\6\6" + raw<std::uint64_t>(44) + raw<std::uint32_t>(0) + raw<std::uint64_t>(0) +
           raw<std::uint64_t>(entries.size()) + raw<std::uint64_t>(entries.size()) +
           raw<std::uint64_t>(directory.size()) + raw<std::uint64_t>(start);
    out += "PK\6\7" + raw<std::uint32_t>(0) + raw<std::uint64_t>(end) + raw<std::uint32_t>(1);
  }
  auto const count = static_cast<std::uint16_t>(entries.size());
  return out + "PK\5\6" + raw<std::uint32_t>(0) + raw(count) + raw(count) +
         raw(static_cast<std::uint32_t>(directory.size())) + raw(static_cast<std::uint32_t>(start)) +
         raw(static_cast<std::uint16_t>(o.comment.size())) + o.comment;
}

// Pieces of a pickle of protocol 2; concatenate them.
inline std::string const proto = "\x80\x02";
inline std::string text(std::string_view s) { return "X" + raw(static_cast<std::uint32_t>(s.size())) + std::string{s}; }
inline std::string integer(std::int64_t n) { return "\x8a\x08" + raw(n); }
inline std::string global(std::string const& module, std::string const& name) {
  return "c" + module + "\n" + name + "\n";
}
inline std::string tuple(std::string const& items) { return "(" + items + "t"; }
inline std::string dict(std::string const& items) { return "}(" + items + "u"; }
inline std::string list(std::string const& items) { return "](" + items + "e"; }

/// A tensor as torch pickles it. `storage_class` such as "FloatStorage".
inline std::string tensor(std::string const& storage_class, std::string const& key, std::int64_t count,
                          std::int64_t offset, std::vector<std::int64_t> const& shape,
                          std::vector<std::int64_t> const& strides) {
  std::string sizes, steps;
  for (auto n : shape) sizes += integer(n);
  for (auto n : strides) steps += integer(n);
  return global("torch._utils", "_rebuild_tensor_v2") +
         tuple(tuple(text("storage") + global("torch", storage_class) + text(key) + text("cpu") + integer(count)) +
               "Q" + integer(offset) + tuple(sizes) + tuple(steps) + "\x89" + global("collections", "OrderedDict") +
               ")R") +
         "R";
}

/// A torch file in the zip format: one pickle (without its protocol and STOP) and its storages "0", "1", ...
inline std::string make_torch_zip(std::string const& pickle, std::vector<std::string> const& storages,
                                  std::string const& byteorder = "little") {
  std::vector<std::pair<std::string, std::string>> entries{{"a/data.pkl", proto + pickle + "."},
                                                           {"a/byteorder", byteorder}};
  for (std::size_t i = 0; i < storages.size(); ++i) entries.emplace_back("a/data/" + std::to_string(i), storages[i]);
  return make_zip(entries);
}

/// The same in the older format. `counts` are the storages' element counts.
inline std::string make_torch_legacy(std::string const& pickle, std::vector<std::string> const& storages,
                                     std::vector<std::int64_t> const& counts, bool little_endian = true) {
  std::string const magic = "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
  std::string keys, data;
  for (std::size_t i = 0; i < storages.size(); ++i) {
    keys += text(std::to_string(i));
    data += raw(counts[i]) + storages[i];
  }
  return proto + magic + "." + proto + integer(1001) + "." + proto +
         dict(text("little_endian") + (little_endian ? "\x88" : "\x89")) + "." + proto + pickle + "." + proto +
         list(keys) + "." + data;
}

}  // namespace dm2::test
