// What examples/support/gpu_trainer.hpp declares. The models are compiled in files of their own, one a precision.
#include "gpu_trainer_of.cuh"

namespace dm2::example {

int train_on_gpu(run_request const& request) {
  return request.flags.precision == "fp32" ? train_on_gpu_in<cuda::precision::fp32>(request)
                                           : train_on_gpu_in<cuda::precision::bf16>(request);
}

}  // namespace dm2::example
