/// @file
/// Reading the safetensors format: u64 header length, JSON header, tensor bytes, little-endian.
/// Source: https://github.com/huggingface/safetensors, whose rules this reader keeps.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/io/bytes.hpp>
#include <dm2/io/json_text.hpp>
#include <dm2/io/tensor.hpp>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

namespace dm2 {

/// The longest header that the format's reference accepts, in bytes.
inline constexpr std::uint64_t max_safetensors_header = 100'000'000;

/// A safetensors file's contents; the tensors are views of its bytes.
struct safetensors_content {
  std::vector<stored_tensor> tensors;           ///< In the header's order.
  std::map<std::string, std::string> metadata;  ///< `__metadata__`; empty where there is none.
  std::vector<std::string> left_out;            ///< A line for each tensor of a type that dm2::dtype does not have.
};

namespace detail {

/// Bits an element takes, of the format's types that dm2::dtype does not have; 0 for a name that is none.
[[nodiscard]] constexpr std::uint64_t foreign_dtype_bits(std::string_view name) noexcept {
  if (name == "C64") return 64;
  if (name.starts_with("F8_")) return 8;
  if (name.starts_with("F6_")) return 6;
  return name == "F4" ? 4 : 0;
}

/// Builds a safetensors_content while nlohmann's parser walks the header. Each tensor's object is taken and discarded
/// as soon as it is complete, so that the parser never holds more than one.
class safetensors_header {
 public:
  safetensors_header(std::filesystem::path const& path, std::span<std::byte const> data) : path_{path}, data_{data} {}

  /// nlohmann's parser callback: false discards what was just parsed.
  bool operator()(int depth, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    using event_t = nlohmann::json::parse_event_t;
    if (depth == 0) {
      if (event != event_t::object_start && event != event_t::object_end) fail("the header is not a JSON object");
      return true;
    }
    if (event == event_t::key && depth < 3) return key(depth, parsed.get_ref<std::string const&>());
    if (depth == 1) {
      if (event == event_t::object_start) return true;
      if (event == event_t::value && name_ == "__metadata__" && parsed.is_null()) return false;  // as if absent
      if (event != event_t::object_end) fail("header entry '" + name_ + "' is not a JSON object");
      if (name_ == "__metadata__")
        take_metadata(parsed);
      else
        take_tensor(parsed);
      return false;
    }
    if (passed_over_) return false;
    if (event == event_t::object_start || (event == event_t::array_start && depth > 2))
      fail("header entry '" + name_ + "' is nested too deep");
    return true;
  }

  /// Checks that the tensors fill the data exactly, as the reference demands, and hands them over.
  safetensors_content finish() {
    std::vector<std::pair<std::uint64_t, std::uint64_t>> sorted = ranges_;
    std::sort(sorted.begin(), sorted.end());
    std::uint64_t end = 0;
    for (auto const& [first, last] : sorted) {
      if (first != end)
        fail("tensor data " + std::string{first < end ? "overlap" : "leave a hole"} + " at byte " +
             std::to_string(first));
      end = last;
    }
    if (end != data_.size())
      fail("the tensors take " + std::to_string(end) + " bytes, the file holds " + std::to_string(data_.size()));
    return std::move(content_);
  }

 private:
  [[noreturn]] void fail(std::string const& reason) const { throw file_error{path_, "safetensors: " + reason}; }

  bool key(int depth, std::string const& text) {
    if (depth == 1) {
      if (text.size() > max_tensor_name)
        fail("a name of " + std::to_string(text.size()) + " bytes is over the limit of " +
             std::to_string(max_tensor_name));
      name_ = text;
      if (!seen_.insert(text).second) fail("the header names '" + text + "' twice");
      fields_.clear();
      passed_over_ = false;
      return true;
    }
    // what a later version may add to a tensor's entry says nothing to this one, as in the format's reference
    passed_over_ = name_ != "__metadata__" && text != "dtype" && text != "shape" && text != "data_offsets";
    if (!passed_over_ && !fields_.insert(text).second) fail("header entry '" + name_ + "' has '" + text + "' twice");
    return !passed_over_;
  }

  void take_metadata(nlohmann::json const& object) {
    for (auto const& [name, value] : object.items()) {
      if (!value.is_string()) fail("metadata '" + name + "' is not a string");
      if (is_deep_json_text(value.get_ref<std::string const&>()))
        fail("metadata '" + name + "' is JSON nested more than " + std::to_string(max_json_depth) + " deep");
      content_.metadata.emplace(name, value.get_ref<std::string const&>());
    }
  }

  /// The array of non-negative 64-bit integers called `field`.
  std::vector<std::int64_t> numbers(nlohmann::json const& object, char const* field, std::size_t most) const {
    auto const at = object.find(field);
    if (at == object.end() || !at->is_array()) fail("tensor '" + name_ + "' has no array '" + field + "'");
    if (at->size() > most)
      fail("tensor '" + name_ + "': '" + field + "' has more than " + std::to_string(most) + " numbers");
    std::vector<std::int64_t> out;
    for (auto const& number : *at) {
      if (!number.is_number_unsigned() || number.get<std::uint64_t>() > std::uint64_t{1} << 62)
        fail("tensor '" + name_ + "': '" + field + "' holds " + number.dump() + ", not a size");
      out.push_back(number.get<std::int64_t>());
    }
    return out;
  }

  void take_tensor(nlohmann::json const& object) {
    stored_tensor t;
    t.name = name_;
    auto const type = object.find("dtype");
    if (type == object.end() || !type->is_string()) fail("tensor '" + name_ + "' has no dtype");
    auto const known = dtype_named(type->get_ref<std::string const&>());
    std::uint64_t const bits = known ? 8 * size_of(*known) : foreign_dtype_bits(type->get_ref<std::string const&>());
    if (bits == 0) fail("tensor '" + name_ + "' has dtype " + type->dump() + ", which is not supported");
    t.shape = numbers(object, "shape", max_stored_rank);
    auto const offsets = numbers(object, "data_offsets", 2);
    auto const count = element_count(t.shape);
    if (offsets.size() != 2 || offsets[0] > offsets[1] || static_cast<std::uint64_t>(offsets[1]) > data_.size())
      fail("tensor '" + name_ + "': data_offsets " + shape_text(offsets) + " do not lie in " +
           std::to_string(data_.size()) + " bytes of data");
    auto const first = static_cast<std::uint64_t>(offsets[0]), last = static_cast<std::uint64_t>(offsets[1]);
    if (!count || *count > 2 * data_.size() || *count * bits != 8 * (last - first))
      fail("tensor '" + name_ + "': shape " + shape_text(t.shape) + " of " + type->get_ref<std::string const&>() +
           " does not take the " + std::to_string(last - first) + " bytes of its data_offsets");
    ranges_.emplace_back(first, last);
    if (!known) {
      content_.left_out.push_back("'" + name_ + "' has dtype " + type->dump() +
                                  ", which is not supported: it is left out");
      return;
    }
    t.type = *known;
    t.strides = contiguous_strides(t.shape);
    t.data = data_.data() + first;
    content_.tensors.push_back(std::move(t));
  }

  std::filesystem::path const& path_;
  std::span<std::byte const> data_;
  safetensors_content content_;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges_;
  std::unordered_set<std::string> seen_, fields_;
  std::string name_;
  bool passed_over_ = false;  // inside a field of no meaning
};

}  // namespace detail

/// Whether `bytes` may be a safetensors file: a plausible header length, then an opening brace.
[[nodiscard]] inline bool looks_like_safetensors(std::span<std::byte const> bytes) noexcept {
  return bytes.size() >= 10 && detail::read_le<std::uint64_t>(bytes.data()) <= max_safetensors_header &&
         bytes[8] == std::byte{'{'};
}

/// Reads the header of a safetensors file of which `bytes` is the whole content; `path` is for messages only. Data are
/// not touched: the tensors point into `bytes`.
///
/// Refused, as by the format's reference: a header over 100 MB or past the end, invalid JSON or UTF-8, a name given
/// twice, offsets out of range, a size that is not the shape's, overlaps, holes, bytes after the last tensor. Throws
/// file_error naming the tensor. Memory taken is bounded by a small multiple of the header's length.
[[nodiscard]] inline safetensors_content read_safetensors(std::span<std::byte const> bytes,
                                                          std::filesystem::path const& path) {
  if (bytes.size() < 8) throw file_error{path, "safetensors: shorter than the 8 bytes of its header's length"};
  auto const length = detail::read_le<std::uint64_t>(bytes.data());
  if (length > max_safetensors_header)
    throw file_error{path, "safetensors: a header of " + std::to_string(length) + " bytes is over the limit of 100 MB"};
  if (length > bytes.size() - 8)
    throw file_error{path, "safetensors: a header of " + std::to_string(length) + " bytes in a file of " +
                               std::to_string(bytes.size()) + " bytes (truncated?)"};
  auto const text = detail::as_text(bytes.subspan(8, static_cast<std::size_t>(length)));
  if (std::size_t const nul = text.find('\0'); nul != text.npos)  // nlohmann's parser would take it for the end
    throw file_error{path, "safetensors: the header is not valid JSON: a NUL byte at byte " + std::to_string(nul + 8)};
  detail::safetensors_header header{path, bytes.subspan(8 + static_cast<std::size_t>(length))};
  try {
    nlohmann::json const parsed = detail::parse_json_events(text, header);
    if (!parsed.is_object()) throw file_error{path, "safetensors: the header is not a JSON object"};
  } catch (nlohmann::json::exception const& problem) {
    throw file_error{path, std::string{"safetensors: the header is not valid JSON: "} + problem.what()};
  }
  return header.finish();
}

}  // namespace dm2
