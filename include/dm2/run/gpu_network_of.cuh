/// @file
/// The network behind the run-time interface, on a GPU.
#pragma once

#include <dm2/cuda/check.cuh>
#include <dm2/cuda/context.cuh>
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
  /// Of a network that has its weights and outlives it.
  gpu_classifier(Model& net, int batch) : pipeline_{net, batch, imagenet_bytes()} {}

  [[nodiscard]] config const& configuration() const override { return configuration_; }
  [[nodiscard]] std::span<std::uint8_t> staging() override { return pipeline_.staging(); }
  void submit(int count) override { pipeline_.submit(count); }
  [[nodiscard]] raw_pictures* raw_staging() override { return &pipeline_.raw_staging(); }
  [[nodiscard]] raw_decoder* decoder() override { return &pipeline_.decoder(); }
  void submit_raw(raw_pictures& from, int count) override { pipeline_.submit_raw(from, count); }
  [[nodiscard]] batch_results take() override { return {pipeline_.take(), {}}; }

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

  cuda::picture_pipeline<Model> pipeline_;
};

/// A network in precision P on the current GPU. With patches, pictures are normalised on the host.
template <config C, cuda::precision P>
class gpu_network_of final : public network_of<C, cuda::context<P>>, public device_network {
 public:
  /// As network_of's constructor, on the current device.
  explicit gpu_network_of(int batch, cuda::context<P> ctx) : network_of<C, cuda::context<P>>{batch, std::move(ctx)} {
    cuda::check(cudaGetDevice(&device_), "device: current");
  }

  [[nodiscard]] device_network* on_device() override { return this; }
  [[nodiscard]] int device() const override { return device_; }
  void forward_device(float const* pictures, int batch, float* logits, void* stream) override {
    this->net().forward_device(pictures, batch, logits, static_cast<cudaStream_t>(stream));
  }
  [[nodiscard]] std::unique_ptr<classifier> make_classifier(int batch, bool patches) override {
    if (patches) return network_of<C, cuda::context<P>>::make_classifier(batch, patches);
    return std::make_unique<gpu_classifier<model<C, cuda::context<P>>>>(this->net(), batch);
  }

 private:
  int device_ = 0;
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
