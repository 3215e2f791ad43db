// fp32 and TF32: Tiny's evaluation by operation, and the tiled kernels beside the plain ones that they stand for.
#include <dm2/cuda/ssd.cuh>
#include <dm2/cuda/ssd_backward.cuh>
#include <dm2/cuda/stem.cuh>

#include "cuda/device_report.cuh"
#include "cuda/network_steps.cuh"
#include "cuda/timing.cuh"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace {

using namespace dm2;
using namespace dm2::bench;
using cuda::precision;

constexpr auto fp32 = precision::fp32;
constexpr auto tf32 = precision::tf32;

/// Relative distance of two arrays on the device, in norm.
double distance(float const* got, float const* want, std::size_t n) {
  std::vector<float> a(n), b(n);
  cuda::check(cudaMemcpy(a.data(), got, n * sizeof(float), cudaMemcpyDeviceToHost), "result");
  cuda::check(cudaMemcpy(b.data(), want, n * sizeof(float), cudaMemcpyDeviceToHost), "result");
  double apart = 0, size = 0;
  for (std::size_t i = 0; i < n; ++i) {
    double const d = double(a[i]) - double(b[i]);
    apart += d * d, size += double(b[i]) * double(b[i]);
  }
  return std::sqrt(apart / size);
}

/// A row of the second table: plain kernel, tiles in float, tiles in TF32.
struct three_forms {
  std::string name;
  double gigaflops;
  double plain, tiles, tensor;            ///< microseconds
  double tiles_apart, tensor_apart = 0.;  ///< of their result from the plain kernel's

  void print() const {
    auto const rate = [&](double us) { return gigaflops / us * 1e3; };
    std::printf("| %s | %.1f | %.0f | %.0f | %.0f | %.1f | %.1f | %.1f | %.1e | %.1e |\n", name.c_str(), gigaflops,
                plain, tiles, tensor, rate(plain), rate(tiles), rate(tensor), tiles_apart, tensor_apart);
    std::fflush(stdout);
    if (!(tiles_apart < 1e-5 && tensor_apart < 2e-3)) throw std::runtime_error{name + ": the forms differ"};
  }
};

/// The stem's products of 128 pictures, one after the other.
template <config C>
class stem_products {
  using G = cuda::detail::stem::geometry<sizes<C>::stem>;
  static constexpr int pictures = 128, pixels = pictures * G::plane_pixels, patches = pictures * G::tokens;
  static constexpr std::size_t plane = std::size_t(pixels) * G::hidden;

 public:
  void run() {
    namespace room = cuda::detail::stem;
    constexpr float mean[3]{0.485f, 0.456f, 0.406f}, deviation[3]{0.229f, 0.224f, 0.225f};
    auto const reader = cuda::detail::reader_of<G>(cuda::byte_pictures<3>::normalised(bytes_.data(), mean, deviation));
    using reader_type = std::remove_const_t<decltype(reader)>;
    row<49, G::channels, G::hidden>("7 x 7, stride 2", pixels, room::picture_source<G, float, reader_type>{reader},
                                    room::picture_rows<G, reader_type>{reader, pixels}, [&](float* to) {
                                      return room::plane_sink<G, false, float>{bias_.data(), to};
                                    });
    row<9, G::hidden, G::hidden>("3 x 3", pixels, room::plane_source<G, float>{in_.data()},
                                 room::plane_rows<G>{in_.data(), pixels}, [&](float* to) {
                                   return room::plane_sink<G, false, float>{bias_.data(), to};
                                 });
    row<G::side * G::side, G::hidden, G::dim>("projection", patches, room::patch_source<G, float>{in_.data()},
                                              cuda::detail::float_rows{in_.data(), G::depth, patches, G::depth},
                                              [&](float* to) {
                                                return room::grid_sink<G::dim>{bias_.data(), to};
                                              });
  }

 private:
  template <int Taps, int Inner, int N, class Plain, class Tiled, class Sink>
  void row(char const* name, int rows, Plain const& plain, Tiled const& tiled, Sink const& sink) {
    namespace room = cuda::detail::stem;
    using old_layout = room::plain_layout<Taps, Inner, N>;
    using new_layout = room::rows_layout<Taps, Inner, N>;
    std::vector<float> one(old_layout::size), other(new_layout::size, 0.f);
    for (int t = 0; t < Taps; ++t)
      for (int c = 0; c < Inner; ++c)
        for (int n = 0; n < N; ++n)
          one[std::size_t(old_layout::index(t, c, n))] = other[std::size_t(new_layout::index(t, c, n))] =
              float((t * 31 + c * 17 + n * 7) % 23 - 11) * 0.01f;
    cuda::device_memory const a{one.size() * sizeof(float)}, b{other.size() * sizeof(float)};
    cuda::check(cudaMemcpy(a.data(), one.data(), a.size(), cudaMemcpyHostToDevice), "weights");
    cuda::check(cudaMemcpy(b.data(), other.data(), b.size(), cudaMemcpyHostToDevice), "weights");
    auto const* const w = reinterpret_cast<float const*>(a.data());
    auto const* const v = reinterpret_cast<float const*>(b.data());
    std::size_t const n = std::size_t(rows) * N;
    three_forms r{std::string{"stem, "} + name, 2e-9 * rows * Taps * Inner * N, 0, 0, 0, 0};
    r.plain = median_us(s_, [&] { room::launch_general<old_layout, N>(s_.get(), plain, w, sink(want_.data()), rows); });
    r.tiles = median_us(s_, [&] { room::launch_tiled<fp32, new_layout>(s_.get(), tiled, v, sink(out_.data()), rows); });
    r.tiles_apart = distance(out_.data(), want_.data(), n);
    r.tensor =
        median_us(s_, [&] { room::launch_tiled<tf32, new_layout>(s_.get(), tiled, v, sink(out_.data()), rows); });
    r.tensor_apart = distance(out_.data(), want_.data(), n);
    r.print();
  }

  cuda::stream s_;
  random_array<std::uint8_t> bytes_{std::size_t(pictures) * sizes<C>::pixels};
  random_array<float> in_{plane}, out_{plane}, want_{plane}, bias_{1024};
};

/// One direction's scan.
template <config C>
void scan(char const* name, int batch, int length) {
  constexpr mixer_shape M = sizes<C>::mixer;
  std::size_t const n = std::size_t(batch) * std::size_t(length);
  constexpr std::size_t inner = M.d_inner(), states = std::size_t(M.groups) * M.d_state;
  random_array<float> const x{n * inner}, b{n * states, 0.1f}, c{n * states, 0.1f}, dt{n * M.heads, 0.002f, 0.01f};
  random_array<float> const a{std::size_t(M.heads), 0.1f, -4}, d{std::size_t(M.heads)}, want{n * inner}, y{n * inner};
  cuda::stream const s;
  cuda::context<fp32> exact{s.get()};
  cuda::context<tf32> rounded{s.get()};
  using heads = block<float const, space::device, M.heads>;
  cuda::ssd_input<M, float> const in{{x.data(), n}, {dt.data(), n},  heads{a.data()}, {b.data(), n},
                                     {c.data(), n}, heads{d.data()}, length};
  rows<float, M.d_inner(), space::device> const out{y.data(), n}, plain{want.data(), n};
  double const pairs = 0.5 * length * (length + 1);
  three_forms r{std::string{"scan, "} + name + ", " + std::to_string(batch) + " x " + std::to_string(length),
                2e-9 * batch * pairs * double(states + inner),
                0,
                0,
                0,
                0};
  r.plain = median_us(s, [&] { cuda::ssd_general(exact, in, plain); });
  r.tiles = median_us(s, [&] { cuda::ssd(exact, in, out); });
  r.tiles_apart = distance(y.data(), want.data(), n * inner);
  r.tensor = median_us(s, [&] { cuda::ssd(rounded, in, out); });
  r.tensor_apart = distance(y.data(), want.data(), n * inner);
  r.print();
}

/// Gradients of a scan.
template <mixer_shape M>
struct scan_gradients {
  static constexpr std::size_t inner = M.d_inner(), states = std::size_t(M.groups) * M.d_state;
  std::size_t tokens;
  random_array<float> x, dt, a, b, c, d;

  explicit scan_gradients(std::size_t n)
      : tokens{n}, x{n * inner}, dt{n * M.heads}, a{M.heads}, b{n * states}, c{n * states}, d{M.heads} {}
  [[nodiscard]] cuda::ssd_gradient<M, float> view() {
    using heads = block<float, space::device, M.heads>;
    return {{x.data(), tokens}, {dt.data(), tokens}, heads{a.data()},
            {b.data(), tokens}, {c.data(), tokens},  heads{d.data()}};
  }
  /// The greatest distance of those of tokens from another's.
  [[nodiscard]] double apart(scan_gradients const& other) const {
    double most = std::max(distance(x.data(), other.x.data(), tokens * inner),
                           distance(dt.data(), other.dt.data(), tokens * M.heads));
    most = std::max(most, distance(b.data(), other.b.data(), tokens * states));
    return std::max(most, distance(c.data(), other.c.data(), tokens * states));
  }
};

/// One direction's scan, backward: in chunks of float, in tiles, in TF32.
template <config C>
void scan_backward(char const* name, int batch, int length) {
  namespace room = cuda::detail::ssd;
  constexpr mixer_shape M = sizes<C>::mixer;
  using plain = room::backward_general<M, float>;
  std::size_t const n = std::size_t(batch) * std::size_t(length);
  constexpr std::size_t inner = M.d_inner(), states = std::size_t(M.groups) * M.d_state;
  random_array<float> const x{n * inner}, dy{n * inner}, b{n * states, 0.1f}, c{n * states, 0.1f};
  random_array<float> const dt{n * M.heads, 0.002f, 0.01f}, a{std::size_t(M.heads), 0.1f, -4}, d{std::size_t(M.heads)};
  random_array<float> sums{std::size_t(batch) * M.heads * 2};
  scan_gradients<M> want{n}, tiles{n}, tensor{n};
  cuda::stream const s;
  cuda::context<fp32> exact{s.get()};
  cuda::context<tf32> rounded{s.get()};
  using heads = block<float const, space::device, M.heads>;
  cuda::ssd_input<M, float> const in{{x.data(), n}, {dt.data(), n},  heads{a.data()}, {b.data(), n},
                                     {c.data(), n}, heads{d.data()}, length};
  auto p = room::operands_of<M, float>(in, dy.data(), want.view(), batch);
  p.da = sums.data(), p.d_skip = sums.data() + std::ptrdiff_t{batch} * M.heads;
  cuda::device_memory const scratch{plain::scratch_bytes(batch, length, exact.device())};
  double const pairs = 0.5 * length * (length + 1);
  three_forms r{std::string{"scan backward, "} + name + ", " + std::to_string(batch) + " x " + std::to_string(length),
                2e-9 * batch * pairs * double(3 * states + 2 * inner),
                0,
                0,
                0,
                0};
  r.plain =
      median_us(s, [&] { plain::launch(p, reinterpret_cast<std::byte*>(scratch.data()), exact.device(), s.get()); });
  rows<float const, M.d_inner(), space::device> const slopes{dy.data(), n};
  r.tiles = median_us(s, [&] { cuda::ssd_backward(exact, in, slopes, tiles.view()); });
  r.tiles_apart = tiles.apart(want);
  r.tensor = median_us(s, [&] { cuda::ssd_backward(rounded, in, slopes, tensor.view()); });
  r.tensor_apart = tensor.apart(want);
  r.print();
}

/// An evaluation's operations and the whole of it.
template <config C, precision P>
void network(char const* name, int batch) {
  network_steps<C, P> steps{batch};
  double const whole = median_us(
      steps.stream(), [&] { steps.run(); }, 300e3);
  std::printf(
      "\n%s, %d pictures: %.0f pictures/s, %.1f ms\n\n| operation | times | us each | TFLOP/s "
      "|\n|---|---:|---:|---:|\n",
      name, batch, batch / whole * 1e6, whole * 1e-3);
  for (network_step const& step : steps.steps()) {
    double const us = median_us(steps.stream(), step.run);
    std::printf("| %s | %d | %.1f | %.1f |\n", step.name.c_str(), step.times, us, step.flops / us * 1e-6);
  }
  std::fflush(stdout);
}

}  // namespace

int main() {
  try {
    print_device();
    std::printf(
        "\n| product | GFLOP | plain us | tiles us | TF32 us | plain TFLOP/s | tiles | TF32 | tiles apart | TF32 apart "
        "|\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n");
    stem_products<tiny>{}.run();
    scan<tiny>("Tiny", 256, 197);
    scan<tiny>("Tiny", 87, 577);
    scan<tiny>("Tiny", 76, 659);
    scan<tiny>("Tiny", 33, 785);  // few enough for tiles
    scan<published_small>("Small", 256, 197);
    scan_backward<tiny>("Tiny", 256, 197);
    scan_backward<tiny>("Tiny", 87, 577);
    scan_backward<tiny>("Tiny", 64, 785);
    scan_backward<published_small>("Small", 256, 197);
    network<tiny, fp32>("Tiny 224, fp32", 256);
    network<tiny, tf32>("Tiny 224, TF32", 256);
  } catch (std::exception const& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}
