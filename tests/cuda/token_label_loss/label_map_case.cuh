/// @file
/// A batch of label maps, logits and labels for tests of the token-labeling loss on the device.
#pragma once

#include <dm2/cpu/token_label_loss.hpp>
#include <dm2/cuda/token_label_loss.cuh>
#include <dm2/train/sparse_target.hpp>

#include "cuda/support/device_array.cuh"
#include "support/random.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace dm2::test {

/// n records on the device.
template <class T>
class device_records {
 public:
  explicit device_records(std::vector<T> const& values) : memory_{values.size() * sizeof(T)} { write(values); }
  void write(std::vector<T> const& values) const {
    cuda::check(cudaMemcpy(memory_.data(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
  }
  [[nodiscard]] T* data() const { return reinterpret_cast<T*>(memory_.data()); }
  [[nodiscard]] std::vector<T> read(std::size_t n = 1) const {
    cuda::check(cudaDeviceSynchronize(), "the work before");
    std::vector<T> values(n);
    cuda::check(cudaMemcpy(values.data(), memory_.data(), n * sizeof(T), cudaMemcpyDeviceToHost), "download");
    return values;
  }

 private:
  cuda::device_memory memory_;
};

/// A map whose cells name a class twice now and then, and have scores of 0 (of either sign), as a warped map has.
inline std::vector<float> random_label_map(int height, int width, int classes, random_source& random) {
  std::size_t const cells = std::size_t(height) * std::size_t(width);
  auto map = random.normal<float>(10 * cells, 4, 3);
  auto const index = random.uniform(5 * cells, 0, classes), zero = random.uniform(5 * cells, 0, 1);
  for (std::size_t i = 0; i < 5 * cells; ++i) {
    map[5 * cells + i] = float(std::floor(index[i]));
    if (zero[i] < 0.1) map[i] = -0.f, map[5 * cells + i] = 0;
  }
  return map;
}

/// A batch: sample 0 with a square map, 1 with an oblong one, 2 without one, and so on.
template <cuda::precision P, int K>
struct label_map_case {
  using T = cuda::element<P>;
  int batch, height, width;
  crop_convention convention = crop_convention::published;
  random_source random{17};
  sparse_targets<double> targets{K};
  std::vector<float> maps;
  std::vector<cuda::label_sample> samples;
  std::vector<double> cls, aux;
  cuda::context<P> ctx;

  label_map_case(int batch_in, int rows, int cols, crop_convention c = crop_convention::published)
      : batch{batch_in}, height{rows}, width{cols}, convention{c} {
    for (int b = 0; b < batch; ++b) add_sample(b);
    cls = rounded<float>(random.normal(std::size_t(batch) * K, 3));
    aux = rounded<T>(random.normal(patches() * K, 3));
  }
  [[nodiscard]] int tokens() const { return height * width; }
  [[nodiscard]] std::size_t patches() const { return std::size_t(batch) * std::size_t(tokens()); }

  void add_sample(int b) {
    int const label = (7 * b + 1) % K, h = b % 3 == 0 ? 18 : 9, w = b % 3 == 0 ? 18 : 13;
    if (b % 3 == 2) {
      targets.add(label, tokens());
      samples.push_back(cuda::make_label_sample(label));
      return;
    }
    auto const map = random_label_map(h, w, K, random);
    auto const d = random.uniform(4, 0.1, 0.6);
    // the oblong one's crop begins outside it, and in the published convention ends there too
    crop_fraction const crop{b % 3 == 0 ? d[0] : -0.3, d[1], std::min(d[2], 1 - d[0]), std::min(d[3], 1 - d[1])};
    targets.add(label_map<float>{std::span{map}, h, w}, crop, label, height, width, convention);
    samples.push_back(cuda::make_label_sample(maps.size(), h, w, crop, label, height, width, convention));
    maps.insert(maps.end(), map.begin(), map.end());
  }

  struct result {
    double loss;
    std::vector<double> dcls, daux;
    double rest = 0;  ///< of the loss, without its two parts
  };
  /// The CPU's in double.
  [[nodiscard]] result want(mix_box box, double scale) const {
    cpu::context<double> host{2};
    result r{0, poisoned(cls.size()), poisoned(aux.size()), 0};
    std::size_t const n = std::size_t(batch);
    r.loss = token_label_loss(host, rows<double const, K>{cls.data(), n}, {aux.data(), patches()}, targets.rows(), box,
                              {r.dcls.data(), n}, {r.daux.data(), patches()}, scale);
    return r;
  }
  /// The device's; run(cls, aux, box, sums) calls it, with the logits as their gradients.
  template <class Run>
  [[nodiscard]] result got(mix_box box, Run const& run) {
    device_array<float> const c{cls};
    device_array<T> const a{aux};
    device_records<mix_box> const where{{box}};
    device_records<cuda::token_label_sums> const sums{{{NAN, NAN, NAN}}};
    run(c.template as_rows<K>(), a.template as_rows<K>(), where.data(), sums.data());
    cuda::token_label_sums const s = sums.read()[0];
    CHECK(c.margins_untouched());
    CHECK(a.margins_untouched());
    return {s.loss, c.read(), a.read(), s.loss - (s.cls + s.patches)};
  }
  [[nodiscard]] result got(mix_box box, cuda::token_loss_options const& options) {
    device_array<float> const map_values{maps};
    device_records<cuda::label_sample> const records{samples};
    return got(box, [&](auto c, auto a, mix_box const* where, cuda::token_label_sums* sums) {
      cuda::label_maps<float> const m{map_values.data(), records.data(), 18, height, width, 0.1};
      cuda::token_label_loss(ctx, rows<float const, K, space::device>{c}, a, m, where, c, a, sums, options);
    });
  }
};

}  // namespace dm2::test
