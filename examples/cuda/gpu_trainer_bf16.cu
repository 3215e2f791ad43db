#include "gpu_trainer_of.cuh"

template int dm2::example::train_on_gpu_in<dm2::cuda::precision::bf16>(dm2::example::run_request const&);
