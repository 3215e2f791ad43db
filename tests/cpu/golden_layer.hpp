/// @file
/// One case of layers.safetensors: an operation's inputs, its output, and the gradients of sum(out * cotangent).
#pragma once

#include "support/golden.hpp"

#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace dm2::test {

template <class T>
class golden_layer {
 public:
  explicit golden_layer(std::string name) : name_{std::move(name)} {}

  [[nodiscard]] std::vector<T> in(std::string const& input) const { return get("in/" + input); }
  [[nodiscard]] std::vector<T> cotangent() const { return get("cotangent"); }

  /// Relative error of an output, or of the gradient of an input.
  [[nodiscard]] double out_error(std::vector<T> const& got) const {
    return relative_error(got, file().get(name_ + "/out"));
  }
  [[nodiscard]] double gradient_error(std::string const& input, std::vector<T> const& got) const {
    return relative_error(got, file().get(name_ + "/grad/" + input));
  }

  static constexpr double out_tolerance = std::is_same_v<T, double> ? 1e-9 : 1e-5;
  static constexpr double gradient_tolerance = std::is_same_v<T, double> ? 1e-9 : 1e-4;

 private:
  static golden const& file() {
    static golden const f{"layers.safetensors"};
    return f;
  }
  [[nodiscard]] std::vector<T> get(std::string const& part) const { return file().get<T>(name_ + "/" + part); }

  std::string name_;
};

}  // namespace dm2::test
