/// @file
/// A network's state from and to a file: all of it, or none.
#pragma once

#include <dm2/core/parameters.hpp>
#include <dm2/io/checkpoint.hpp>
#include <dm2/io/config_json.hpp>
#include <dm2/io/safetensors_write.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/model/config.hpp>
#include <dm2/run/network.hpp>

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace dm2::run {

/// Fills a network from an opened file, as dm2::load does a model: its notices and errors are the same.
///
///     dm2::tensor_file const file{"model.safetensors"};
///     auto const net = dm2::run::find_code(dm2::config_of(file).configuration, backend::cpu).make_network(8, 0);
///     dm2::run::load(*net, file);
inline std::vector<std::string> load(network& net, tensor_file const& file) {
  return dm2::detail::load_entries(net.configuration(), net.table(), net.state(), net.counters(), file);
}

namespace detail {

/// Writes a state to a safetensors file, whole or not at all, with the configuration: what dm2::save writes of the same
/// model, byte by byte. Throws as dm2::save does; `who` begins the message.
inline void save_state(char const* who, config const& c, std::span<parameter_entry const> table,
                       std::span<float const> state, std::span<std::int64_t const> counters,
                       std::filesystem::path const& path, std::map<std::string, std::string> metadata) {
  if (metadata.contains("config") || metadata.contains("format") || metadata.contains(training_key))
    throw std::invalid_argument{std::string{who} +
                                ": the metadata keys 'config', 'format' and 'training' are dm2's own"};
  metadata["config"] = to_json(c).dump();
  metadata["format"] = "pt";
  std::vector<stored_tensor> tensors;
  dm2::detail::add_entry_tensors(tensors, "", table, state, counters);
  write_safetensors(path, tensors, metadata);
}

}  // namespace detail

/// Writes a network's state to a safetensors file, whole or not at all, with the configuration: what dm2::save writes
/// of the same model, byte by byte. Throws as dm2::save does.
inline void save(network& net, std::filesystem::path const& path, std::map<std::string, std::string> metadata = {}) {
  detail::save_state("dm2::run::save", net.configuration(), net.table(), net.state(), net.counters(), path,
                     std::move(metadata));
}

}  // namespace dm2::run
