/// @file
/// Writing one tensor as a file that torch.load reads: the zip format of torch.save.
/// Source: PyTorch torch/serialization.py, torch/_utils.py.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/atomic_file.hpp>
#include <dm2/io/pickle/globals.hpp>
#include <dm2/io/tensor.hpp>
#include <dm2/io/zip_write.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace dm2 {
namespace detail {

/// The torch class of a storage: "HalfStorage".
[[nodiscard]] inline std::string_view storage_class_name(dtype type) {
  for (auto const& row : pickle_global_table)
    if (row.meaning == pickle_global::storage_class && row.type == type) return row.name;
  throw std::logic_error{"dm2: an element type without a torch storage"};
}

/// Pickle opcodes of protocol 2, one behind the other.
struct pickle_text {
  std::string out{"\x80\x02", 2};

  void global(std::string_view module, std::string_view name) { ((((out += 'c') += module) += '\n') += name) += '\n'; }
  void text(std::string_view s) {
    out += 'X';
    little_endian(s.size(), 4);
    out += s;
  }
  /// BININT1, BININT2, BININT or LONG1, the shortest that holds it, as Python writes.
  void integer(std::int64_t v) {
    auto const bits = static_cast<std::uint64_t>(v);
    int const width = bits < 0x100 ? 1 : bits < 0x10000 ? 2 : bits < 0x80000000 ? 4 : 8;
    out += width == 1 ? "K" : width == 2 ? "M" : width == 4 ? "J" : "\x8a\x08";
    little_endian(bits, width);
  }
  void tuple(std::span<std::int64_t const> values) {
    out += '(';
    for (std::int64_t v : values) integer(v);
    out += 't';
  }

 private:
  void little_endian(std::uint64_t v, int bytes) {
    for (int i = 0; i < bytes; ++i) out += static_cast<char>(v >> (8 * i) & 0xFFu);
  }
};

/// torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict()), which unpickling calls.
[[nodiscard]] inline std::string tensor_pickle(stored_tensor const& t) {
  pickle_text p;
  p.global("torch._utils", "_rebuild_tensor_v2");
  p.out += "((";
  p.text("storage");
  p.global("torch", storage_class_name(t.type));
  p.text("0");
  p.text("cpu");
  p.integer(static_cast<std::int64_t>(t.size()));
  p.out += "tQ";  // the storage, by its id
  p.integer(0);
  p.tuple(t.shape);
  p.tuple(contiguous_strides(t.shape));
  p.out += '\x89';  // needs no gradient
  p.global("collections", "OrderedDict");
  p.out += ")RtR.";  // without hooks
  return p.out;
}

}  // namespace detail

/// The bytes of a file that torch.load reads as this one tensor, row-major. The tensor's name is not stored; equal
/// tensors are equal bytes.
///
/// Throws std::length_error for a tensor of about 4 GiB or more, std::logic_error for U16, U32 and U64, for which torch
/// has no storage.
[[nodiscard]] inline std::vector<std::byte> encode_torch(stored_tensor const& t) {
  std::size_t const width = size_of(t.type);
  std::vector<std::byte> data;
  data.reserve(t.size() * width);
  detail::for_each_row(t, [&](std::byte const* from, std::int64_t step, std::size_t count) {
    for (std::size_t k = 0; k < count; ++k) {
      std::byte const* const element = from + static_cast<std::int64_t>(k) * step;
      data.insert(data.end(), element, element + width);
    }
  });
  std::string const pickle = detail::tensor_pickle(t);
  auto const bytes = [](std::string_view s) { return std::as_bytes(std::span{s.data(), s.size()}); };
  zip_builder zip;
  zip.add("archive/data.pkl", bytes(pickle));
  zip.add("archive/byteorder", bytes("little"));
  zip.add("archive/data/0", data);
  zip.add("archive/version", bytes("3\n"));
  return zip.finish();
}

/// Writes encode_torch's bytes to `path`, whole or not at all (atomic_file).
///
/// Throws as encode_torch does, and file_error if the file cannot be written.
inline void write_torch(std::filesystem::path const& path, stored_tensor const& t) {
  std::vector<std::byte> const bytes = encode_torch(t);
  atomic_file file{path};
  file.write(bytes);
  file.commit();
}

}  // namespace dm2
