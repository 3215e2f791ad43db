/// @file
/// Pinned memory as a standard memory resource.
#pragma once

#include <dm2/cuda/check.cuh>

#include <cstddef>
#include <memory_resource>

namespace dm2::cuda {

/// Host memory that the device copies from without a detour, for whatever takes a std::pmr::memory_resource. Any thread
/// may use it.
class pinned_resource final : public std::pmr::memory_resource {
 public:
  /// The one of this program, which lives as long as it does.
  [[nodiscard]] static pinned_resource& get() {
    static pinned_resource one;
    return one;
  }

 private:
  /// Throws error where the host has not enough.
  void* do_allocate(std::size_t bytes, std::size_t) override {
    void* p = nullptr;
    check(cudaMallocHost(&p, bytes), "pinned memory");
    return p;
  }
  void do_deallocate(void* p, std::size_t, std::size_t) override { static_cast<void>(cudaFreeHost(p)); }
  [[nodiscard]] bool do_is_equal(std::pmr::memory_resource const& o) const noexcept override { return this == &o; }
};

}  // namespace dm2::cuda
