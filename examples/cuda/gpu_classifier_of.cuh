/// @file
/// The example programs' models on the GPU, in one precision.
#pragma once

#include <dm2/cuda/model.cuh>
#include <dm2/cuda/picture_pipeline.cuh>
#include <dm2/data/transform.hpp>
#include <dm2/io/checkpoint.hpp>
#include <dm2/io/tensor_file.hpp>

#include "../support/gpu_classifier.hpp"
#include "../support/host_classifier.hpp"
#include "../support/models.hpp"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

namespace dm2::example {

/// A classifier whose pictures go to the GPU as bytes: the next batch is copied while one is computed.
template <class Model>
class gpu_classifier_of final : public classifier {
 public:
  gpu_classifier_of(tensor_file const& file, int batch) : net_{batch} {
    load(net_, file);
    pipeline_.emplace(net_, batch, imagenet_bytes());
  }

  [[nodiscard]] config const& configuration() const override { return configuration_; }
  [[nodiscard]] std::span<std::uint8_t> staging() override { return pipeline_->staging(); }
  void submit(int count) override { pipeline_->submit(count); }
  [[nodiscard]] batch_results take() override { return {pipeline_->take(), {}}; }

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

  Model net_;
  std::optional<cuda::picture_pipeline<Model>> pipeline_;  ///< after the weights, which it computes with
};

/// The model called `name` in precision P. With `patches` its pictures are normalised on the host.
template <cuda::precision P>
std::unique_ptr<classifier> make_gpu_classifier_of(std::string_view name, tensor_file const& file, int batch,
                                                   bool patches) {
  std::unique_ptr<classifier> out;
  for_each_model([&]<config C>(char const* known) {
    using network = model<C, cuda::context<P>>;
    if (out || name != known) return;
    if (patches)
      out = std::make_unique<host_classifier<network>>(file, batch, true, cuda::context<P>{});
    else
      out = std::make_unique<gpu_classifier_of<network>>(file, batch);
  });
  return out;
}

extern template std::unique_ptr<classifier> make_gpu_classifier_of<cuda::precision::bf16>(std::string_view,
                                                                                          tensor_file const&, int,
                                                                                          bool);
extern template std::unique_ptr<classifier> make_gpu_classifier_of<cuda::precision::fp16>(std::string_view,
                                                                                          tensor_file const&, int,
                                                                                          bool);
extern template std::unique_ptr<classifier> make_gpu_classifier_of<cuda::precision::fp32>(std::string_view,
                                                                                          tensor_file const&, int,
                                                                                          bool);
extern template std::unique_ptr<classifier> make_gpu_classifier_of<cuda::precision::tf32>(std::string_view,
                                                                                          tensor_file const&, int,
                                                                                          bool);

}  // namespace dm2::example
