/// @file
/// A model whose configuration and backend are known at run time only.
#pragma once

#include <dm2/core/parameters.hpp>
#include <dm2/model/config.hpp>
#include <dm2/run/classifier.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace dm2::run {

/// A network whose pictures and logits are in the memory of its GPU.
class device_network {
 public:
  virtual ~device_network() = default;

  /// The CUDA device that it is on.
  [[nodiscard]] virtual int device() const = 0;
  /// Logits of normalised pictures, which are read where they are: shapes, results and errors as of the function
  /// of this name in dm2/cuda/model.cuh, but that another address of logits is no graph of its own. `stream` is a
  /// cudaStream_t of that device; the call returns before its work is done.
  virtual void forward_device(float const* pictures, int batch, float* logits, void* stream) = 0;
};

/// A network for inference, on the device of its code: what dm2::model is, behind one interface. Its numbers are those
/// of the model<C, Context> that it holds, to the last bit.
///
/// One thread at a time uses it; several networks on several threads do not disturb each other.
class network {
 public:
  virtual ~network() = default;

  /// The model's.
  [[nodiscard]] virtual config const& configuration() const = 0;
  /// Name, shape and place of every entry of the state.
  [[nodiscard]] virtual std::span<parameter_entry const> table() const = 0;
  /// Weights and running statistics on the host, at their table offsets; what is written counts from the next forward
  /// on.
  [[nodiscard]] virtual std::span<float> state() = 0;
  /// BatchNorm's step counts.
  [[nodiscard]] virtual std::span<std::int64_t> counters() = 0;

  /// Shapes, what is written and errors as of dm2::model::forward; pictures and logits are on the host.
  virtual void forward(std::span<float const> pictures, std::span<float> logits) = 0;
  /// As dm2::model::forward_features.
  virtual void forward_features(std::span<float const> pictures, std::span<float> features) = 0;
  /// As dm2::model::forward_patches.
  virtual void forward_patches(std::span<float const> pictures, std::span<float> cls, std::span<float> patches) = 0;

  /// The same network for what is on its GPU already; null on the CPU.
  [[nodiscard]] virtual device_network* on_device() { return nullptr; }

  /// What computes batches of up to `batch` pictures of bytes with this network, whose weights are there and stay; it
  /// outlives the classifier. `patches`: results have the patches' logits too.
  [[nodiscard]] virtual std::unique_ptr<classifier> make_classifier(int batch, bool patches) = 0;
};

}  // namespace dm2::run
