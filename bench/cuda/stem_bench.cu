// The stem's inference, kernel by kernel, as it was and as it is: Tiny's and Small's, 256 pictures and one, in bf16.
//
//   dm2_cuda_stem_bench            times, three medians of each in turn
//   dm2_cuda_stem_bench --once     each once, without times, for a profiler
//
// What it was is bench/cuda/kernels/stem_before.cuh. Results are compared before anything is timed: to the last bit,
// but where sums are by wgmma that were by mma. There the 7 x 7's planes may differ by 1e-3 of their norm, since
// numbers of 16 bits may be rounded to the other side, and token rows by 1e-5.
//
// The 3 x 3 convolutions of many pictures run in two more forms: as they were with planes stored whole, and with
// multiplying warpgroups that take turns.
//
// A row is a step of the pass. GB and TFLOP are counted from the sizes: 411 MB for each plane of 256 pictures that is
// read or written, and the products' multiply-adds twice.
#include <dm2/cuda/stem.cuh>

#include "cuda/device_report.cuh"
#include "cuda/kernels/stem_before.cuh"
#include "cuda/timing.cuh"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

using namespace dm2;
using namespace dm2::bench;
namespace stem = dm2::cuda::detail::stem;
namespace before = dm2::bench::stem_before;

constexpr int rounds = 3;
using T = cuda::element<cuda::precision::bf16>;

/// A step of the pass in one form.
struct form {
  std::string name;
  double bytes, flops;
  std::function<void()> run;
  std::vector<double> us = {};
};

/// Bytes of the device.
std::vector<unsigned char> bytes_at(void const* from, std::size_t bytes) {
  std::vector<unsigned char> to(bytes);
  cuda::check(cudaMemcpy(to.data(), from, bytes, cudaMemcpyDeviceToHost), "read a result");
  return to;
}

/// Throws where one of the numbers is not finite, or all are the same.
template <class N>
void require_numbers(std::string const& what, std::vector<unsigned char> const& bytes) {
  bool differ = false;
  for (std::size_t at = 0; at < bytes.size(); at += sizeof(N)) {
    N v;
    std::memcpy(&v, bytes.data() + at, sizeof v);
    if (float const x = cuda::detail::to_float(v); !(x - x == 0))
      throw std::runtime_error{what + ": a number is not finite"};
    differ = differ || std::memcmp(bytes.data() + at, bytes.data(), sizeof v) != 0;
  }
  if (!differ) throw std::runtime_error{what + ": one number everywhere"};
}

/// The norm of a - b as a part of that of b, of numbers N.
template <class N>
double difference(std::vector<unsigned char> const& a, std::vector<unsigned char> const& b) {
  double apart = 0, norm = 0;
  for (std::size_t at = 0; at < b.size(); at += sizeof(N)) {
    N n, m;
    std::memcpy(&n, a.data() + at, sizeof n), std::memcpy(&m, b.data() + at, sizeof m);
    double const x = cuda::detail::to_float(n), y = cuda::detail::to_float(m);
    apart += (x - y) * (x - y), norm += y * y;
  }
  return std::sqrt(apart / norm);
}

/// A stem's kernels for `pictures` pictures on memory of their own.
template <stem_shape S>
class steps {
  using G = stem::geometry<S>;
  using layouts = stem::layouts<S, T>;
  static constexpr float mean[3] = {0.485f, 0.456f, 0.406f}, deviation[3] = {0.229f, 0.224f, 0.225f};

 public:
  explicit steps(int pictures) : pictures_{pictures} {
    first();
    inner<false>("second, 3 x 3", planes_[0].data(), 0, planes_[1].data());
    inner<true>("third, 3 x 3", planes_[1].data(), 1, planes_[0].data());
    project();
  }
  std::vector<form>& forms() { return forms_; }
  [[nodiscard]] cuda::stream const& stream() const { return stream_; }

 private:
  [[nodiscard]] std::size_t plane() const { return std::size_t(pictures_) * G::plane_pixels * G::hidden; }
  [[nodiscard]] double pixels() const { return 1.0 * pictures_ * G::plane_pixels; }

  /// Runs a form over what is no number, and requires `want` if there is something in it; else fills it. `apart` is how
  /// far they may be from it.
  template <class N>
  void add(std::string name, double bytes, double flops, N* out, std::size_t count, std::vector<unsigned char>& want,
           std::function<void()> run, double apart = 0) {
    cuda::check(cudaMemsetAsync(out, 0xff, count * sizeof(N), stream_.get()), "clear a result");
    run();
    stream_.synchronize();
    auto got = bytes_at(out, count * sizeof(N));
    if (want.empty())
      require_numbers<N>(name, want = std::move(got));
    else if (apart == 0 ? got != want : !(difference<N>(got, want) < apart))
      throw std::runtime_error{name + ": other numbers"};
    forms_.push_back({std::move(name), bytes, flops, std::move(run)});
  }
  void first() {
    double const flops = 2 * pixels() * S.hidden * 49 * S.channels, out = 2.0 * double(plane());
    auto const both = [&](char const* name, double bytes, auto const& reader) {
      std::vector<unsigned char> want;
      T* const to = planes_[0].data();
      add(std::string{"7 x 7 from "} + name + ", before", bytes + out, flops, to, plane(), want, [this, reader, to] {
        before::launch_conv1<G>(ctx_.stream(), ctx_.device().multiprocessors, reader, conv1_.data(), bias_.data(), to,
                                pictures_);
      });
      add(pictures_ < 128 ? "now" : "the next tile's pixels ahead", bytes + out, flops, to, plane(), want,
          [this, reader, to] {
            stem::launch_conv1<G>(ctx_.stream(), ctx_.device(), reader, conv1_.data(), bias_.data(), to, pictures_);
          });
      if (pictures_ < 128) return;
      auto const by_wgmma = [this, reader, to] {
        if (!stem::launch_conv1_hopper<G>(ctx_.stream(), ctx_.device(), reader, conv1_.data(), bias_.data(), to,
                                          pictures_))
          throw std::runtime_error{"the device has not the 7 x 7 convolution by wgmma"};
      };
      add<T>("now: by wgmma", bytes + out, flops, to, plane(), want, by_wgmma, 1e-3);
    };
    double const numbers = 1.0 * pictures_ * S.channels * S.height * S.width;
    both("floats", 4 * numbers, cuda::detail::planar_reader<G>{floats_.data()});
    both("bytes", numbers,
         cuda::detail::byte_reader<G>{cuda::byte_pictures<S.channels>::normalised(bytes_.data(), mean, deviation)});
  }
  template <bool Patches>
  void inner(std::string const& name, T const* in, std::size_t layer, T* out) {
    double const flops = 2 * pixels() * S.hidden * 9 * S.hidden, bytes = 4.0 * double(plane());
    T const* const weights = conv3_[layer].data();
    std::vector<unsigned char> want;
    auto const put = [&](std::string form, auto const& launch) {
      add(std::move(form), bytes, flops, out, plane(), want, [=, this] { launch(in, weights, out); });
    };
    auto const many = [&](std::string form, auto const& launch) {
      put(std::move(form), [=, this](T const* from, T const* w, T* to) {
        if (!launch(ctx_.stream(), ctx_.device(), from, w, bias_.data(), to, pictures_))
          throw std::runtime_error{"the device has not the kernel for many pictures"};
      });
    };
    if (pictures_ >= 128) {
      many(name + ", before", [](auto... a) { return before::launch_conv3_hopper<G, Patches, false>(a...); });
      many("before, stored whole", [](auto... a) { return before::launch_conv3_hopper<G, Patches, true>(a...); });
      many("now: one warpgroup of four loads", [](auto... a) { return stem::launch_conv3_hopper<G, Patches>(a...); });
      many("the same, the others multiply in turn", [](auto... a) {
        return stem::launch_conv3_hopper<G, Patches, stem::conv3_roles{1, 3, true}>(a...);
      });
    } else {
      put(name + ", before", [this](T const* from, T const* w, T* to) {
        before::launch_conv3<G, stem::conv3_small, Patches>(ctx_.stream(), ctx_.device().multiprocessors, from, w,
                                                            bias_.data(), to, pictures_, false);
      });
      put("now", [this](T const* from, T const* w, T* to) {
        stem::launch_conv3<G, stem::conv3_small, Patches>(ctx_.stream(), ctx_.device().multiprocessors, from, w,
                                                          bias_.data(), to, pictures_, false);
      });
    }
  }
  void project() {
    constexpr int K = G::depth, N = S.dim;
    int const rows = pictures_ * G::tokens;
    stem::project_plan const plan = stem::plan_projection<K, N>(ctx_.device(), rows);
    std::vector<unsigned char> want;
    T const *const in = planes_[0].data(), *const weights = projection_.data();
    auto const put = [&](char const* name, double apart, auto const& run) {
      add(name, 2.0 * double(plane()) + 4.0 * rows * N, 2.0 * rows * K * N, x_.data(), x_numbers(), want, run, apart);
    };
    auto const with = [&]<stem::project_form F, class Sink>(char const* name) {
      put(name, 0, [=, this] {
        stem::launch_projection<K, N, F>(ctx_.stream(), plan, in, weights, sink<Sink>(), rows, parts_.data());
      });
    };
    auto const both = [&]<stem::project_form F>() {
      with.template operator()<F, before::token_sink<N, G::tokens>>("projection to token rows, before");
      with.template operator()<F, stem::token_sink<N, G::tokens>>("what it adds read at once");
    };
    if (!plan.many) {
      both.template operator()<stem::project_few>();
      return;
    }
    both.template operator()<stem::project_many<N>>();
    put("now: by wgmma", 1e-5, [=, this] {
      if (!stem::launch_project_hopper<K, N>(ctx_.stream(), ctx_.device(), in, weights,
                                             sink<stem::token_sink<N, G::tokens>>(), rows))
        throw std::runtime_error{"the device has not the projection by wgmma"};
    });
  }
  template <class Sink>
  [[nodiscard]] Sink sink() const {
    return {projection_bias_.data(), class_token_.data(), positions_.data(), x_.data()};
  }
  [[nodiscard]] std::size_t x_numbers() const { return std::size_t(pictures_) * (G::tokens + 1) * S.dim; }
  [[nodiscard]] std::size_t part_numbers() const {
    return std::max<std::size_t>(1, stem::plan_projection<G::depth, S.dim>(ctx_.device(), pictures_ * G::tokens).parts);
  }

  int pictures_;
  cuda::stream stream_;
  cuda::context<> ctx_{stream_.get()};
  random_array<float> floats_{std::size_t(pictures_) * S.channels * S.height * S.width};
  random_array<std::uint8_t> bytes_{std::size_t(pictures_) * S.channels * S.height * S.width};
  random_array<T> conv1_{layouts::conv1::size, 0.08f}, projection_{layouts::project::size, 0.02f};
  random_array<T> conv3_[2] = {random_array<T>{layouts::conv3::size, 0.04f},
                               random_array<T>{layouts::conv3::size, 0.05f}};
  random_array<float> bias_{std::size_t(S.hidden), 0.1f}, projection_bias_{std::size_t(S.dim), 0.1f},
      class_token_{std::size_t(S.dim)}, positions_{std::size_t(G::tokens + 1) * S.dim};
  random_array<T> planes_[2] = {random_array<T>{plane()}, random_array<T>{plane()}};
  random_array<float> x_{x_numbers()}, parts_{part_numbers()};
  std::vector<form> forms_;
};

void print(form const& f) {
  std::vector<double> us = f.us;
  std::nth_element(us.begin(), us.begin() + long(us.size() / 2), us.end());
  double const middle = us[us.size() / 2];
  std::printf("| %s |", f.name.c_str());
  for (std::size_t i = 0; i < f.us.size(); ++i) std::printf("%s%.1f", i == 0 ? " " : ", ", f.us[i]);
  std::printf(" | %.3f | %.2f | %.1f | %.0f |\n", f.bytes / 1e9, f.bytes / middle / 1e6, f.flops / 1e9,
              f.flops / middle / 1e6);
}

template <int Dim>
void run(char const* network, int pictures, bool once) {
  constexpr stem_shape shape{.height = 224, .width = 224, .channels = 3, .hidden = 64, .patch = 16, .dim = Dim};
  steps<shape> all{pictures};  // runs and compares every form
  if (once) return;
  std::printf("\n%s, %d pictures of 224 x 224, bf16: us, %d medians each, in turn\n\n", network, pictures, rounds);
  std::printf("| step | us | GB | TB/s | GFLOP | TFLOP/s |\n|---|---:|---:|---:|---:|---:|\n");
  for (int round = 0; round < rounds; ++round)
    for (auto& f : all.forms()) f.us.push_back(median_us(all.stream(), f.run, 30e3));
  for (auto const& f : all.forms()) print(f);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    std::vector<std::string_view> const words(argv + 1, argv + argc);
    if (words.size() > 1 || (words.size() == 1 && words[0] != "--once"))
      throw std::runtime_error{"usage: dm2_cuda_stem_bench [--once]"};
    bool const once = !words.empty();
    if (!once) print_device();
    for (int const pictures : {256, 1}) {
      run<192>("Tiny", pictures, once);
      run<384>("Small", pictures, once);
    }
  } catch (std::exception const& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}
