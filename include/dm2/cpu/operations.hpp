/// @file
/// Every operation of the CPU backend.
#pragma once

#include <dm2/cpu/attention_core.hpp>
#include <dm2/cpu/attention_core_backward.hpp>
#include <dm2/cpu/fold_output_projection.hpp>
#include <dm2/cpu/gated_activation.hpp>
#include <dm2/cpu/heads.hpp>
#include <dm2/cpu/linear.hpp>
#include <dm2/cpu/memory.hpp>
#include <dm2/cpu/mixer_core.hpp>
#include <dm2/cpu/mixer_core_backward.hpp>
#include <dm2/cpu/optimizer_step.hpp>
#include <dm2/cpu/project_add_norm.hpp>
#include <dm2/cpu/rms_norm.hpp>
#include <dm2/cpu/ssd.hpp>
#include <dm2/cpu/ssd_backward.hpp>
#include <dm2/cpu/stem.hpp>
#include <dm2/cpu/stem_train.hpp>
#include <dm2/cpu/token_label_loss.hpp>
#include <dm2/cpu/tokens.hpp>
