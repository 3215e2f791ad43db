/// @file
/// What the parts of the Python module share: arrays, and the functions by which each part adds itself.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <utility>

namespace dm2::python {

namespace nb = nanobind;

/// Numbers that a function reads where they lie: NumPy's, PyTorch's, or whoever speaks DLPack, on the host.
template <class T>
using read_array = nb::ndarray<T const, nb::c_contig, nb::device::cpu>;

/// The same on a GPU.
template <class T>
using device_array = nb::ndarray<T, nb::c_contig, nb::device::cuda>;

/// A NumPy array that owns its numbers.
template <class T>
struct made_array {
  std::unique_ptr<T[]> numbers;
  std::size_t count;

  explicit made_array(std::size_t n) : numbers{new T[n]}, count{n} {}
  [[nodiscard]] T* data() const { return numbers.get(); }

  /// Hands the numbers over to Python.
  [[nodiscard]] nb::ndarray<nb::numpy, T> give(std::initializer_list<std::size_t> shape) {
    T* const first = numbers.release();
    nb::capsule const owner{first, [](void* p) noexcept { delete[] static_cast<T*>(p); }};
    return nb::ndarray<nb::numpy, T>{first, shape, owner};
  }
};

void add_errors(nb::module_& m);
void add_model(nb::module_& m);
void add_pictures(nb::module_& m);
void add_training(nb::module_& m);
void add_operators(nb::module_& m);

}  // namespace dm2::python
