/// @file
/// The device's time for a batch of raw pictures.
///
/// Copying, then each mix of operations, beside the host's time.
#include <dm2/cuda/augment.cuh>
#include <dm2/cuda/device/pinned_resource.cuh>
#include <dm2/data/sample_transform.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace {

using namespace dm2;

constexpr int batch = 256, height = 375, width = 500, rounds = 20;
constexpr image_extent size{224, 224};

/// A picture with something in it at every scale.
picture make_picture(int seed) {
  picture p{height, width};
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      for (int c = 0; c < 3; ++c) {
        double const v = 128 + 60 * std::sin(0.013 * (x + 40 * seed) + c) + 40 * std::sin(0.11 * y + 0.07 * x * c) +
                         20 * std::sin(1.3 * x + 0.9 * y);
        p.row(y)[3 * x + c] = std::uint8_t(std::clamp(v, 0.0, 255.0));
      }
  return p;
}

struct raw_batch {
  raw_pictures raw;
  std::vector<float> host;  ///< what the host makes of it
  double host_seconds = 0;
};

/// A batch after `a`, a sample a place.
raw_batch make_batch(augmentation const& a) {
  raw_batch out;
  out.raw.prepare(batch, size, std::max(1, a.operations), cuda::pinned_resource::get());
  std::size_t const each = out.raw.finished_bytes();
  out.host.resize(batch * each);
  for (int i = 0; i < batch; ++i) {
    picture const p = make_picture(i);
    drawn_sample d = draw_sample(a, height, width, size.height, size.width, {1, 0, std::uint64_t(i)});
    raw_place const place{out.raw, i};
    picture_task const t = plan_sample(d, a, height, width, size.height, size.width, place.steps());
    picture const part = dm2::detail::copy_box(p, t.part);
    std::copy(part.pixels.begin(), part.pixels.end(), place.take(t));
    auto const begin = std::chrono::steady_clock::now();
    apply_drawn(d, p, {0, 0, height, width}, height, width, nullptr, a, size,
                std::span{out.host}.subspan(std::size_t(i) * each, each));
    out.host_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  return out;
}

void time_batch(char const* name, augmentation const& a) {
  raw_batch const b = make_batch(a);
  cuda::augmenter augment;
  cuda::stream stream;
  cuda::device_memory out{b.host.size() * sizeof(float)};
  auto* const floats = reinterpret_cast<float*>(out.data());
  augment.enqueue(b.raw, floats, stream.get());
  stream.synchronize();
  std::vector<float> got(b.host.size());
  cuda::check(cudaMemcpy(got.data(), floats, out.size(), cudaMemcpyDeviceToHost), "results");
  bool const same = std::memcmp(got.data(), b.host.data(), out.size()) == 0;
  double const copied = augment.seconds_copying(), worked = augment.seconds_augmenting();
  for (int i = 0; i < rounds; ++i) augment.enqueue(b.raw, floats, stream.get());
  stream.synchronize();
  std::printf("| %s | %s | %.1f | %.3f | %.3f | %.1f |\n", name, same ? "the host's bytes" : "OTHER BYTES",
              double(b.raw.used) / 1e6, 1e3 * (augment.seconds_copying() - copied) / rounds,
              1e3 * (augment.seconds_augmenting() - worked) / rounds, 1e3 * b.host_seconds);
}

}  // namespace

int main() {
  std::printf("%d pictures of %d x %d to %d x %d\n\n", batch, width, height, size.width, size.height);
  std::printf(
      "| | result | MB copied | copying, ms | augmenting, ms | one host thread, ms |\n|---|---|---:|---:|---:|---:|\n");
  augmentation a;
  time_batch("the recipe", a);
  a.operations = 0;
  time_batch("no operations", a);
  a.erase = 0;
  time_batch("no operations, nothing erased", a);
  a.erase = 0.25;
  a.operations = 2;
  a.operation_probability = 1;
  time_batch("two operations each", a);
  return 0;
}
