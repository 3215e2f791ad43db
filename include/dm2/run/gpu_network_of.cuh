/// @file
/// The network behind the run-time interface, on a GPU.
#pragma once

#include <dm2/cuda/check.cuh>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/current.cuh>
#include <dm2/cuda/device/memory.cuh>
#include <dm2/cuda/device/properties.cuh>
#include <dm2/cuda/device/stream.cuh>
#include <dm2/cuda/model.cuh>
#include <dm2/cuda/picture_pipeline.cuh>
#include <dm2/data/normalise.hpp>
#include <dm2/run/classifier.hpp>
#include <dm2/run/model_code.hpp>
#include <dm2/run/network.hpp>
#include <dm2/run/network_of.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

namespace dm2::run {

/// A classifier whose pictures go to the GPU as bytes: the next batch is copied while one is computed.
template <class Model>
class gpu_classifier final : public classifier {
 public:
  /// Of a network that has its weights and outlives it; both are on the current device.
  gpu_classifier(Model& net, int batch) : device_{cuda::current_device()}, pipeline_{net, batch, imagenet_bytes()} {}

  [[nodiscard]] config const& configuration() const override { return configuration_; }
  [[nodiscard]] std::span<std::uint8_t> staging() override {
    cuda::device_guard const here{device_};
    return pipeline_.staging();
  }
  void submit(int count) override {
    cuda::device_guard const here{device_};
    pipeline_.submit(count);
  }
  [[nodiscard]] raw_pictures* raw_staging() override {
    cuda::device_guard const here{device_};
    return &pipeline_.raw_staging();
  }
  [[nodiscard]] raw_decoder* decoder() override {
    cuda::device_guard const here{device_};
    return &pipeline_.decoder();
  }
  void submit_raw(raw_pictures& from, int count) override {
    cuda::device_guard const here{device_};
    pipeline_.submit_raw(from, count);
  }
  [[nodiscard]] batch_results take() override {
    cuda::device_guard const here{device_};
    return {pipeline_.take(), {}};
  }

 private:
  static constexpr config configuration_ = Model::configuration;

  static typename Model::bytes_type imagenet_bytes() {
    float mean[3], deviation[3];
    for (std::size_t c = 0; c < 3; ++c) {
      mean[c] = imagenet_normalisation.mean[c];
      deviation[c] = imagenet_normalisation.std[c];
    }
    return Model::bytes_type::normalised(nullptr, mean, deviation);
  }

  int device_;
  cuda::picture_pipeline<Model> pipeline_;
};

/// A network in precision P on the current GPU, whatever is the current one of a thread that calls it. With patches,
/// pictures are normalised on the host.
template <config C, cuda::precision P>
class gpu_network_of final : public network_of<C, cuda::context<P>>, public device_network {
  using base = network_of<C, cuda::context<P>>;

 public:
  /// As network_of's constructor, on the current device.
  explicit gpu_network_of(int batch, cuda::context<P> ctx)
      : base{batch, std::move(ctx)}, device_{cuda::current_device()} {}

  void forward(std::span<float const> pictures, std::span<float> logits) override {
    cuda::device_guard const here{device_};
    base::forward(pictures, logits);
  }
  void forward_features(std::span<float const> pictures, std::span<float> features) override {
    cuda::device_guard const here{device_};
    base::forward_features(pictures, features);
  }
  void forward_patches(std::span<float const> pictures, std::span<float> cls, std::span<float> patches) override {
    cuda::device_guard const here{device_};
    base::forward_patches(pictures, cls, patches);
  }
  [[nodiscard]] device_network* on_device() override { return this; }
  [[nodiscard]] int device() const override { return device_; }
  void forward_device(float const* pictures, int batch, float* logits, void* stream) override {
    cuda::device_guard const here{device_};
    auto const s = static_cast<cudaStream_t>(stream);
    std::size_t const bytes = std::size_t(batch < 0 ? 0 : batch) * std::size_t(C.classes) * sizeof(float);
    if (bytes > logits_.size()) {
      copied_.synchronize();  // the old ones are read no more
      logits_ = {};
      logits_ = cuda::device_memory{bytes};
    }
    copied_.make_wait(s);
    float* const own = reinterpret_cast<float*>(logits_.data());
    this->net().forward_device(pictures, batch, own, s);
    cuda::check(cudaMemcpyAsync(logits, own, bytes, cudaMemcpyDeviceToDevice, s), "logits: copy");
    copied_.record(s);
  }
  [[nodiscard]] std::unique_ptr<classifier> make_classifier(int batch, bool patches) override {
    cuda::device_guard const here{device_};
    if (patches) return base::make_classifier(batch, patches);
    return std::make_unique<gpu_classifier<model<C, cuda::context<P>>>>(this->net(), batch);
  }

 private:
  int device_;
  // The network's graph writes here, and a copy brings it to the caller: one graph for all places of logits, since
  // PyTorch's are at a new address with each call where the caller keeps them.
  cuda::device_memory logits_;
  cuda::event copied_;
};

// Defined in gpu_training_of.cuh, which a unit of its own includes.
template <config C, cuda::precision P>
[[nodiscard]] std::unique_ptr<training_state> make_gpu_training(training_request const& request);
template <config C, cuda::precision P>
[[nodiscard]] std::size_t gpu_training_bytes(int batch);

/// A network of configuration C in precision P on the current GPU. Threads are the CPU's.
template <config C, cuda::precision P>
[[nodiscard]] std::unique_ptr<network> make_gpu_network(int batch, int threads) {
  static_cast<void>(threads);
  return std::make_unique<gpu_network_of<C, P>>(batch, cuda::context<P>{});
}

}  // namespace dm2::run
