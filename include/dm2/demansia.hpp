/// @file
/// DeMansia 2 in one include: the model on the CPU, its files, its pictures.
#pragma once

#include <dm2/core/version.hpp>
#include <dm2/cpu/operations.hpp>
#include <dm2/data/classify.hpp>
#include <dm2/data/decode.hpp>
#include <dm2/data/encode_png.hpp>
#include <dm2/data/evaluation_region.hpp>
#include <dm2/data/image_folder.hpp>
#include <dm2/data/resize.hpp>
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
