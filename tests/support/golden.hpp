/// @file
/// Golden files: tensors by name, and comparison by norm.
#pragma once

#include <dm2/io/tensor_file.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dm2::test {

/// A safetensors file of DM2_GOLDEN_DIR.
class golden {
 public:
  explicit golden(std::string const& name) : file_{std::string{DM2_GOLDEN_DIR "/"} + name} {}

  [[nodiscard]] bool has(std::string const& name) const { return file_.find(name) != nullptr; }
  [[nodiscard]] stored_tensor const& tensor(std::string const& name) const {
    stored_tensor const* t = file_.find(name);
    REQUIRE_MESSAGE(t != nullptr, name);
    return *t;
  }
  template <class T = double>
  [[nodiscard]] std::vector<T> get(std::string const& name) const {
    return to_vector<T>(tensor(name));
  }
  [[nodiscard]] tensor_file const& file() const { return file_; }

 private:
  tensor_file file_;
};

/// |got - want| / |want| in the Euclidean norm, in double. NaN anywhere gives NaN, which no comparison accepts; two
/// zero vectors give 0.
template <class A, class B>
double relative_error(A const& got, B const& want) {
  REQUIRE(std::size(got) == std::size(want));
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < std::size(want); ++i) {
    double const w = double(want[i]), d = double(got[i]) - w;
    difference += d * d;
    norm += w * w;
  }
  if (norm == 0) return std::sqrt(difference);
  return std::sqrt(difference / norm);
}

}  // namespace dm2::test
