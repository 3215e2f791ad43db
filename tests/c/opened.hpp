/// @file
/// A model opened through the C interface, for tests.
#pragma once

#include <dm2.h>
#include <dm2/io/tensor_file.hpp>
#include <dm2/model/presets.hpp>
#include <dm2/run/models.hpp>
#include <dm2/run/network.hpp>
#include <dm2/run/network_file.hpp>

#include "io/scratch.hpp"

#include <doctest/doctest.h>

#include <cstddef>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace dm2::test {

inline std::filesystem::path const micro_file = golden_file("lightning/epoch=0-step=2-EMA.ckpt");

/// The handle of the micro model, closed with the object.
class opened {
 public:
  explicit opened(std::filesystem::path const& path = micro_file) {
    dm2_open_options options = DM2_OPEN_OPTIONS;
    options.threads = 1;
    REQUIRE_MESSAGE(dm2_open(path.c_str(), &options, &handle_) == DM2_OK, dm2_last_error());
  }
  opened(opened const&) = delete;
  opened& operator=(opened const&) = delete;
  ~opened() { (void)dm2_close(handle_); }

  operator dm2_model*() const { return handle_; }

 private:
  dm2_model* handle_ = nullptr;
};

/// The same model without the C interface.
inline std::unique_ptr<run::network> micro_network(int batch = 1) {
  auto net = run::find_compiled_in(presets::micro, run::backend::cpu)->make_network(batch, 1);
  run::load(*net, tensor_file{micro_file});
  return net;
}

inline std::vector<float> noise(std::size_t count, unsigned seed) {
  std::mt19937 random{seed};
  std::normal_distribution<float> normal;
  std::vector<float> out(count);
  for (float& v : out) v = normal(random);
  return out;
}

}  // namespace dm2::test
