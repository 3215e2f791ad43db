// Everything of training in 16 bits: a step, the kernels on tensor cores, and the general ones behind them.
#include <dm2/cuda/step_engine.cuh>

template class dm2::step_engine<dm2::tiny, dm2::cuda::context<dm2::cuda::precision::bf16>>;
