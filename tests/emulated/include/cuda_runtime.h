/// @file
/// The CUDA runtime's interface on the host, as far as dm2 uses it: keywords, kernels as blocks of fibers, memory,
/// streams whose work is done at once, graphs as lists of work.
#pragma once

#include "../cuda_types.hpp"
#include "../runtime.hpp"
