/// @file
/// cuBLASLt's products on the host, column by column as there, summed in float.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "../products.hpp"
