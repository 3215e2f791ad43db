/// @file
/// Golden files: tensors by name.
#pragma once

#include <dm2/io/tensor_file.hpp>

#include <doctest/doctest.h>

#include "support/compare.hpp"

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

}  // namespace dm2::test
