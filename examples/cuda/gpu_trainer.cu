// What examples/support/gpu_trainer.hpp declares. The models are compiled in files of their own, one a precision.
#include "gpu_trainer_of.cuh"

namespace dm2::example {

int train_on_gpu(training_flags const& flags, nlohmann::ordered_json const& arguments) {
  return flags.precision == "fp32" ? train_on_gpu_in<cuda::precision::fp32>(flags, arguments)
                                   : train_on_gpu_in<cuda::precision::bf16>(flags, arguments);
}

}  // namespace dm2::example
