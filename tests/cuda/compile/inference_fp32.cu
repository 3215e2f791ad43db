// Everything of inference in float: the kernels for any shape.
#include "inference.cuh"

using dm2::cuda::precision;
template void dm2::test::use<dm2::tiny, precision::fp32>(network<dm2::tiny, precision::fp32>&, pictures<dm2::tiny>,
                                                         std::span<float const>, std::span<float>);
