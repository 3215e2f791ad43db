/// @file
/// Pictures: decoding, and everything between a file in memory and the network's input.
#include "support/verify.hpp"

#include <dm2/data/decode.hpp>
#include <dm2/data/transform.hpp>
#include <dm2/io/safetensors.hpp>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

namespace {

using namespace dm2;
using namespace dm2::bench;

constexpr char const* folder = DM2_GOLDEN_DIR "/images/";

/// The named picture as Pillow decodes it, or as torchvision's evaluation transform leaves it.
std::vector<std::uint8_t> expected(std::string const& name) {
  static mapped_file const file{std::string{folder} + "images.safetensors"};
  static safetensors_content const content = read_safetensors(file.bytes(), file.path());
  for (stored_tensor const& t : content.tensors)
    if (t.name == name) return to_vector<std::uint8_t>(t);
  return {};
}

void decode(benchmark::State& state, std::string const& name) {
  mapped_file const file{folder + name};
  picture p = decode_image(file.bytes(), file.path());
  if (!verified(state, name, 0, [&] { return relative_error(p.pixels, expected(name + "/rgb")); })) return;
  for (auto _ : state) {
    p = decode_image(file.bytes(), file.path());
    benchmark::DoNotOptimize(p.pixels.data());
  }
  state.counters["pixels/s"] =
      benchmark::Counter(double(p.height) * p.width, benchmark::Counter::kIsIterationInvariantRate);
}

/// A file in memory to the network's 3 x 224 x 224 numbers.
void prepare(benchmark::State& state, std::string const& name) {
  mapped_file const file{folder + name};
  std::vector<float> out(3 * 224 * 224);
  auto const run = [&] {
    picture const p = evaluation_transform(decode_image(file.bytes(), file.path()));
    normalise(p, out);
    return p;
  };
  if (!verified(state, name, 0, [&] { return relative_error(run().pixels, expected(name + "/eval_224")); })) return;
  for (auto _ : state) {
    benchmark::DoNotOptimize(run().pixels.data());
    benchmark::ClobberMemory();
  }
  state.counters["pictures/s"] = benchmark::Counter(1, benchmark::Counter::kIsIterationInvariantRate);
}

}  // namespace

BENCHMARK_CAPTURE(decode, jpeg, "photo.jpg")->Name("data/decode/photo.jpg");
BENCHMARK_CAPTURE(decode, progressive, "progressive.jpg")->Name("data/decode/progressive.jpg");
BENCHMARK_CAPTURE(decode, png, "rgb.png")->Name("data/decode/rgb.png");
BENCHMARK_CAPTURE(prepare, jpeg, "photo.jpg")->Name("data/prepare/photo.jpg");
BENCHMARK_CAPTURE(prepare, png, "rgb.png")->Name("data/prepare/rgb.png");
