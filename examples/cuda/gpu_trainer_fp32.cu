#include "gpu_trainer_of.cuh"

template int dm2::example::train_on_gpu_in<dm2::cuda::precision::fp32>(training_flags const&,
                                                                       nlohmann::ordered_json const&);
