#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/properties.cuh>

#include <doctest/doctest.h>

#include <string>

using namespace dm2;

TEST_CASE("device: a context is made on the current one, whose numbers are those of a GPU") {
  cuda::context<> const ctx;
  auto const& p = ctx.device();
  CHECK(p.device == cuda::current_device());
  CHECK(p.major >= 8);
  CHECK(p.multiprocessors > 0);
  CHECK(p.shared_per_block >= 48 << 10);
  CHECK(p.shared_per_sm > p.shared_per_block);
  CHECK(cuda::has_code());
  CHECK_NOTHROW(cuda::require_code(p));
}

TEST_CASE("device: architectures and versions are written as people write them") {
  CHECK(cuda::detail::architecture_names({}) == "");
  CHECK(cuda::detail::architecture_names({800}) == "8.0");
  CHECK(cuda::detail::architecture_names({800, 890, 900, 1030}) == "8.0, 8.9, 9.0, 10.3");
  CHECK(cuda::detail::version_name(12040) == "12.4");
}

TEST_CASE("device: one without code is named, with what was built and what to do") {
  CHECK(cuda::detail::no_code_text("NVIDIA T4", 1, 7, 5, "8.0, 9.0") ==
        "device 1, NVIDIA T4, has compute capability 7.5, and this program was built for 8.0, 9.0 only: add 75 to "
        "CMAKE_CUDA_ARCHITECTURES");
  std::string const h100 = cuda::detail::no_code_text("NVIDIA H100", 0, 9, 0, "8.0");
  CHECK(h100.ends_with("built for 8.0 only: add 90a to CMAKE_CUDA_ARCHITECTURES"));
}

TEST_CASE("device: where there is none, what is missing is said") {
  CHECK(cuda::detail::no_device_text(cudaErrorInsufficientDriver, 0, 13000) ==
        "no GPU can be used: NVIDIA's driver is not installed, or cannot be reached from here");
  CHECK(cuda::detail::no_device_text(cudaErrorInsufficientDriver, 12020, 13000) ==
        "no GPU can be used: the driver is for CUDA 12.2, this program needs one for 13.0");
  CHECK(cuda::detail::no_device_text(cudaErrorNoDevice, 13000, 13000) ==
        "no GPU can be used: the driver finds none (CUDA_VISIBLE_DEVICES may hide them)");
}
