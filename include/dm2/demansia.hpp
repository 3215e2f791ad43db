/// @file
/// DeMansia 2 in one include: the model on the CPU, its files, its pictures, its training.
#pragma once

#include <dm2/core/version.hpp>

#if !__has_include(<nlohmann/json.hpp>)
#error dm2 needs nlohmann-json 3.10: Debian and Ubuntu have it in nlohmann-json3-dev
#include <dm2/the_compilation_ends_here>  // as in core/compiler.hpp
#endif

#include <dm2/comm/communicator.hpp>
#include <dm2/cpu/operations.hpp>
#include <dm2/data/check_dataset.hpp>
#include <dm2/data/classify.hpp>
#include <dm2/data/dataset.hpp>
#include <dm2/data/decode.hpp>
#include <dm2/data/encode_png.hpp>
#include <dm2/data/evaluation_region.hpp>
#include <dm2/data/heatmap.hpp>
#include <dm2/data/image_folder.hpp>
#include <dm2/data/loader.hpp>
#include <dm2/data/pack/pack.hpp>
#include <dm2/data/pack/verify.hpp>
#include <dm2/data/resize.hpp>
#include <dm2/data/training_transform.hpp>
#include <dm2/data/transform.hpp>
#include <dm2/io/checkpoint.hpp>
#include <dm2/io/checkpoint_differences.hpp>
#include <dm2/io/class_list.hpp>
#include <dm2/io/class_names.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/model/config.hpp>
#include <dm2/model/model.hpp>
#include <dm2/model/parameter_table.hpp>
#include <dm2/model/training_pass.hpp>
#include <dm2/train/evaluate.hpp>
#include <dm2/train/initialise.hpp>
#include <dm2/train/trainer.hpp>
