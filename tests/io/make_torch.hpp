/// @file
/// make_torch_bytes.hpp, with what puts the bytes into files.
#pragma once

#include "io/make_torch_bytes.hpp"
#include "io/scratch.hpp"
