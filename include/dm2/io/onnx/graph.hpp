/// @file
/// A graph of ONNX operators while it is built: nodes, weights, names.
#pragma once

#include <dm2/io/half.hpp>
#include <dm2/io/protobuf_writer.hpp>
#include <dm2/io/tensor.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <map>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace dm2::detail {

/// ONNX's numbers of the element types (TensorProto.DataType).
enum class onnx_type : std::uint8_t { float32 = 1, uint8 = 2, int64 = 7, float16 = 10 };

/// A constant tensor of a graph, an "initializer".
struct onnx_constant {
  std::string name;
  onnx_type type;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> data;  ///< row-major, little-endian
};

/// An attribute of a node: a number, numbers or a text.
struct onnx_attribute {
  std::string_view name;
  std::variant<std::int64_t, std::vector<std::int64_t>> value;
};

/// An input or output of a graph; an extent of 0 is the batch's, which may be any.
struct onnx_port {
  std::string name;
  onnx_type type;
  std::vector<std::int64_t> shape;
};

/// Builds a graph, node after node, each after those whose values it takes. Values are told by their names, which say
/// where in the network they are: "layers.3/mixer/Softplus".
///
/// In half precision, weights() are float16, and half() and full() cast between float16 and float32; else they pass on
/// what they get.
class onnx_graph {
 public:
  explicit onnx_graph(bool half) : half_{half} {}

  /// Puts `part` before the names of what is added while the result lives.
  class scope {
   public:
    scope(onnx_graph& g, std::string_view part) : graph_{g}, length_{g.scope_.size()} {
      g.scope_ += std::string{part} + "/";
    }
    scope(scope const&) = delete;
    scope& operator=(scope const&) = delete;
    ~scope() { graph_.scope_.resize(length_); }

   private:
    onnx_graph& graph_;
    std::size_t length_;
  };

  using inputs = std::vector<std::string>;
  using attributes = std::vector<onnx_attribute>;

  /// Adds a node of one output; returns that one's name.
  std::string node(std::string_view op, inputs const& from, attributes const& with = {}) {
    return nodes(op, from, 1, with).front();
  }
  /// Adds a node of several outputs.
  std::vector<std::string> nodes(std::string_view op, inputs const& from, int outputs, attributes const& with = {}) {
    std::string const name = unused(scope_ + std::string{op});
    std::vector<std::string> to;
    to.reserve(std::size_t(outputs));
    for (int i = 0; i < outputs; ++i) to.push_back(outputs == 1 ? name : name + ":" + std::to_string(i));
    add(op, name, from, to, with);
    return to;
  }
  /// Adds a node whose output is one of the graph's: it has the name `output`.
  void output(std::string_view op, inputs const& from, onnx_port port, attributes const& with = {}) {
    add(op, unused(scope_ + std::string{op}), from, {port.name}, with);
    outputs_.push_back(std::move(port));
  }
  /// Adds an input of the graph.
  std::string input(onnx_port port) {
    inputs_.push_back(std::move(port));
    return inputs_.back().name;
  }

  /// float32 numbers. What is called "numbers", "integers" or "mask" is there once, if it is equal.
  std::string numbers(std::span<double const> values, std::vector<std::int64_t> shape) {
    std::vector<float> const floats(values.begin(), values.end());
    return constant(onnx_type::float32, std::as_bytes(std::span{floats}), std::move(shape), "numbers");
  }
  /// One float32 number.
  std::string number(double value) { return numbers(std::span{&value, 1}, {}); }
  /// Numbers in the precision of the computation, called `label`.
  ///
  /// Throws std::range_error where one is finite and none of float16.
  std::string weights(std::span<double const> values, std::vector<std::int64_t> shape,
                      std::string_view label = "numbers") {
    std::vector<float> const floats(values.begin(), values.end());
    if (!half_) return constant(onnx_type::float32, std::as_bytes(std::span{floats}), std::move(shape), label);
    std::vector<std::uint16_t> halves;
    halves.reserve(floats.size());
    for (float const value : floats) {
      halves.push_back(float_to_half(value));
      if (std::isfinite(value) && !std::isfinite(half_to_float(halves.back())))
        throw std::range_error{scope_ + std::string{label} + ": " + std::to_string(value) +
                               " is over 65504, the largest number of half precision"};
    }
    return constant(onnx_type::float16, std::as_bytes(std::span{halves}), std::move(shape), label);
  }
  /// One number in the precision of the computation.
  std::string weight(double value) { return weights(std::span{&value, 1}, {}); }
  /// A list of integers: a shape, axes, lengths.
  std::string integers(std::vector<std::int64_t> const& values) {
    return constant(onnx_type::int64, std::as_bytes(std::span{values}), {std::int64_t(values.size())}, "integers");
  }
  /// One integer that is no list.
  std::string integer(std::int64_t value) {
    return constant(onnx_type::int64, std::as_bytes(std::span{&value, 1}), {}, "integers");
  }

  /// The value in float32.
  std::string full(std::string const& x) { return half_ ? cast(x, onnx_type::float32) : x; }
  /// The value in the precision of the computation.
  std::string half(std::string const& x) { return half_ ? cast(x, onnx_type::float16) : x; }
  std::string cast(std::string const& x, onnx_type to) {
    return node("Cast", {x}, {{"to", static_cast<std::int64_t>(to)}});
  }

  // What networks are made of, and ONNX writes with constants.
  std::string reshape(std::string const& x, std::vector<std::int64_t> const& shape) {
    return node("Reshape", {x, integers(shape)});
  }
  std::string transpose(std::string const& x, std::vector<std::int64_t> const& order) {
    return node("Transpose", {x}, {{"perm", order}});
  }
  /// Parts of the given lengths along an axis.
  std::vector<std::string> split(std::string const& x, std::vector<std::int64_t> const& lengths, std::int64_t axis) {
    return nodes("Split", {x, integers(lengths)}, int(lengths.size()), {{"axis", axis}});
  }
  std::string concat(inputs const& parts, std::int64_t axis) { return node("Concat", parts, {{"axis", axis}}); }
  std::string slice(std::string const& x, std::int64_t first, std::int64_t last, std::int64_t axis) {
    return node("Slice", {x, integers({first}), integers({last}), integers({axis})});
  }
  /// x sigmoid(x), in the form that runtimes know as one operation.
  std::string silu(std::string const& x) { return node("Mul", {x, node("Sigmoid", {x})}); }

  [[nodiscard]] std::span<onnx_constant const> constants() const noexcept { return constants_; }
  [[nodiscard]] std::span<onnx_port const> inputs_of() const noexcept { return inputs_; }
  [[nodiscard]] std::span<onnx_port const> outputs_of() const noexcept { return outputs_; }
  /// The nodes, each as a NodeProto, under field 1 of a GraphProto.
  [[nodiscard]] protobuf_writer const& written_nodes() const noexcept { return nodes_; }

 private:
  /// The name, with a number behind it where it is taken.
  std::string unused(std::string const& name) {
    int const count = names_[name]++;
    return count == 0 ? name : name + "_" + std::to_string(count);
  }

  void add(std::string_view op, std::string const& name, inputs const& from, inputs const& to, attributes const& with) {
    protobuf_writer out;
    for (std::string const& x : from) out.text(1, x);
    for (std::string const& x : to) out.text(2, x);
    out.text(3, name);
    out.text(4, op);
    for (onnx_attribute const& a : with) {
      protobuf_writer attribute;
      attribute.text(1, a.name);
      if (auto const* const one = std::get_if<std::int64_t>(&a.value)) {
        attribute.integer(3, *one);
        attribute.integer(20, 2);  // INT
      } else {
        for (std::int64_t const value : std::get<std::vector<std::int64_t>>(a.value)) attribute.integer(8, value);
        attribute.integer(20, 7);  // INTS
      }
      out.message(5, attribute);
    }
    nodes_.message(1, out);
  }

  std::string constant(onnx_type type, std::span<std::byte const> bytes, std::vector<std::int64_t> shape,
                       std::string_view label) {
    bool const shared = label == "numbers" || label == "integers" || label == "mask";
    std::string key;
    if (shared) {
      key = std::to_string(int(type)) + shape_text(shape) + std::string{as_text(bytes)};
      if (auto const found = known_.find(key); found != known_.end()) return found->second;
    }
    std::string name = unused((shared ? "" : scope_) + std::string{label});
    constants_.push_back({name, type, std::move(shape), {bytes.begin(), bytes.end()}});
    if (shared) known_.emplace(std::move(key), name);
    return name;
  }

  bool half_;
  std::string scope_;
  std::map<std::string, int> names_;
  std::map<std::string, std::string> known_;
  std::vector<onnx_constant> constants_;
  std::vector<onnx_port> inputs_, outputs_;
  protobuf_writer nodes_;
};

/// x / sqrt(mean of its square along an axis + eps), in the precision of the computation. The mean is of float32. The
/// norm's own weights are a factor of the projection behind it.
inline std::string onnx_root_mean_square(onnx_graph& g, std::string const& x, double eps, std::int64_t axis = 1) {
  std::string const wide = g.full(x);
  std::string const mean =
      g.node("ReduceMean", {g.node("Mul", {wide, wide})}, {{"axes", std::vector{axis}}, {"keepdims", std::int64_t{1}}});
  return g.half(g.node("Div", {wide, g.node("Sqrt", {g.node("Add", {mean, g.number(eps)})})}));
}

}  // namespace dm2::detail
