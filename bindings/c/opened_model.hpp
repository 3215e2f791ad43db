/// @file
/// A model behind a C handle: its file's facts, its network, and the classifier of its pictures.
#pragma once

#include <dm2/data/picture.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/model/config.hpp>
#include <dm2/run/classifier.hpp>
#include <dm2/run/network.hpp>

#include <cstddef>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "code.hpp"
#include "dm2.h"
#include "guard.hpp"
#include "handles.hpp"

/// What a dm2_model handle is.
struct dm2_model {
  std::mutex mutex;  ///< held by the call that is in it
  dm2::config configuration;
  std::string name, configuration_text;
  std::string origin;  ///< of what the weights are, for a model card
  dm2::c::place where;
  bool averaged = false;
  std::vector<std::string> class_names, notices, tensor_names;
  std::size_t parameters = 0;
  std::unique_ptr<dm2::run::network> net;
  std::unique_ptr<dm2::run::classifier> pictures;  ///< of one picture; made when first wanted

  /// Numbers of a picture in the network's input.
  [[nodiscard]] std::size_t pixels() const {
    return std::size_t(configuration.channels) * std::size_t(configuration.image.height) *
           std::size_t(configuration.image.width);
  }
  /// Patches of a picture.
  [[nodiscard]] std::size_t patches() const {
    return std::size_t(configuration.image.height / configuration.patch) *
           std::size_t(configuration.image.width / configuration.patch);
  }
  /// Logits of a picture that went through the evaluation transform; valid until the next call.
  [[nodiscard]] std::span<float const> logits(dm2::picture const& kept);
};

namespace dm2::c {

/// Opens a file. Throws failure, file_error and what the network throws.
[[nodiscard]] std::shared_ptr<dm2_model> open_model(char const* path, dm2_open_options const& options);

/// Class names for a model's metadata: those of the file where they are as many as the classes; else none, with a
/// notice.
[[nodiscard]] std::vector<std::string> file_class_names(tensor_file const& file, std::size_t classes,
                                                        std::vector<std::string>& notices);

/// The open handles.
[[nodiscard]] handle_table<dm2_model>& open_models();

/// f(model) for an open handle, one call at a time.
template <class F>
int with_model(dm2_model* handle, F const& f) noexcept {
  return guarded([&] {
    auto const model = open_models().find(handle);
    std::lock_guard const lock{model->mutex};
    on_device(model->where.gpu(), [&] { f(*model); });
  });
}

}  // namespace dm2::c
