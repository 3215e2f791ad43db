#include "gpu_classifier_of.cuh"

template std::unique_ptr<dm2::example::classifier> dm2::example::make_gpu_classifier_of<dm2::cuda::precision::fp32>(
    std::string_view, dm2::tensor_file const&, int, bool);
