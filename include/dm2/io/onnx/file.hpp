/// @file
/// Writes a graph as an ONNX file, weights inside or beside it.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/version.hpp>
#include <dm2/io/atomic_file.hpp>
#include <dm2/io/onnx/graph.hpp>
#include <dm2/io/protobuf_writer.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dm2::detail {

/// The opset and the version of the file format, as of ONNX 1.12: what runtimes of the last years read.
inline constexpr std::int64_t onnx_opset = 17, onnx_ir_version = 8;

/// Bytes of weights from which they are in a file of their own: a protocol buffer has under 2^31 bytes.
inline constexpr std::size_t onnx_most_inside = std::size_t{1792} << 20;

/// Constants of fewer bytes stay inside, as shapes have to.
inline constexpr std::size_t onnx_least_outside = 1024;

/// Where external weights begin in their file: whole pages, so that a runtime can map them.
inline constexpr std::size_t onnx_page = 4096;

/// Writes the parts of a ModelProto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto) one after the other, the
/// weights without a copy of them all.
class onnx_file_writer {
 public:
  /// The graph outlives this. Weights outside are in `path`.data.
  onnx_file_writer(onnx_graph const& g, std::filesystem::path const& path, bool external)
      : graph_{g}, path_{path}, data_path_{path.string() + ".data"} {
    std::size_t total = 0;
    for (onnx_constant const& c : g.constants()) total += c.data.size();
    external_ = external || total > onnx_most_inside;
    for (onnx_constant const& c : g.constants()) add(c);
  }

  void operator()(std::map<std::string, std::string> const& metadata) const {
    atomic_file model{path_};
    std::optional<atomic_file> data;
    if (external_) write_data(data.emplace(data_path_));
    write_model(model, metadata);
    if (data) data->commit();
    model.commit();
  }

 private:
  /// A TensorProto: all but the raw bytes that follow it.
  struct tensor {
    protobuf_writer header;
    std::span<std::byte const> raw;  ///< of the field that ends it
    std::span<std::byte const> outside;
    std::size_t offset = 0;
  };

  void add(onnx_constant const& c) {
    tensor& t = tensors_.emplace_back();
    for (std::int64_t const extent : c.shape) t.header.integer(1, extent);
    t.header.integer(2, static_cast<std::int64_t>(c.type));
    t.header.text(8, c.name);
    if (!external_ || c.data.size() < onnx_least_outside) {
      t.raw = c.data;
      return;
    }
    t.outside = c.data;
    t.offset = (end_ + onnx_page - 1) / onnx_page * onnx_page;
    end_ = t.offset + c.data.size();
    auto const say = [&](std::string_view key, std::string const& value) {
      protobuf_writer entry;
      entry.text(1, key);
      entry.text(2, value);
      t.header.message(13, entry);
    };
    say("location", data_path_.filename().string());
    say("offset", std::to_string(t.offset));
    say("length", std::to_string(c.data.size()));
    t.header.integer(14, 1);  // data_location = EXTERNAL
  }

  void write_data(atomic_file& to) const {
    std::vector<std::byte> const zeros(onnx_page);
    std::size_t at = 0;
    for (tensor const& t : tensors_) {
      if (t.outside.empty()) continue;
      to.write(std::span{zeros}.first(t.offset - at));
      to.write(t.outside);
      at = t.offset + t.outside.size();
    }
  }

  /// The key and length that stand before `bytes` bytes of a field.
  static protobuf_writer before(std::uint32_t field, std::size_t bytes) {
    protobuf_writer out;
    out.begin(field, bytes);
    return out;
  }
  static std::size_t tensor_bytes(tensor const& t) {
    std::size_t const raw = t.raw.empty() ? 0 : before(9, t.raw.size()).data().size() + t.raw.size();
    return t.header.data().size() + raw;
  }

  static protobuf_writer port(onnx_port const& p) {
    protobuf_writer shape, tensor, type, out;
    for (std::int64_t const extent : p.shape) {
      protobuf_writer dimension;
      if (extent == 0)
        dimension.text(2, "batch");
      else
        dimension.integer(1, extent);
      shape.message(1, dimension);
    }
    tensor.integer(1, static_cast<std::int64_t>(p.type));
    tensor.message(2, shape);
    type.message(1, tensor);
    out.text(1, p.name);
    out.message(2, type);
    return out;
  }

  void write_model(atomic_file& to, std::map<std::string, std::string> const& metadata) const {
    protobuf_writer head, opset, tail;
    head.integer(1, onnx_ir_version);
    head.text(2, "dm2");
    head.text(3, version_text);
    opset.integer(2, onnx_opset);
    head.message(8, opset);
    for (auto const& [key, value] : metadata) {
      protobuf_writer entry;
      entry.text(1, key);
      entry.text(2, value);
      head.message(14, entry);
    }
    tail.text(2, "DeMansia 2");
    for (onnx_port const& p : graph_.inputs_of()) tail.message(11, port(p));
    for (onnx_port const& p : graph_.outputs_of()) tail.message(12, port(p));
    std::size_t bytes = graph_.written_nodes().data().size() + tail.data().size();
    for (tensor const& t : tensors_) bytes += before(5, tensor_bytes(t)).data().size() + tensor_bytes(t);
    to.write(head.data());
    to.write(before(7, bytes).data());
    to.write(graph_.written_nodes().data());
    for (tensor const& t : tensors_) {
      to.write(before(5, tensor_bytes(t)).data());
      to.write(t.header.data());
      if (t.raw.empty()) continue;
      to.write(before(9, t.raw.size()).data());
      to.write(t.raw);
    }
    to.write(tail.data());
  }

  onnx_graph const& graph_;
  std::filesystem::path path_, data_path_;
  bool external_ = false;
  std::vector<tensor> tensors_;
  std::size_t end_ = 0;
};

}  // namespace dm2::detail
