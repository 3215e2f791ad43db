/// @file
/// How many sequences a batch of rows holds.
#pragma once

#include <dm2/core/error.hpp>

#include <cstddef>
#include <string>

namespace dm2::cuda::detail {

/// Sequences in a batch of `count` rows; throws shape_error unless it is whole.
inline int whole_sequences(char const* operation, std::size_t count, int length) {
  if (length < 1 || count % std::size_t(length) != 0)
    throw shape_error{std::string{operation} + ": got " + std::to_string(count) +
                      " rows, expected a multiple of the length " + std::to_string(length)};
  return int(count / std::size_t(length));
}

}  // namespace dm2::cuda::detail
