/// @file
/// What a tensor file holds, for people to read.
#pragma once

#include <dm2/io/json_text.hpp>
#include <dm2/io/tensor.hpp>
#include <dm2/io/tensor_file.hpp>

#include <nlohmann/json.hpp>

#include "table.hpp"
#include "text.hpp"

#include <cstddef>
#include <cstdint>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

namespace dm2::example {

/// A row for each tensor in the file's order, and a line with the total.
inline void print_tensors(std::ostream& out, tensor_file const& file) {
  table t{{{"name"}, {"type"}, {"shape", true}, {"numbers", true}}};
  std::vector<std::vector<std::string>> rows;
  std::uint64_t numbers = 0, bytes = 0;
  for (stored_tensor const& tensor : file.tensors()) {
    rows.push_back(
        {printable(tensor.name), std::string{name_of(tensor.type)}, shape_text(tensor.shape), grouped(tensor.size())});
    for (std::size_t i = 0; i < rows.back().size(); ++i) t.fit(i, rows.back()[i]);
    numbers += tensor.size();
    bytes += tensor.size() * size_of(tensor.type);
  }
  t.print_titles(out);
  for (auto const& row : rows) t.print_row(out, row);
  out << counted(rows.size(), "tensor") << ", " << counted(numbers, "number") << ", " << byte_size(bytes) << "; "
      << name_of(file.format()) << (file.averaged() ? ", averaged weights" : "") << '\n';
}

/// One JSON object: the format, whether the weights are averages, metadata (parsed where it is JSON itself) and
/// hyper-parameters.
inline void print_metadata(std::ostream& out, tensor_file const& file) {
  auto metadata = nlohmann::ordered_json::object();
  auto& entries = metadata.get_ref<nlohmann::ordered_json::object_t&>();
  for (auto const& [key, value] : file.metadata()) {
    auto parsed = dm2::detail::parse_json<nlohmann::ordered_json>(value);
    // keys are known to differ: no search
    entries.push_back({key, parsed.is_structured() ? std::move(parsed) : nlohmann::ordered_json(value)});
  }
  nlohmann::ordered_json object{{"format", name_of(file.format())}, {"averaged", file.averaged()}};
  if (!metadata.empty()) object["metadata"] = std::move(metadata);
  if (!file.hyper_parameters().is_null()) object["hyper_parameters"] = file.hyper_parameters();
  out << printable_json(object.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace)) << '\n';
}

}  // namespace dm2::example
