#include <dm2/cuda/mixer_core/packed.cuh>

#include <doctest/doctest.h>

#include "cuda/mixer_core/case.cuh"
#include "support/compare.hpp"

#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

namespace room = dm2::cuda::detail::mixer_core;
using room::packed_way;
constexpr auto bf16 = cuda::precision::bf16;
constexpr auto fp16 = cuda::precision::fp16;
constexpr packed_way floats{.halves = false, .boxes = false}, halves{.halves = true, .boxes = false};
constexpr packed_way float_boxes{.halves = false, .boxes = true}, half_boxes{.halves = true, .boxes = true};

constexpr mixer_shape tiny_other_way{
    .heads = 8, .headdim = 48, .d_state = 128, .groups = 1, .d_conv = 4, .variant = mixer_variant::bidirectional};
constexpr mixer_shape four_groups{.heads = 8, .headdim = 16, .d_state = 32, .groups = 4, .d_conv = 2};
constexpr mixer_shape narrow_halves{
    .heads = 8, .headdim = 80, .d_state = 16, .groups = 2, .d_conv = 4, .variant = mixer_variant::bidirectional};
constexpr mixer_shape fours{.heads = 4, .headdim = 12, .d_state = 16, .groups = 2, .d_conv = 4};

/// A mixer by the packed kernel and by tensor.cuh's.
template <cuda::precision P, mixer_shape M>
struct packed_mixer : device_mixer<P, M> {
  using T = cuda::element<P>;
  /// The greatest factors are those of the smallest rows, of whose digits most is rounding.
  static constexpr double factor_tolerance = P == bf16 ? 4e-2 : 4e-3;
  int sequences;
  device_array<float> factors;

  packed_mixer(int count, int length)
      : device_mixer<P, M>{count, length}, sequences{count}, factors{this->host.count() * 2 * std::size_t(M.groups)} {}

  /// Norms in the blocks where `finish` and they make whole rows: true then.
  template <class Launch>
  bool run(bool finish, Launch const& launch) {
    using scratch_memory = room::scratch<T, M>;
    std::size_t const count = this->host.count();
    int const length = this->host.length;
    static_cast<void>(this->ctx.reserve(planned_bytes<scratch_memory>(count, length)));
    arena_scope const scope{this->ctx.shared()};
    scratch_memory scratch{this->ctx.shared(), count, length};
    scratch.factors = factors.data();
    auto const p = this->parameters();
    if (launch(this->ctx, this->in.data(), p, this->g.data(), scratch, sequences, length, finish)) return true;
    room::scale_by_squares<P, M>(this->ctx, this->g.data(), scratch.squares, p.forward.norm.data, p.backward.norm.data,
                                 int(count), factors.data());
    return false;
  }
  template <packed_way Way>
  bool packed(bool finish) {
    return run(finish, [](auto&&... all) { return room::launch_packed<Way, P, M>(all...); });
  }
  bool whole(bool finish) {
    return run(finish, [](auto&&... all) { return room::launch_whole<P, M>(all...); });
  }
  [[nodiscard]] double error() const { return relative_error(this->g.read(), this->host.g); }

  /// What norms each group, from the CPU's g: without its weights, its mean square is 1 - 1e-5 factor^2.
  [[nodiscard]] std::vector<double> host_factors() const {
    constexpr int inner = M.d_inner(), group = inner / M.groups;
    std::vector<double> all;
    all.reserve(factors.size());
    for (std::size_t part = 0; part < this->host.g.size() / group; ++part) {
      std::size_t const first = part * group % (2 * inner), second = first / inner;
      double mean = 0;
      for (std::size_t c = 0; c < group; ++c) {
        std::size_t const channel = first % inner + c;
        bool const reversed = second == 1 && M.variant == mixer_variant::published;
        double const v =
            this->host.g[part * group + c] / this->host.p[second][5][reversed ? inner - 1 - channel : channel];
        mean += v * v / group;
      }
      all.push_back(std::sqrt((1 - mean) / 1e-5));
    }
    return all;
  }
  template <packed_way Way>
  double check_form(bool finish, std::vector<double> const& want) {
    REQUIRE(room::packed_fits<T, M, Way>(this->ctx.device(), this->host.length));
    bool const normed = packed<Way>(finish);
    double const packed_error = error();
    CHECK(packed_error < (P == bf16 ? 1.5e-2 : 2e-3));
    CHECK(relative_error(factors.read(), want) < factor_tolerance);
    CHECK(this->g.margins_untouched());
    CHECK(factors.margins_untouched());
    auto const once = this->g.read();
    CHECK(packed<Way>(finish) == normed);
    CHECK(this->g.read() == once);
    return packed_error;
  }
  /// Copies by a tensor map, where the device and the shape have them, change nothing.
  template <packed_way Way>
  void check_same(bool finish, std::vector<double> const& same) {
    if (room::packed_fits<T, M, Way>(this->ctx.device(), this->host.length)) {
      packed<Way>(finish);
      CHECK(this->g.read() == same);
      CHECK(this->g.margins_untouched());
    } else {
      CHECK((this->ctx.device().major != 9 || M.projected() % 8 != 0 || M.heads % 8 != 0));
    }
  }
  /// What is taken has the bits of halves in bfloat16, and those of floats in half.
  void check_taken(bool finish, std::vector<double> const& same) {
    run(finish, [](auto&&... all) { return room::launch_one_segment<P, M>(all...); });
    CHECK(this->g.read() == same);
  }
  void check(bool finish) {
    CAPTURE(this->host.length);
    CAPTURE(M.headdim);
    CAPTURE(finish);
    if (!room::whole_fits<T, M>(this->ctx.device(), this->host.length)) return;  // too little shared memory
    this->host.forward();
    whole(finish);
    double const whole_error = error();
    auto const want = host_factors();
    CHECK(relative_error(factors.read(), want) < factor_tolerance);
    double const in_float = check_form<floats>(finish, want);
    check_same<float_boxes>(finish, this->g.read());
    auto const floats_g = this->g.read();
    double const in_halves = check_form<halves>(finish, want);
    check_same<half_boxes>(finish, this->g.read());
    check_taken(finish, P == bf16 ? this->g.read() : floats_g);
    MESSAGE("mixer_core ", int(P), " H ", M.heads, " P ", M.headdim, " N ", M.d_state, " G ", M.groups, " L ",
            this->host.length, ": ", whole_error, "; packed in float ", in_float, ", in halves ", in_halves);
    if (P == bf16 && this->host.length > 1) CHECK(in_halves < whole_error);  // three bits more of x, B, C, scores
  }
};

template <class F>
void check_lengths(int sequences, std::initializer_list<int> lengths) {
  for (int const length : lengths) F{sequences, length}.check(length % 2 == 0);
}

}  // namespace

TEST_CASE("cuda mixer_core, packed: equals the CPU's in double at every length, nearer than tensor.cuh's in bfloat16") {
  check_lengths<packed_mixer<bf16, tiny_mixer>>(1, {1, 15, 16, 17, 64, 65, 197, 224});
  check_lengths<packed_mixer<bf16, tiny_other_way>>(2, {17, 66, 197});
  check_lengths<packed_mixer<fp16, tiny_mixer>>(1, {1, 17, 130, 197});
}

TEST_CASE("cuda mixer_core, packed: equals the CPU's for other heads, states, taps and groups") {
  check_lengths<packed_mixer<bf16, small_mixer>>(1, {33, 197});
  check_lengths<packed_mixer<bf16, small_state>>(2, {16, 197, 224});
  check_lengths<packed_mixer<fp16, four_heads>>(2, {1, 224});
  check_lengths<packed_mixer<bf16, four_groups>>(2, {7, 144});
  check_lengths<packed_mixer<bf16, narrow_halves>>(1, {64, 129});
  check_lengths<packed_mixer<fp16, fours>>(2, {15, 224});
}

/// Whether a multiprocessor of an H100 or H200 has room for two blocks of so many tiles.
template <mixer_shape M>
constexpr bool two_fit(int tiles) {
  constexpr int all = 228 << 10, of_system = 1 << 10, own = 128;  // bytes: CUDA's table for 9.0, and a kernel's own
  return 2 * (room::layout<room::packed_traits<__nv_bfloat16, M, half_boxes>>{tiles}.bytes + own + of_system) <= all;
}

TEST_CASE("cuda mixer_core, packed: a multiprocessor of an H100 or H200 has room for two blocks at every length") {
  for (int tiles = 1; tiles <= 14; ++tiles) {
    CHECK(two_fit<tiny_mixer>(tiles));
    CHECK(two_fit<tiny_other_way>(tiles));
  }
  for (int tiles = 1; tiles <= 13; ++tiles) CHECK(two_fit<small_mixer>(tiles));
}

TEST_CASE(
    "cuda mixer_core, packed: taken at every length in one segment, unless it alone leaves no room for two blocks") {
  cuda::device_properties device{cuda::current_device()};
  device.major = 8, device.shared_per_sm = 233472, device.shared_per_block = 232448;  // an H100's, without tensor maps
  auto const taken = [&]<class T, mixer_shape M>(int length) {
    return room::packed_taken<T, M, room::best_way<T>(false)>(device, length);
  };
  for (int length = 1; length <= 224; ++length) {
    CAPTURE(length);
    CHECK(taken.operator()<__nv_bfloat16, tiny_mixer>(length));
    CHECK(taken.operator()<__half, tiny_mixer>(length));
    CHECK(taken.operator()<__nv_bfloat16, small_mixer>(length));
    CHECK(taken.operator()<__half, small_mixer>(length));
  }
  CHECK_FALSE(taken.operator()<__nv_bfloat16, tiny_mixer>(225));
  CHECK_FALSE(room::one_segment<__nv_bfloat16, tiny_mixer>(device, 225));
  constexpr mixer_shape wide{.heads = 24, .headdim = 64, .d_state = 128, .groups = 1, .d_conv = 4};
  CHECK(taken.operator()<__nv_bfloat16, wide>(176));
  CHECK_FALSE(taken.operator()<__nv_bfloat16, wide>(192));  // 117,808 bytes, 114,176 in tensor.cuh
  CHECK(room::one_segment<__nv_bfloat16, wide>(device, 192));
  CHECK(taken.operator()<__nv_bfloat16, wide>(197));                // neither has room for two
  device.shared_per_sm = 102400, device.shared_per_block = 101376;  // an RTX 4090's
  for (int length = 1; length <= 225; ++length)
    CHECK(taken.operator()<__nv_bfloat16, tiny_mixer>(length) ==
          room::one_segment<__nv_bfloat16, tiny_mixer>(device, length));
  static_assert(room::packed_suffices<__nv_bfloat16, tiny_mixer>() && room::packed_suffices<__half, tiny_mixer>());
  static_assert(room::packed_suffices<__nv_bfloat16, small_mixer>() && !room::packed_suffices<__half, small_mixer>());
  CHECK_FALSE(taken.operator()<__half, small_mixer>(192));  // 102,288 bytes, 101,376 in tensor.cuh
  CHECK(room::one_segment<__half, small_mixer>(device, 192));
  constexpr mixer_shape narrow{.heads = 8, .headdim = 24, .d_state = 64, .groups = 1, .d_conv = 4};
  CHECK_FALSE(room::whole_fits<__nv_bfloat16, narrow>(device, 197));  // 103,168 bytes, 99,840 packed
  CHECK(taken.operator()<__nv_bfloat16, narrow>(197));
  CHECK(room::one_segment<__nv_bfloat16, narrow>(device, 197));
}

TEST_CASE("cuda mixer_core, packed: many sequences are normed by their blocks, few afterwards, and are the same") {
  packed_mixer<bf16, small_state> many{300, 33}, few{2, 33};
  CHECK(many.packed<halves>(true));
  many.host.forward();
  CHECK(many.error() < 1.5e-2);
  CHECK_FALSE(few.packed<halves>(true));
  few.host.forward();
  CHECK(few.error() < 1.5e-2);
}

TEST_CASE("cuda mixer_core, packed: a projection beyond a half's range counts as a half's greatest number") {
  auto const with = [](double beyond) {
    packed_mixer<bf16, tiny_mixer> f{1, 17};
    for (auto* direction : {&f.first, &f.second})
      direction->p[0] = device_array<float>{std::vector<double>(tiny_mixer.conv_dim() * tiny_mixer.d_conv, 0.25)};
    f.host.in[3 * tiny_mixer.projected() + tiny_mixer.d_inner() + 5] = beyond;  // x in both directions
    f.in = device_array<__nv_bfloat16>{f.host.in};
    f.packed<halves>(true);
    return f.g.read();
  };
  auto const g = with(65536);
  for (double const v : g) REQUIRE(std::isfinite(v));
  CHECK(with(1e30) == g);
  CHECK(with(32768) != g);
}
