#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/model.cuh>
#include <dm2/cuda/picture_pipeline.cuh>
#include <dm2/data/encode_png.hpp>
#include <dm2/data/pack/jpeg_restarts.hpp>
#include <dm2/data/sample_transform.hpp>
#include <dm2/data/transform.hpp>

#include <doctest/doctest.h>

#include "support/compare.hpp"
#include "support/random_model.hpp"
#include "support/views.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

/// logits[b, c] = (sum of picture b's bytes) * scale + c
__global__ void sum_kernel(std::uint8_t const* pictures, float scale, float* logits, int pixels, int classes) {
  float sum = 0;
  for (int i = 0; i < pixels; ++i)
    sum += float(pictures[std::size_t(blockIdx.x) * std::size_t(pixels) + std::size_t(i)]);
  for (int c = int(threadIdx.x); c < classes; c += int(blockDim.x))
    logits[std::size_t(blockIdx.x) * std::size_t(classes) + std::size_t(c)] = sum * scale + float(c);
}

/// Stands for a network: what it answers shows which bytes it has read.
struct summing_model {
  static constexpr std::size_t pixels = 48, classes = 5;
  struct bytes_type {
    std::uint8_t const* data;
    float scale;
  };
  int calls = 0;

  void forward_device(bytes_type p, int batch, float* logits, cudaStream_t stream) {
    ++calls;
    cuda::detail::launch("sums", sum_kernel, {unsigned(batch), 32}, stream, p.data, p.scale, logits, int(pixels),
                         int(classes));
  }
};

/// The same of 4 x 4 pixels of three channels.
struct summing_images : summing_model {
  static constexpr config configuration{.image = {4, 4}, .patch = 4, .classes = 5};
};
std::vector<std::vector<std::byte>> own_files;

/// A JPEG where there is what writes one.
std::vector<std::byte> as_jpeg(picture const& p) {
#ifdef DM2_WITH_JPEG
  return detail::encode_jpeg(p, 90, "noise");
#else
  return encode_png(p);
#endif
}

float fill(std::span<std::uint8_t> to, int picture, std::mt19937& random) {
  float sum = 0;
  for (std::size_t i = 0; i < summing_model::pixels; ++i)
    sum += float(to[std::size_t(picture) * summing_model::pixels + i] = std::uint8_t(random()));
  return sum;
}

inline constexpr config thumbnail{.image = {32, 48},
                                  .patch = 8,
                                  .stem_width = 8,
                                  .depth = 2,
                                  .dim = 16,
                                  .classes = 10,
                                  .headdim = 8,
                                  .d_state = 8,
                                  .attn_layers = layers(1),
                                  .attn_heads = 2,
                                  .attn_head_dim = 8,
                                  .attn_rotary = 4};

template <config C>
void check_network() {
  using M = model<C, cuda::context<cuda::precision::fp32>>;
  M net;
  bench::fill_random<C>(net.state().data());
  constexpr int batch = 3;
  std::mt19937 random{3};
  std::vector<std::uint8_t> bytes(batch * M::pixels);
  for (std::uint8_t& v : bytes) v = std::uint8_t(random());
  std::vector<float> pictures(bytes.size());
  std::vector<float> logits(batch * M::classes);
  for (std::size_t at = 0; at < bytes.size(); at += M::pixels)
    normalise(std::span<std::uint8_t const>{bytes}.subspan(at, M::pixels), std::span{pictures}.subspan(at, M::pixels));
  net.forward(pictures, logits);

  float mean[3], deviation[3];
  std::copy_n(imagenet_normalisation.mean.begin(), 3, mean);
  std::copy_n(imagenet_normalisation.std.begin(), 3, deviation);
  cuda::picture_pipeline<M> pipeline{net, batch, M::bytes_type::normalised(nullptr, mean, deviation)};
  for (int turn = 0; turn < 3; ++turn) {
    std::copy(bytes.begin(), bytes.end(), pipeline.staging().begin());
    pipeline.submit(batch);
    CHECK(relative_error(pipeline.take(), logits) < 1e-5);
  }
}

}  // namespace

TEST_CASE(
    "picture_pipeline: raw and encoded pictures come to the bytes of finished ones, two batches filled at a time") {
  summing_images net;
  cuda::picture_pipeline<summing_images> pipeline{net, 3, {nullptr, 1}};
  std::mt19937 random{4};
  std::vector<std::vector<float>> sums;
  std::size_t seen = 0;
  int left = 0;  // encoded
  auto const fill_raw = [&](raw_pictures& raw, int count) {
    auto& own = sums.emplace_back();
    for (int i = 0; i < count; ++i) {
      picture p{5 + int(random() % 30), 5 + int(random() % 30)};
      for (std::uint8_t& v : p.pixels) v = std::uint8_t(random());
      bool const jpeg = random() % 3 != 0;
      auto const& file = own_files.emplace_back(jpeg ? as_jpeg(p) : encode_png(p));
      encoded_picture encoded{file, "noise"};
      evaluation_transform(encoded, {4, 4}, {5, 5}, imagenet_normalisation, raw_place{raw, i, true});
      left += int(raw.tasks[std::size_t(i)].encoded);
      if (jpeg) p = decode_image(file, "noise");
      float sum = 0;
      for (std::uint8_t const v : evaluation_transform(p, image_extent{4, 4}, image_extent{5, 5}).pixels)
        sum += float(v);
      own.push_back(sum);
    }
  };
  auto const check_oldest = [&] {
    auto const got = pipeline.take();
    std::vector<float> const& want = sums[seen++];
    REQUIRE(got.size() == want.size() * summing_images::classes);
    for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i] == want[i / 5] + float(i % 5));
  };
  for (int round = 0; round < 4; ++round) {
    raw_pictures& one = pipeline.raw_staging();
    raw_pictures& other = pipeline.raw_staging();
    fill_raw(one, 3);
    fill_raw(other, 1 + round % 3);
    for (auto [raw, count] : {std::pair{&one, 3}, std::pair{&other, 1 + round % 3}}) {
      CHECK(pipeline.decoder().decode(*raw).empty());
      pipeline.submit_raw(*raw, count);
      if (pipeline.pending() == 2) check_oldest();
    }
  }
  while (pipeline.pending() != 0) check_oldest();
  CHECK(seen == sums.size());
#ifdef DM2_WITH_JPEG
  CHECK(left > 5);
#endif
}

TEST_CASE("picture_pipeline: every batch's logits are its own, in order, however many pictures it has") {
  summing_model net;
  cuda::picture_pipeline<summing_model> pipeline{net, 7, {nullptr, 0.5f}};
  CHECK(net.calls == 2);  // both buffers are planned
  std::mt19937 random{1};
  std::vector<std::vector<float>> sums;
  std::size_t seen = 0;
  auto const check_oldest = [&] {
    std::vector<float> const& want = sums[seen++];
    auto const got = pipeline.take();
    REQUIRE(got.size() == want.size() * summing_model::classes);
    for (std::size_t i = 0; i < got.size(); ++i) CHECK(got[i] == want[i / 5] * 0.5f + float(i % 5));
  };
  for (int const count : {7, 1, 7, 3, 7, 7, 2}) {
    auto const to = pipeline.staging();
    REQUIRE(to.size() == 7 * summing_model::pixels);
    std::vector<float> own;
    for (int i = 0; i < count; ++i) own.push_back(fill(to, i, random));
    sums.push_back(own);
    pipeline.submit(count);
    if (pipeline.pending() == 2) check_oldest();
  }
  while (pipeline.pending() != 0) check_oldest();
  CHECK(seen == sums.size());
}

TEST_CASE("picture_pipeline: what does not fit is refused, and nothing is lost by it") {
  summing_model net;
  cuda::picture_pipeline<summing_model> pipeline{net, 2, {nullptr, 1}};
  CHECK_THROWS_AS(static_cast<void>(pipeline.take()), std::logic_error);
  CHECK(shape_message([&] { pipeline.submit(3); }) == "picture_pipeline.submit: got 3 pictures, expected 1 to 2");
  CHECK(shape_message([&] { pipeline.submit(0); }) == "picture_pipeline.submit: got 0 pictures, expected 1 to 2");
  CHECK(shape_message([&] {
          cuda::picture_pipeline<summing_model> const none{net, 0, {nullptr, 1}};
        }) == "picture_pipeline.batch: got 0, expected at least 1");
  std::mt19937 random{2};
  float const first = fill(pipeline.staging(), 0, random);
  pipeline.submit(1);
  float const second = fill(pipeline.staging(), 0, random);
  pipeline.submit(1);
  CHECK_THROWS_AS(pipeline.submit(1), std::logic_error);
  CHECK(pipeline.take()[0] == first);
  CHECK(pipeline.take()[0] == second);
}

TEST_CASE("picture_pipeline: a network's logits are those of the normalised pictures") { check_network<thumbnail>(); }
