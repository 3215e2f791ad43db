/// @file
/// Photograph-like JPEGs with label maps, to measure the data path on.
///
///     dm2_make_pictures DIR COUNT [CLASSES [QUALITY]]     DIR/train/cNNN/N.jpg, DIR/maps/cNNN/N.pt
#include <dm2/core/random.hpp>
#include <dm2/data/picture.hpp>
#include <dm2/data/worker_threads.hpp>
#include <dm2/io/half.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "../tests/data/make_jpeg.hpp"

namespace {

using namespace dm2;
namespace fs = std::filesystem;

/// Smooth noise: random levels on a grid, blended between its points.
class smooth_noise {
 public:
  smooth_noise(int height, int width, int cell, random_stream& random)
      : cell_{cell}, columns_{width / cell + 2}, level_(std::size_t(height / cell + 2) * std::size_t(columns_)) {
    for (float& v : level_) v = float(random.uniform() - 0.5);
  }
  [[nodiscard]] float operator()(int y, int x) const {
    int const row = y / cell_, column = x / cell_;
    float const v = ease(float(y % cell_) / float(cell_)), u = ease(float(x % cell_) / float(cell_));
    float const* const a = level_.data() + std::size_t(row) * std::size_t(columns_) + std::size_t(column);
    float const* const b = a + columns_;
    return (a[0] + u * (a[1] - a[0])) * (1 - v) + (b[0] + u * (b[1] - b[0])) * v;
  }

 private:
  static float ease(float t) { return t * t * (3 - 2 * t); }

  int cell_, columns_;
  std::vector<float> level_;
};

/// A half plane within a disc, in which the picture is lighter or darker: an edge.
struct edge {
  float y, x, radius, dy, dx, strength;
  std::array<float, 3> tint;
};

std::vector<edge> make_edges(int height, int width, random_stream& random) {
  std::vector<edge> edges(24 + random.below(40));
  for (edge& e : edges) {
    double const angle = random.uniform(0, 6.2832);
    e = {float(random.uniform(0, height)),
         float(random.uniform(0, width)),
         float(random.uniform(8, 110)),
         float(std::sin(angle)),
         float(std::cos(angle)),
         float(random.uniform(-60, 60)),
         {float(random.uniform(0.6, 1.4)), float(random.uniform(0.6, 1.4)), float(random.uniform(0.6, 1.4))}};
  }
  return edges;
}

/// Octaves of noise that have most in the large, edges, and a sensor's grain.
picture make_picture(random_stream random) {
  int const height = 345 + int(random.below(61)), width = 470 + int(random.below(61));
  std::vector<float> light(std::size_t(height) * std::size_t(width)), hue(light.size());
  for (int cell = 128; cell >= 2; cell /= 2) {
    smooth_noise const noise{height, width, cell, random};
    float const strength = 150 * std::pow(float(cell) / 128, 0.45f) * float(random.uniform(0.4, 1));
    smooth_noise const colours{height, width, cell, random};
    for (int y = 0; y < height; ++y)
      for (int x = 0; x < width; ++x) {
        std::size_t const i = std::size_t(y) * std::size_t(width) + std::size_t(x);
        light[i] += strength * noise(y, x);
        if (cell >= 8) hue[i] += 0.5f * strength * colours(y, x);
      }
  }
  picture p{height, width};
  std::array<float, 3> const base{float(random.uniform(80, 150)), float(random.uniform(80, 150)),
                                  float(random.uniform(80, 150))};
  std::vector<float> planes(3 * light.size());
  for (std::size_t i = 0; i < light.size(); ++i) {
    planes[3 * i] = base[0] + light[i] + hue[i];
    planes[3 * i + 1] = base[1] + light[i];
    planes[3 * i + 2] = base[2] + light[i] - hue[i];
  }
  for (edge const& e : make_edges(height, width, random)) {
    int const top = std::max(0, int(e.y - e.radius)), bottom = std::min(height, int(e.y + e.radius));
    int const left = std::max(0, int(e.x - e.radius)), right = std::min(width, int(e.x + e.radius));
    for (int y = top; y < bottom; ++y)
      for (int x = left; x < right; ++x) {
        float const dy = float(y) - e.y, dx = float(x) - e.x;
        if (dy * dy + dx * dx > e.radius * e.radius || dy * e.dy + dx * e.dx < 0) continue;
        float* const v = planes.data() + 3 * (std::size_t(y) * std::size_t(width) + std::size_t(x));
        for (std::size_t c = 0; c < 3; ++c) v[c] += e.strength * e.tint[c];
      }
  }
  float const grain = float(random.uniform(4, 18));
  std::uint32_t state = random.bits();
  for (std::size_t i = 0; i < planes.size(); ++i) {
    state = state * 1664525u + 1013904223u;
    float const noise = float(state >> 8) * 0x1p-24f - 0.5f;
    p.pixels[i] = std::uint8_t(std::clamp(planes[i] + 2 * grain * noise, 0.0f, 255.0f));
  }
  return p;
}

/// The picture as a JPEG with chroma at half the rows and columns.
std::vector<std::byte> encode_jpeg(picture const& p, int quality) {
  return test::make_jpeg(p.pixels, p.height, p.width, {.horizontal = 2, .vertical = 2, .quality = quality});
}

/// A label map of 18 x 18 points as halves, in a safetensors file.
std::vector<std::byte> make_label_map(int classes, random_stream random) {
  std::string head = R"({"map":{"dtype":"F16","shape":[2,5,18,18],"data_offsets":[0,6480]}})";
  head.resize((head.size() + 7) / 8 * 8, ' ');
  std::vector<std::byte> out;
  auto const append = [&](auto value) {
    for (std::byte const b : std::bit_cast<std::array<std::byte, sizeof value>>(value)) out.push_back(b);
  };
  append(std::uint64_t(head.size()));
  for (char const c : head) out.push_back(std::byte(c));
  for (int i = 0; i < 5 * 18 * 18; ++i) append(float_to_half(float(random.uniform(0, 12))));
  for (int i = 0; i < 5 * 18 * 18; ++i) append(float_to_half(float(random.below(std::uint32_t(classes)))));
  return out;
}

void write(fs::path const& path, std::vector<std::byte> const& bytes) {
  std::ofstream out{path, std::ios::binary};
  out.write(reinterpret_cast<char const*>(bytes.data()), std::streamsize(bytes.size()));
  if (!out) throw std::runtime_error{path.string() + " cannot be written"};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "dm2_make_pictures DIR COUNT [CLASSES [QUALITY]]\n";
    return 2;
  }
  try {
    fs::path const root = argv[1];
    int const count = std::atoi(argv[2]), classes = argc > 3 ? std::atoi(argv[3]) : 1000;
    int const quality = argc > 4 ? std::atoi(argv[4]) : 92;
    auto const name = [](int c) { return "c" + std::to_string(1000 + c).substr(1); };
    for (int c = 0; c < classes; ++c)
      for (char const* kind : {"train", "maps"}) fs::create_directories(root / kind / name(c));
    std::atomic<std::size_t> bytes{0};
    for_each_index(std::size_t(count), 0, [&](std::size_t i) {
      std::string const folder = name(int(i) % classes), stem = std::to_string(i);
      auto const jpeg = encode_jpeg(make_picture({17, 1, i}), quality);
      bytes += jpeg.size();
      write(root / "train" / folder / (stem + ".jpg"), jpeg);
      write(root / "maps" / folder / (stem + ".pt"), make_label_map(classes, {17, 2, i}));
    });
    std::cout << count << " pictures, " << bytes / std::size_t(std::max(count, 1)) << " bytes on average\n";
  } catch (std::exception const& problem) {
    std::cerr << problem.what() << '\n';
    return 1;
  }
  return 0;
}
