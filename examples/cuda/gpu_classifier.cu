// What examples/support/gpu_classifier.hpp declares. The models are compiled in files of their own, one a precision.
#include <dm2/cuda/device/properties.cuh>

#include "gpu_classifier_of.cuh"

#include <memory>
#include <string>
#include <string_view>

namespace dm2::example {

std::string gpu_problem() {
  try {
    cuda::require_code(cuda::device_properties{cuda::current_device()});
  } catch (cuda::error const& problem) {
    return problem.what();
  }
  return "";
}

std::unique_ptr<classifier> make_gpu_classifier(std::string_view name, std::string_view precision,
                                                tensor_file const& file, int batch, bool patches) {
  auto const make = precision == "bf16"   ? make_gpu_classifier_of<cuda::precision::bf16>
                    : precision == "fp16" ? make_gpu_classifier_of<cuda::precision::fp16>
                    : precision == "tf32" ? make_gpu_classifier_of<cuda::precision::tf32>
                                          : make_gpu_classifier_of<cuda::precision::fp32>;
  return make(name, file, batch, patches);
}

}  // namespace dm2::example
