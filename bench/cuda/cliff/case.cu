// One network of the cliff benchmark, number DM2_CLIFF_CASE.
#include <dm2/cuda/model.cuh>

#include "cuda/cliff/cases.hpp"
#include "cuda/timing.cuh"
#include "cuda/training_case.cuh"
#include "support/random_model.hpp"

#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace dm2::bench {
namespace {

template <config C, cuda::precision P = cuda::precision::bf16>
double inference_us(int batch) {
  using M = model<C, cuda::context<P>>;
  constexpr float mean[3]{0.485f, 0.456f, 0.406f}, deviation[3]{0.229f, 0.224f, 0.225f};
  cuda::stream const s;
  M net{batch};
  fill_random<C>(net.state().data());
  std::size_t const outputs = std::size_t(batch) * M::classes;
  random_array<std::uint8_t> const pictures{std::size_t(batch) * M::pixels};
  random_array<float> const logits{outputs};
  auto const input = M::bytes_type::normalised(pictures.data(), mean, deviation);
  double const us = median_replay_us(s, [&] { net.forward_device(input, batch, logits.data(), s.get()); });
  std::vector<float> host(outputs);
  cuda::check(cudaMemcpy(host.data(), logits.data(), outputs * sizeof(float), cudaMemcpyDeviceToHost), "logits");
  for (float const v : host)
    if (!std::isfinite(v)) throw std::runtime_error{"a logit is not finite"};
  return us;
}

template <config C>
double training_us(int batch) {
  training<C, cuda::precision::bf16> t{batch};
  auto const& s = t.net.stream();
  clear(t.net.ctx(), t.net.gradients(), t.extent);
  cuda::graph const micro{s, [&] { t.micro_batch(); }};
  double const us = median_replay_us(s, [&] { micro.launch(s.get()); });
  t.step(micro);
  t.step(micro);  // reads the first one's losses
  return us;
}

}  // namespace

template <int I>
cliff_times measure_cliff_case() {
  constexpr config network = cliff_cases[I].network;
  constexpr int length = sizes<network>::length, batch = cliff_batch(length);
  double const inference = inference_us<network>(batch), training = training_us<network>(batch);
  cliff_times t{length, batch, smooth_flops<network>(), inference, training, 0, 0};
  if constexpr (in_float(cliff_cases[I])) {
    t.tf32_us = inference_us<network, cuda::precision::tf32>(batch);
    t.fp32_us = inference_us<network, cuda::precision::fp32>(batch);
  }
  return t;
}
template cliff_times measure_cliff_case<DM2_CLIFF_CASE>();

}  // namespace dm2::bench
