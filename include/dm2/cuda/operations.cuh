/// @file
/// Every operation of the CUDA backend.
#pragma once

#include <dm2/cuda/attention_core.cuh>
#include <dm2/cuda/attention_core_backward.cuh>
#include <dm2/cuda/fold_output_projection.cuh>
#include <dm2/cuda/gated_activation.cuh>
#include <dm2/cuda/gemm.cuh>
#include <dm2/cuda/heads.cuh>
#include <dm2/cuda/linear.cuh>
#include <dm2/cuda/memory.cuh>
#include <dm2/cuda/mixer_core.cuh>
#include <dm2/cuda/mixer_core_backward.cuh>
#include <dm2/cuda/optimizer_step.cuh>
#include <dm2/cuda/project_add_norm.cuh>
#include <dm2/cuda/project_add_norm_backward.cuh>
#include <dm2/cuda/rms_norm.cuh>
#include <dm2/cuda/ssd.cuh>
#include <dm2/cuda/ssd_backward.cuh>
#include <dm2/cuda/stem.cuh>
#include <dm2/cuda/stem_train.cuh>
#include <dm2/cuda/token_label_loss.cuh>
#include <dm2/cuda/tokens.cuh>
