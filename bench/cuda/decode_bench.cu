/// @file
/// The device's time to decode a batch of JPEGs, kernel by kernel.
///
/// Beside it the host's time, of one thread: to decode them, and to leave them encoded for the device.
///
///     dm2_cuda_decode_bench [SET]     pictures of a packed set, or a folder of classes; else made ones of 500 x 375
#include <dm2/cuda/batch_decoder.cuh>
#include <dm2/cuda/device/pinned_resource.cuh>
#include <dm2/cuda/device/stream.cuh>
#include <dm2/data/dataset.hpp>
#include <dm2/data/sample_transform.hpp>
#include <dm2/data/worker_threads.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "data/make_jpeg.hpp"

namespace {

using namespace dm2;

constexpr int batch = 256, height = 375, width = 500, rounds = 20;
using files = std::vector<std::vector<std::byte>>;
using clock_type = std::chrono::steady_clock;

double seconds_since(clock_type::time_point begin) {
  return std::chrono::duration<double>(clock_type::now() - begin).count();
}

/// Waves of every length, edges and a sensor's grain.
picture make_picture(int seed) {
  picture p{height, width};
  std::mt19937 random{unsigned(seed)};
  std::normal_distribution<double> grain{0, 5};
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) {
      double const edge = (x + 2 * y + 37 * seed) % 190 < 95 ? 25 : -25, noise = grain(random);
      for (int c = 0; c < 3; ++c) {
        double const v = 128 + 45 * std::sin(0.013 * (x + 40 * seed) + c) + 20 * std::sin(0.11 * y + 0.07 * x) +
                         8 * std::sin(0.7 * x + 0.9 * y) + edge + noise;
        p.row(y)[3 * x + c] = std::uint8_t(std::clamp(v, 0.0, 255.0));
      }
    }
  return p;
}

/// How pictures are encoded.
struct encoding {
  int quality, factor;  ///< chroma at half the columns and rows (2), or whole (1)
  bool restarts;        ///< after each row of blocks, as in packed sets; else none, as in most files

  [[nodiscard]] std::string name() const {
    return "quality " + std::to_string(quality) + (factor == 2 ? ", 4:2:0" : ", 4:4:4") +
           (restarts ? "" : ", no restarts");
  }
  [[nodiscard]] std::vector<std::byte> operator()(picture const& p) const {
    unsigned const row = restarts ? unsigned((p.width - 1) / (8 * factor) + 1) : 0;
    return test::make_jpeg(
        p.pixels, p.height, p.width,
        {.horizontal = factor, .vertical = factor, .optimise = true, .restart_interval = row, .quality = quality});
  }
};

/// A batch of different pictures, made by all processors: of one, they would take longer than all that is measured.
std::vector<picture> make_pictures() {
  std::vector<picture> out(batch, picture{height, width});
  for_each_index(out.size(), 0, [&](std::size_t i) { out[i] = make_picture(int(i)); });
  return out;
}

files made_files(std::vector<picture> const& of, encoding const& encode) {
  files out(of.size());
  for_each_index(of.size(), 0, [&](std::size_t i) { out[i] = encode(of[i]); });
  return out;
}

files set_files(std::string const& path) {
  dataset const set{path};
  files out;
  std::size_t const count = std::min<std::size_t>(batch, set.size());
  out.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    picture_bytes const file = set.open_image(i * (set.size() / count));
    out.emplace_back(file.bytes().begin(), file.bytes().end());
  }
  return out;
}

/// The whole of a picture, or its evaluation at 224 x 224.
picture_task task_of(encoded_picture const& p, bool whole) {
  picture_task t = plan_evaluation(p.height(), p.width(), {224, 224}, {256, 256});
  if (whole) t.part = {0, 0, p.height(), p.width()};
  return t;
}

/// What one thread of the host takes.
struct host_times {
  double decoding = 0, leaving = 0;
  std::vector<std::uint8_t> pixels;  ///< of the last picture
};

host_times fill(raw_pictures& raw, files const& all, bool whole) {
  host_times out;
  raw.prepare(int(all.size()), {224, 224}, 0, cuda::pinned_resource::get());
  for (std::size_t i = 0; i < all.size(); ++i) {
    auto begin = clock_type::now();
    encoded_picture left{all[i], "made.jpg"};
    static_cast<void>(leave_encoded(left, task_of(left, whole), raw_place{raw, int(i), true}));
    out.leaving += seconds_since(begin);
    begin = clock_type::now();
    encoded_picture decoded{all[i], "made.jpg"};
    pixel_box const part = task_of(decoded, whole).part;
    out.pixels.resize(3 * std::size_t(part.height) * std::size_t(part.width));
    decoded.part_into(part, out.pixels.data());
    out.decoding += seconds_since(begin);
  }
  return out;
}

/// Whether each picture that the device decoded has libjpeg's pixels.
bool same_pixels(raw_pictures const& raw, files const& all) {
  bool same = true;
  for (std::size_t i = 0; i < all.size(); ++i) {
    picture_task const& t = raw.tasks[i];
    if (!t.on_device) continue;
    picture const want = encoded_picture{all[i], "made.jpg"}.part(t.part);
    std::vector<std::uint8_t> got(want.pixels.size());
    cuda::check(cudaMemcpy(got.data(), raw.on_device + t.offset, got.size(), cudaMemcpyDeviceToHost), "pixels");
    same = same && got == want.pixels;
  }
  return same;
}

void time_batch(std::string const& name, files const& all, bool whole) {
  raw_pictures raw;
  host_times const host = fill(raw, all, whole);
  cuda::stream stream;
  cuda::batch_decoder decoder{stream.get()};
  auto const left = raw.tasks;
  int const encoded = int(std::count_if(left.begin(), left.end(), [](auto const& t) { return t.encoded; }));
  std::size_t const failed = decoder.decode(raw).size();
  bool const same = same_pixels(raw, all);
  double const copied = decoder.seconds_copying();
  auto const worked = decoder.seconds_decoding();
  auto const begin = clock_type::now();
  for (int i = 0; i < rounds; ++i) {
    raw.tasks = left;
    static_cast<void>(decoder.decode(raw));
  }
  double const wall = seconds_since(begin), n = double(all.size());
  auto const now = decoder.seconds_decoding();
  auto const each = [](double later, double earlier) { return 1e3 * (later - earlier) / rounds; };
  std::printf("| %s | %d of %zu, %zu failed | %s | %.1f | %.3f | %.3f | %.3f | %.3f | %.3f | %.4f | %.3f |\n",
              name.c_str(), encoded, all.size(), failed, same ? "the host's bytes" : "OTHER BYTES",
              double(raw.used) / 1e6, each(decoder.seconds_copying(), copied),
              each(now.coefficients, worked.coefficients), each(now.samples, worked.samples),
              each(now.colours, worked.colours), 1e3 * wall / rounds, 1e3 * host.leaving / n, 1e3 * host.decoding / n);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::puts(
        "| | left for the device | result | MB copied | copying, ms | coefficients | samples | colours | a batch, by "
        "the "
        "clock | host: leaving, ms a picture | host: decoding, ms a picture |\n"
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|");
    if (argc > 1) {
      files const all = set_files(argv[1]);
      time_batch("the set, whole", all, true);
      time_batch("the set, evaluation", all, false);
      return 0;
    }
    std::vector<encoding> const kinds{{96, 2, true}, {90, 2, true}, {96, 1, true}, {96, 2, false}};
    std::vector<picture> const pictures = make_pictures();
    for (encoding const& e : kinds) {
      files const all = made_files(pictures, e);
      time_batch(e.name() + ", whole", all, true);
      time_batch(e.name() + ", evaluation", all, false);
    }
  } catch (std::exception const& problem) {
    std::fprintf(stderr, "%s\n", problem.what());
    return 1;
  }
  return 0;
}
