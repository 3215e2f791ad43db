// The mixer core for sequences in one segment, by each of its kernels in turn: tensor.cuh's, and packed.cuh's in
// float and in halves, with copies and with tensor maps.
//
//   dm2_cuda_mixer_core_bench
#include <dm2/cuda/mixer_core/packed.cuh>
#include <dm2/cuda/mixer_core/scale_by_squares.cuh>

#include "cuda/device_report.cuh"
#include "cuda/timing.cuh"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <vector>

namespace {

using namespace dm2;
using namespace dm2::bench;
namespace room = dm2::cuda::detail::mixer_core;
using room::packed_way;

constexpr mixer_shape tiny_mixer{.heads = 8, .headdim = 48, .d_state = 128, .groups = 1, .d_conv = 4};
constexpr mixer_shape tiny_other_way{
    .heads = 8, .headdim = 48, .d_state = 128, .groups = 1, .d_conv = 4, .variant = mixer_variant::bidirectional};
constexpr mixer_shape small_mixer{.heads = 8, .headdim = 96, .d_state = 128, .groups = 1, .d_conv = 4};
constexpr mixer_shape two_groups{.heads = 8, .headdim = 48, .d_state = 128, .groups = 2, .d_conv = 4};

constexpr packed_way floats{.halves = false, .boxes = false}, float_boxes{.halves = false, .boxes = true};
constexpr packed_way halves{.halves = true, .boxes = false}, half_boxes{.halves = true, .boxes = true};
constexpr int forms = 5, rounds = 5;

/// tensor.cuh's kernel.
struct whole_form {
  template <class T, mixer_shape M>
  static bool fits(cuda::device_properties const& device, int length) {
    return room::whole_fits<T, M>(device, length);
  }
  template <cuda::precision P, mixer_shape M, class... All>
  static bool launch(All&&... all) {
    return room::launch_whole<P, M>(all...);
  }
};
/// packed.cuh's.
template <packed_way Way>
struct packed_form {
  template <class T, mixer_shape M>
  static bool fits(cuda::device_properties const& device, int length) {
    return room::packed_fits<T, M, Way>(device, length);
  }
  template <cuda::precision P, mixer_shape M, class... All>
  static bool launch(All&&... all) {
    return room::launch_packed<Way, P, M>(all...);
  }
};

/// One shape, and its operands on the device.
template <cuda::precision P, mixer_shape M>
class core_case {
 public:
  using T = cuda::element<P>;

  core_case(int sequences, int length)
      : sequences_{sequences},
        length_{length},
        count_{std::size_t(sequences) * std::size_t(length)},
        in_{count_ * std::size_t(M.projected())},
        g_{count_ * 2 * std::size_t(M.d_inner())} {
    direction_.conv.data = conv_.data(), direction_.conv_bias.data = bias_.data();
    direction_.dt_bias.data = steps_.data(), direction_.a_log.data = rates_.data();
    direction_.d.data = skip_.data(), direction_.norm.data = norm_.data();
  }

  /// How far the packed forms' g is from tensor.cuh's, relative to its norm. Throws where that is more than rounding to
  /// 16 bits leads to, and where a form with a tensor map has other bits than with copies.
  void compare() {
    auto const want = result<whole_form>();
    auto const in_float = result<packed_form<floats>>(), in_halves = result<packed_form<halves>>();
    float_apart_ = apart(in_float, want), halves_apart_ = apart(in_halves, want);
    same<float_boxes>(in_float);
    same<half_boxes>(in_halves);
  }
  /// A table's row: median microseconds of each form, left before the norm or normed.
  void row(char const* name, bool finish) {
    std::array<std::vector<double>, forms> times;
    for (int round = 0; round < rounds; ++round) {  // in turns, so that a change of clocks meets all of them
      time<whole_form>(times[0], finish);
      time<packed_form<floats>>(times[1], finish);
      time<packed_form<float_boxes>>(times[2], finish);
      time<packed_form<halves>>(times[3], finish);
      time<packed_form<half_boxes>>(times[4], finish);
    }
    std::printf("| %s | %d | %d | %s |", name, length_, sequences_, finish ? "normed" : "left");
    for (auto& all : times) {
      if (all.empty()) {
        std::printf(" - |");
        continue;
      }
      std::sort(all.begin(), all.end());
      std::printf(" %.1f (%.1f to %.1f) |", all[all.size() / 2], all.front(), all.back());
    }
    std::printf(" %.2e | %.2e |\n", float_apart_, halves_apart_);
    std::fflush(stdout);
  }

 private:
  template <class Form>
  void launch(bool finish) {
    using memory = room::scratch<T, M>;
    static_cast<void>(ctx_.reserve(planned_bytes<memory>(count_, length_)));
    arena_scope const scope{ctx_.shared()};
    memory scratch{ctx_.shared(), count_, length_};
    scratch.factors = finish ? factors_.data() : nullptr;
    mixer_parameters<M, float const, space::device> const p{direction_, direction_};
    bool const normed =
        Form::template launch<P, M>(ctx_, in_.data(), p, g_.data(), scratch, sequences_, length_, finish);
    if (finish && !normed)
      room::scale_by_squares<P, M>(ctx_, g_.data(), scratch.squares, norm_.data(), norm_.data(), int(count_),
                                   factors_.data());
  }
  template <class Form>
  void time(std::vector<double>& to, bool finish) {
    if (Form::template fits<T, M>(ctx_.device(), length_))
      to.push_back(median_us(stream_, [&] { launch<Form>(finish); }));
  }
  template <class Form>
  std::vector<T> result() {
    std::vector<T> host(count_ * 2 * std::size_t(M.d_inner()));
    cuda::check(cudaMemsetAsync(g_.data(), 0xff, host.size() * sizeof(T), stream_.get()), "clear g");  // NaN
    launch<Form>(false);
    stream_.synchronize();
    cuda::check(cudaMemcpy(host.data(), g_.data(), host.size() * sizeof(T), cudaMemcpyDeviceToHost), "g");
    return host;
  }
  static double apart(std::vector<T> const& got, std::vector<T> const& want) {
    double difference = 0, size = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
      double const x = cuda::detail::to_float(got[i]), y = cuda::detail::to_float(want[i]);
      difference += (x - y) * (x - y), size += y * y;
    }
    double const relative = std::sqrt(difference / size);
    if (!(relative < 1e-2)) throw std::runtime_error{"the packed mixer core differs from the other one"};
    return relative;
  }
  template <packed_way Way>
  void same(std::vector<T> const& want) {
    if (room::packed_fits<T, M, Way>(ctx_.device(), length_) &&
        std::memcmp(result<packed_form<Way>>().data(), want.data(), want.size() * sizeof(T)) != 0)
      throw std::runtime_error{"the packed mixer core has other bits with a tensor map"};
  }

  int sequences_, length_;
  double float_apart_ = 0, halves_apart_ = 0;
  std::size_t count_;
  cuda::stream stream_;
  cuda::context<P> ctx_{stream_.get()};
  random_array<T> in_, g_;
  random_array<float> conv_{std::size_t(M.conv_dim()) * M.d_conv, 0.3f}, bias_{std::size_t(M.conv_dim())};
  random_array<float> norm_{std::size_t(M.d_inner())}, steps_{std::size_t(M.heads), 1, -2};
  random_array<float> rates_{std::size_t(M.heads), 0.5f, 1}, skip_{std::size_t(M.heads)};
  random_array<float> factors_{count_ * 2 * std::size_t(M.groups)};
  mixer_direction<M, float const, space::device> direction_;
};

template <cuda::precision P, mixer_shape M>
void run(char const* name, int sequences, int length) {
  core_case<P, M> one{sequences, length};
  one.compare();
  one.row(name, false);
  one.row(name, true);
}

}  // namespace

int main() {
  try {
    constexpr auto bf16 = cuda::precision::bf16;
    print_device();
    std::puts("Median us of graph replays in five turns (least to most); g before its norm (left) or normed.");
    std::puts("Boxes are tensor-map copies. Taken: halves, boxes in bf16; float, boxes in fp16.");
    std::puts(
        "| shape | tokens | batch | g | tensor.cuh | float | float, boxes | halves | halves, boxes | float apart "
        "| halves apart |");
    std::puts("|---|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|");
    run<bf16, tiny_mixer>("Tiny", 256, 197);
    run<bf16, tiny_other_way>("Tiny, bidirectional", 256, 197);
    run<bf16, tiny_mixer>("Tiny", 64, 197);
    run<bf16, tiny_mixer>("Tiny", 256, 145);
    run<bf16, tiny_mixer>("Tiny", 256, 224);
    run<bf16, small_mixer>("Small", 256, 197);
    run<bf16, two_groups>("Tiny, groups 2", 256, 197);
    run<cuda::precision::fp16, tiny_mixer>("Tiny, fp16", 256, 197);
  } catch (std::exception const& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}
