// What tells a model's configuration: tensors' names and shapes, metadata, and files of fields.
#include <dm2/io/checkpoint_differences.hpp>
#include <dm2/io/config_json.hpp>
#include <dm2/io/json_text.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/model/config_rules.hpp>
#include <dm2/model/model_table.hpp>
#include <dm2/run/config_of_file.hpp>

#include "../../examples/support/model_file.hpp"
#include "fuzz/support.hpp"
#include "fuzz/targets.hpp"

#include <nlohmann/json.hpp>

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dm2::fuzz {
namespace {

/// A sound safetensors file, described by lines: mutations need not keep a header right, nor have the tensors' bytes.
///
///     head.weight 10 192         a tensor and its shape
///     =config {"depth": 2}       metadata
///     ?image [64, 32]            a field that the user says
class described_file {
 public:
  explicit described_file(std::string_view text) {
    for (int lines = 0; !text.empty() && lines < 600; ++lines) {
      std::string_view const line = text.substr(0, text.find('\n'));
      text.remove_prefix(line.size() == text.size() ? line.size() : line.size() + 1);
      take(line);
    }
  }

  /// The bytes before the tensors'.
  [[nodiscard]] std::string front() const {
    std::string const json = header_.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
    std::string out;
    for (int i = 0; i < 8; ++i) out += char(json.size() >> 8 * i & 0xFF);
    return out + json;
  }
  /// Bytes of the tensors, all of them zero.
  [[nodiscard]] std::uint64_t size() const { return size_; }
  /// What the user says.
  [[nodiscard]] nlohmann::json const& said() const { return said_; }

 private:
  void take(std::string_view line) {
    std::string_view const word = line.substr(0, line.find(' '));
    std::string_view const rest = line.substr(word.size() == line.size() ? line.size() : word.size() + 1);
    if (word.starts_with('='))
      header_["__metadata__"][std::string{word.substr(1)}] = std::string{rest};
    else if (word.starts_with('?'))
      say(std::string{word.substr(1)}, rest);
    else if (!word.empty())
      add(std::string{word}, rest);
  }
  void say(std::string const& field, std::string_view text) {
    if (nlohmann::json value = detail::parse_json(text); !value.is_discarded()) said_[field] = std::move(value);
  }
  /// A tensor; left out where the file, which is sparse, would have more than a TiB.
  void add(std::string const& name, std::string_view extents) {
    bool const counter = name.ends_with("num_batches_tracked");
    std::uint64_t bytes = counter ? 8 : 4;
    nlohmann::ordered_json shape = nlohmann::ordered_json::array();
    while (!extents.empty() && shape.size() < 9) {
      std::uint64_t extent = 0;
      auto const [end, problem] = std::from_chars(extents.data(), extents.data() + extents.size(), extent);
      if (problem != std::errc{} || extent > 1ull << 40) return;
      if (extent != 0 && bytes > (1ull << 40) / extent) return;
      bytes *= extent;
      shape.push_back(extent);
      extents.remove_prefix(std::size_t(end - extents.data()));
      if (extents.starts_with(' ')) extents.remove_prefix(1);
    }
    if (size_ + bytes > 1ull << 40 || header_.contains(name)) return;
    header_[name] = {{"dtype", counter ? "I64" : "F32"}, {"shape", shape}, {"data_offsets", {size_, size_ + bytes}}};
    size_ += bytes;
  }

  nlohmann::ordered_json header_ = nlohmann::ordered_json::object();
  nlohmann::json said_ = nlohmann::json::object();
  std::uint64_t size_ = 0;
};

/// A configuration that was told keeps every rule, is the file's, and is told again by itself.
void examine(told_model const& told, tensor_file const& file) {
  if (broken_rule(told.configuration) != nullptr) finding("a configuration that breaks a rule");
  if (!checkpoint_differences(model_table{told.configuration}, file).empty())
    finding("a model that the file is none of");
  if (told.name.empty() || told.source.empty()) finding("a model without a name");
  for (std::string const& line : told.notices)
    if (line.empty() || line.size() > 10'000) finding("a notice of " + std::to_string(line.size()) + " bytes");
  told_model const again = config_of(file, to_json(told.configuration));
  if (to_json(again.configuration) != to_json(told.configuration)) finding("another model where all fields are said");
  for (std::string const& line : again.notices)
    if (line.find(" assumed") != line.npos) finding("assumed though it is said: " + line);
}

bool tensors(std::span<std::byte const> bytes) {
  described_file const described{detail::as_text(bytes)};
  std::string const front = described.front();
  memory_file const file{std::as_bytes(std::span{front}), described.size()};
  bool taken = false;
  (void)reads(file.path(), [&] {
    tensor_file const opened{file.path()};
    taken = reads(file.path(), [&] { examine(config_of(opened), opened); });
    if (described.said().empty()) return;
    taken |= reads(file.path(), [&] {
      try {
        examine(config_of(opened, described.said()), opened);
      } catch (std::invalid_argument const&) {  // what the user says has a field of another type
      }
    });
  });
  return taken;
}

/// A file of fields, laid over its base.
bool fields(char const* file, std::span<std::byte const> bytes) {
  return reads(file, [&] {
    example::named_model const read = example::model_of_text(file, std::string{detail::as_text(bytes)});
    nlohmann::json all = to_json(read.base);
    all.update(read.given);
    config const c = config_from_json(all);
    if (to_json(config_from_json(to_json(c))) != to_json(c)) finding("a configuration that does not come back");
    (void)broken_rule(c);
  });
}
bool toml_fields(std::span<std::byte const> bytes) { return fields("m.toml", bytes); }
bool json_fields(std::span<std::byte const> bytes) { return fields("m.json", bytes); }

}  // namespace

std::vector<target> configuration_targets() {
  return {{"config", tensors}, {"model_toml", toml_fields}, {"model_json", json_fields}};
}

}  // namespace dm2::fuzz
