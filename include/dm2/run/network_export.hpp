/// @file
/// A network's state as an ONNX file or a hub's folder.
#pragma once

#include <dm2/io/checkpoint.hpp>
#include <dm2/io/onnx/options.hpp>
#include <dm2/io/onnx/write_onnx.hpp>
#include <dm2/io/tensor.hpp>
#include <dm2/run/hub_folder.hpp>
#include <dm2/run/network.hpp>

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace dm2::run {

namespace detail {

/// The network's entries as tensors: views of its own memory.
[[nodiscard]] inline std::vector<stored_tensor> tensors_of(network& net) {
  std::vector<stored_tensor> out;
  out.reserve(net.table().size());
  dm2::detail::add_entry_tensors(out, "", net.table(), std::span<float const>{net.state()},
                                 std::span<std::int64_t const>{net.counters()});
  return out;
}

}  // namespace detail

/// Writes a network's weights as they are now to an ONNX file: what dm2::write_onnx writes of a file of them, byte by
/// byte. The device computes nothing. Throws as it does.
///
///     dm2::run::write_onnx(*net, {.input = dm2::onnx_input::bytes}, "tiny.onnx");
inline void write_onnx(network& net, onnx_options const& o, std::filesystem::path const& path) {
  dm2::write_onnx(net.configuration(), detail::tensors_of(net), o, path);
}

/// The same as a folder for model hubs, as dm2::write_hub_folder writes one. `origin` is for the model card: of what
/// the weights are.
inline void write_hub_folder(network& net, std::string const& origin, onnx_options const& o,
                             std::filesystem::path const& folder) {
  dm2::write_hub_folder(net.configuration(), detail::tensors_of(net), origin, o, folder);
}

}  // namespace dm2::run
