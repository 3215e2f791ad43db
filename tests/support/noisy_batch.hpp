/// @file
/// Batches of noise that train and evaluate any configuration.
#pragma once

#include <dm2/data/batch.hpp>
#include <dm2/model/config.hpp>

#include "random.hpp"

#include <cstddef>

namespace dm2::test {

/// `size` pictures [size, channels, height, width] of normal numbers, with labels that count through the classes from
/// `seed` on. The same in every run.
inline batch noisy_batch(config const& c, int size, unsigned seed) {
  batch b;
  b.height = c.image.height;
  b.width = c.image.width;
  b.resize(size, false);
  b.pictures = random_source{seed}.normal<float>(b.pictures.size());
  for (int i = 0; i < size; ++i) b.labels[std::size_t(i)] = (i + int(seed)) % c.classes;
  return b;
}

}  // namespace dm2::test
