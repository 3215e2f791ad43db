// Readers of tensors and of what checkpoints say beside them.
#include <dm2/data/label_map_file.hpp>
#include <dm2/io/checksums.hpp>
#include <dm2/io/class_names.hpp>
#include <dm2/io/finite.hpp>
#include <dm2/io/lightning.hpp>
#include <dm2/io/safetensors.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/io/told_config.hpp>
#include <dm2/io/torch_file.hpp>
#include <dm2/run/config_of_file.hpp>

#include "fuzz/support.hpp"
#include "fuzz/targets.hpp"
#include "io/make_torch_bytes.hpp"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace dm2::fuzz {
namespace {

/// Reads every element: one outside of the file is the address sanitizer's to find.
void touch(std::span<stored_tensor const> tensors, std::size_t file_size) {
  std::uint64_t all = 0;
  for (stored_tensor const& t : tensors) {
    if (t.shape.size() != t.strides.size() || t.shape.size() > max_stored_rank) finding("a damaged shape");
    if (t.size() * size_of(t.type) > file_size) finding("a tensor larger than its file");
    all += t.size() * size_of(t.type);
    if (all > 64 * file_size + 65536) return;
    (void)detail::tensor_checksum(t);
    (void)not_finite_text(t);
    for (double v : to_vector<double>(t)) (void)v;
  }
}

bool safetensors(std::span<std::byte const> bytes) {
  return reads(name, [&] {
    safetensors_content content = read_safetensors(bytes, name);
    (void)detail::take_checksums(content.tensors, content.metadata, name);
    touch(content.tensors, bytes.size());
  });
}

bool torch(std::span<std::byte const> bytes) {
  bool taken = false;
  for (weights const which : {weights::automatic, weights::raw, weights::ema})
    taken |= reads(name, [&] {
      torch_file const file{bytes, name};
      touch(read_torch_content(file, which).tensors, bytes.size());
    });
  return taken;
}

std::span<std::byte const> bytes_of(std::string const& text) { return std::as_bytes(std::span{text}); }

/// The bytes are the pickle in a sound archive: mutations need not keep the archive's directory right.
bool pickle(std::span<std::byte const> bytes) {
  std::string const text{reinterpret_cast<char const*>(bytes.data()), bytes.size()};
  std::string const file = test::make_zip({{"a/data.pkl", text},
                                           {"a/byteorder", "little"},
                                           {"a/data/0", std::string(64, '\x3c')},
                                           {"a/data/1", std::string(8, '\1')}});
  return torch(bytes_of(file));
}

/// A whole file as programs open it, with what they ask of it.
bool lightning(std::span<std::byte const> bytes) {
  memory_file const file{bytes};
  bool taken = false;
  for (weights const which : {weights::automatic, weights::raw})
    taken |= reads(file.path(), [&] {
      tensor_file const opened{file.path(), which};
      touch(opened.tensors(), bytes.size());
      std::vector<std::string> notices;
      (void)config_differences(config{}, detail::told_config(opened, notices));
      (void)opened.hyper_parameters().dump();
      (void)read_class_names(opened);
      (void)reads(file.path(), [&] { (void)config_of(opened); });
    });
  return taken;
}

bool label_map(std::span<std::byte const> bytes) {
  memory_file const file{bytes};
  return reads(file.path(), [&] {
    label_map_data const map = read_label_map(file.path(), 1000);
    if (map.values.size() != std::size_t(10 * map.height * map.width)) finding("a label map of another size");
    for (std::size_t i = map.values.size() / 2; i < map.values.size(); ++i)
      if (!(map.values[i] >= 0 && map.values[i] < 1000)) finding("a class out of range");
  });
}

}  // namespace

std::vector<target> tensor_targets() {
  return {{"safetensors", safetensors}, {"zip", torch},          {"pickle", pickle}, {"legacy", torch},
          {"lightning", lightning},     {"label_map", label_map}};
}

}  // namespace dm2::fuzz
