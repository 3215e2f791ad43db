/// @file
/// Arrays on the device for tests: filled from numbers on the host, poisoned, read back.
#pragma once

#include <dm2/core/view.hpp>
#include <dm2/cuda/check.cuh>
#include <dm2/cuda/device/memory.cuh>
#include <dm2/cuda/element.cuh>

#include <cstddef>
#include <limits>
#include <type_traits>
#include <vector>

namespace dm2::test {

/// n numbers of T on the device, with a poisoned margin of 64 on each side that no operation may touch.
template <class T>
class device_array {
 public:
  device_array() = default;
  /// All NaN (all bits set where T is an integer): an output that must be overwritten whole.
  explicit device_array(std::size_t n) : n_{n}, memory_{(n + 2 * margin) * sizeof(T)} {
    cuda::check(cudaMemset(memory_.data(), 0xff, memory_.size()), "poison");
  }
  /// The host's numbers, rounded to T.
  template <class U>
  explicit device_array(std::vector<U> const& values) : device_array(values.size()) {
    std::vector<T> host(n_);
    for (std::size_t i = 0; i < n_; ++i) {
      if constexpr (cuda::is_half<T>)
        host[i] = cuda::detail::from_float<T>(float(values[i]));
      else
        host[i] = T(values[i]);
    }
    cuda::check(cudaMemcpy(data(), host.data(), n_ * sizeof(T), cudaMemcpyHostToDevice), "upload");
  }

  [[nodiscard]] T* data() const { return reinterpret_cast<T*>(memory_.data()) + margin; }
  [[nodiscard]] std::size_t size() const { return n_; }

  /// What the device holds now, as double. Waits for all its work.
  [[nodiscard]] std::vector<double> read() const { return fetch(margin, n_); }
  /// Whether both margins still hold the poison.
  [[nodiscard]] bool margins_untouched() const {
    for (std::size_t first : {std::size_t{0}, margin + n_})
      for (double v : fetch(first, margin))
        if (v == v && !std::is_integral_v<T>) return false;
    return true;
  }
  /// As rows of C numbers.
  template <int C>
  [[nodiscard]] rows<T, C, space::device> as_rows() const {
    return {data(), n_ / C};
  }
  /// As a tensor of known shape.
  template <int... E>
  [[nodiscard]] block<T, space::device, E...> as_block() const {
    return block<T, space::device, E...>{data()};
  }

 private:
  static constexpr std::size_t margin = 64;

  [[nodiscard]] std::vector<double> fetch(std::size_t first, std::size_t n) const {
    cuda::check(cudaDeviceSynchronize(), "the work before");
    std::vector<T> host(n);
    cuda::check(cudaMemcpy(host.data(), reinterpret_cast<T const*>(memory_.data()) + first, n * sizeof(T),
                           cudaMemcpyDeviceToHost),
                "download");
    std::vector<double> values(n);
    for (std::size_t i = 0; i < n; ++i) {
      if constexpr (cuda::is_half<T>)
        values[i] = double(cuda::detail::to_float(host[i]));
      else
        values[i] = double(host[i]);
    }
    return values;
  }

  std::size_t n_ = 0;
  cuda::device_memory memory_;
};

/// The numbers as T stores them: what an oracle in double has to start from.
template <class T>
std::vector<double> rounded(std::vector<double> values) {
  for (double& v : values) {
    if constexpr (cuda::is_half<T>)
      v = double(cuda::detail::to_float(cuda::detail::from_float<T>(float(v))));
    else
      v = double(T(v));
  }
  return values;
}

/// The largest relative error in norm that an operation with operands of T may have against double, where its inputs
/// are exact: rounding of operands and of the result.
template <class T>
inline constexpr double rounding_tolerance = std::is_same_v<T, __nv_bfloat16> ? 8e-3
                                             : std::is_same_v<T, __half>      ? 1e-3
                                                                              : 2e-6;

}  // namespace dm2::test
