// The scan in chunks: units a block, a Hopper's kernel, and which a device takes.
#include <dm2/core/arena.hpp>
#include <dm2/cuda/ssd.cuh>

#include <doctest/doctest.h>

#include "cuda/ssd/case.cuh"
#include "cuda/support/device_array.cuh"
#include "support/compare.hpp"

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <type_traits>
#include <vector>

using namespace dm2;
using namespace dm2::test;
namespace room = dm2::cuda::detail::ssd;

using scan_shapes::few, scan_shapes::least, scan_shapes::lone, scan_shapes::small, scan_shapes::square,
    scan_shapes::sliced, scan_shapes::tiny;

namespace {

/// Four groups of three heads: with two or four units a block the last block has a team too many.
constexpr mixer_shape four_groups{.heads = 12, .headdim = 16, .d_state = 32, .groups = 4, .d_conv = 4};
/// Two groups of four heads.
constexpr mixer_shape fours{.heads = 8, .headdim = 16, .d_state = 64, .groups = 2, .d_conv = 4};
/// Heads of 64 columns, which with 128 states are two slices of 32.
constexpr mixer_shape halved{.heads = 2, .headdim = 64, .d_state = 128, .groups = 1, .d_conv = 4};
constexpr mixer_shape four_heads{.heads = 4, .headdim = 48, .d_state = 128, .groups = 1, .d_conv = 4};
constexpr mixer_shape six_heads{.heads = 6, .headdim = 48, .d_state = 128, .groups = 1, .d_conv = 4};

template <mixer_shape M, class T, int Teams>
struct chunked_case {
  static constexpr mixer_shape shape = M;
  using element = T;
  using traits = room::chunked_traits<room::ssd_sizes<M, T>, Teams>;
  using alone = room::chunked_traits<room::ssd_sizes<M, T>, 1>;
};

/// A Hopper's kernel.
template <mixer_shape M, class T>
struct hopper_case {
  static constexpr mixer_shape shape = M;
  using element = T;
  using traits = room::chunked_hopper_traits<room::ssd_sizes<M, T>>;
};

/// A batch on the device, and the same in double.
template <class Case>
struct device_scan : scan_operands<Case::shape, typename Case::element> {
  using base = scan_operands<Case::shape, typename Case::element>;
  static constexpr mixer_shape M = Case::shape;
  using T = typename Case::element;
  using base::x, base::b, base::c, base::dt, base::a, base::d, base::host;

  device_scan(int batch, int length) : base{random_ssd<M>(batch, length)} {}

  /// Whether a block of the device has the memory, and the instructions.
  template <class Tr>
  static bool fits() {
    cuda::context<> const ctx;
    if constexpr (requires { Tr::alignment; })
      return room::chunked_hopper_runs<Tr>(ctx.device());
    else
      return Tr::bytes <= ctx.device().shared_per_block;
  }
  /// y, every sequence by a block's walk of all its chunks, or in runs of `chunks`.
  template <class Tr>
  std::vector<double> run(int chunks) {
    device_array<T> y{host.x.size()};
    cuda::context<> ctx;
    auto plan = room::chunked_plan::make<Tr>(host.length, host.batch, ctx.device());
    int const all = (host.length - 1) / room::ssd_tile + 1;
    plan.chunks = std::min(chunks, all), plan.runs = (all - 1) / plan.chunks + 1;
    cuda::check(cudaDeviceSynchronize(), "operands");  // the scan's stream need not wait for the copies' one
    arena ruler;
    static_cast<void>(room::take_runs<Tr>(ruler, plan, host.batch));
    device_array<float> const memory{ruler.peak() / sizeof(float) + 16};
    arena scratch{reinterpret_cast<std::byte*>(memory.data()), memory.size() * sizeof(float)};
    room::arguments<T> const p{x.data(), b.data(), c.data(), dt.data(), a.data(), d.data(), y.data(), host.length};
    room::launch_chunked<Tr>(p, room::take_runs<Tr>(scratch, plan, host.batch), plan, host.batch, ctx.stream());
    cuda::check(cudaStreamSynchronize(ctx.stream()), "y");
    CHECK(y.margins_untouched());
    return y.read();
  }
};

constexpr int whole = 1 << 20;

/// A device by its multiprocessors and KB of shared memory of a block, 1 KB less than a multiprocessor's.
cuda::device_properties device_of(int multiprocessors, int shared) {
  cuda::device_properties p{cuda::current_device()};
  p.multiprocessors = multiprocessors;
  p.shared_per_block = shared * 1024, p.shared_per_sm = (shared + 1) * 1024;
  return p;
}

/// Units a block of a batch, by what ssd takes on the device.
template <mixer_shape M>
int units(int sequences, int length, cuda::device_properties const& device) {
  return room::with_chunked_traits<room::ssd_sizes<M, __nv_bfloat16>>(
      length, sequences, device, []<class Tr>(Tr, room::chunked_plan const&) { return Tr::teams; });
}

/// Whether ssd takes the Hopper's kernel for a batch.
template <mixer_shape M>
bool takes_hopper(int sequences, int length, cuda::device_properties const& device) {
  using sizes = room::ssd_sizes<M, __nv_bfloat16>;
  return room::with_forward_traits<sizes>(length, sequences, device, []<class Tr>(Tr, room::chunked_plan const&) {
    return std::is_same_v<Tr, room::chunked_hopper_traits<sizes>>;
  });
}

/// y of two sequences beside double's, at each length, whole and in runs of two chunks.
template <class Case>
void check_lengths(std::initializer_list<int> lengths) {
  for (int const length : lengths) {
    CAPTURE(length);
    device_scan<Case> f{2, length};
    f.host.forward();
    for (int const chunks : {whole, 2}) {
      CAPTURE(chunks);
      CHECK(relative_error(f.template run<typename Case::traits>(chunks), f.host.y) <
            rounding_tolerance<typename Case::element>);
    }
  }
}

}  // namespace

#define DM2_CHUNKED_CASES                                                                                   \
  chunked_case<few, __nv_bfloat16, 2>, chunked_case<four_groups, __nv_bfloat16, 2>,                         \
      chunked_case<four_groups, __half, 4>, chunked_case<square, __half, 2>, chunked_case<lone, __half, 1>, \
      chunked_case<least, __nv_bfloat16, 4>

TEST_CASE_TEMPLATE("cuda ssd chunked: y equals double's at lengths around the chunks', whole and in runs", Case,
                   DM2_CHUNKED_CASES) {
  if (!device_scan<Case>::template fits<typename Case::traits>()) return;
  check_lengths<Case>({1, 17, 63, 64, 65, 127, 128, 129, 257, 785});
}

TEST_CASE_TEMPLATE("cuda ssd chunked: Tiny's shape equals double", Case, chunked_case<tiny, __nv_bfloat16, 2>,
                   chunked_case<tiny, __nv_bfloat16, 4>, hopper_case<tiny, __nv_bfloat16>, hopper_case<tiny, __half>) {
  if (!device_scan<Case>::template fits<typename Case::traits>()) return;
  device_scan<Case> f{1, 321};
  f.host.forward();
  CHECK(relative_error(f.template run<typename Case::traits>(whole), f.host.y) <
        rounding_tolerance<typename Case::element>);
}

TEST_CASE_TEMPLATE("cuda ssd chunked: the bits are those of a run before, and of one unit a block", Case,
                   chunked_case<few, __nv_bfloat16, 2>, chunked_case<four_groups, __half, 4>) {
  if (!device_scan<Case>::template fits<typename Case::traits>()) return;
  device_scan<Case> f{2, 200};
  auto const y = f.template run<typename Case::traits>(whole);
  CHECK(f.template run<typename Case::traits>(whole) == y);
  CHECK(f.template run<typename Case::alone>(whole) == y);
}

#define DM2_HOPPER_CASES                                                                                     \
  hopper_case<four_heads, __nv_bfloat16>, hopper_case<six_heads, __half>, hopper_case<fours, __nv_bfloat16>, \
      hopper_case<square, __half>, hopper_case<sliced, __nv_bfloat16>, hopper_case<halved, __nv_bfloat16>

TEST_CASE_TEMPLATE("cuda ssd chunked on a Hopper: y equals double's at lengths around the chunks', whole and in runs",
                   Case, DM2_HOPPER_CASES) {
  if (!device_scan<Case>::template fits<typename Case::traits>()) return;
  check_lengths<Case>({1, 63, 64, 65, 129, 257, 785});
}

TEST_CASE_TEMPLATE("cuda ssd chunked on a Hopper: the bits are those of a run before", Case, DM2_HOPPER_CASES) {
  if (!device_scan<Case>::template fits<typename Case::traits>()) return;
  device_scan<Case> f{2, 200};
  for (int const chunks : {whole, 2}) {
    auto const y = f.template run<typename Case::traits>(chunks);
    CHECK(f.template run<typename Case::traits>(chunks) == y);
  }
}

TEST_CASE("cuda ssd chunked on a Hopper: ssd takes it in the place of four units a block, and no other device does") {
  using traits = room::chunked_hopper_traits<room::ssd_sizes<tiny, __nv_bfloat16>>;
  auto h200 = device_of(132, 227);
  h200.major = 9, h200.minor = 0;
  if (!room::chunked_hopper_runs<traits>(h200)) return;
  CHECK(takes_hopper<tiny>(64, 3137, h200));
  CHECK(takes_hopper<tiny>(16, 3137, h200));
  CHECK(takes_hopper<small>(32, 3137, h200));
  CHECK(takes_hopper<tiny>(4, 3137, h200));        // 104 blocks, runs of four chunks
  CHECK_FALSE(takes_hopper<tiny>(1, 3137, h200));  // runs of one chunk
  CHECK_FALSE(takes_hopper<few>(64, 3137, h200));
  CHECK_FALSE(takes_hopper<least>(64, 3137, h200));
  auto other = h200;
  other.major = 12;
  CHECK_FALSE(takes_hopper<tiny>(64, 3137, other));
  other = device_of(132, 163);
  CHECK_FALSE(takes_hopper<tiny>(64, 3137, other));
}

TEST_CASE(
    "cuda ssd chunked: a block has four units where they fit and no multiprocessor has more to do than with two") {
  auto const h200 = device_of(132, 227), a100 = device_of(108, 163), rtx = device_of(82, 99);
  CHECK(units<tiny>(64, 3137, h200) == 4);
  CHECK(units<tiny>(16, 3137, h200) == 4);
  CHECK(units<tiny>(64, 785, h200) == 4);
  CHECK(units<tiny>(174, 577, h200) == 4);
  CHECK(units<small>(32, 3137, h200) == 4);
  CHECK(units<tiny>(64, 3137, a100) == 2);
  CHECK(units<tiny>(64, 3137, rtx) == 1);
  CHECK(units<least>(164, 785, rtx) == 4);  // two blocks of four a multiprocessor, or four of two
  CHECK(units<least>(200, 785, rtx) == 2);  // three, or five
  CHECK(units<tiny>(1, 3137, h200) == 4);   // 100 blocks in runs of a chunk, or 200
  CHECK(units<tiny>(1, 785, h200) == 2);    // 26, or 52
  CHECK(units<six_heads>(174, 577, h200) == 2);
  CHECK(units<few>(64, 3137, h200) == 2);
  CHECK(units<lone>(64, 3137, h200) == 1);
  CHECK(units<tiny>(0, 785, h200) == 4);
}

TEST_CASE("cuda ssd chunked: no batch takes more shared memory than a block has") {
  for (int const shared : {99, 163, 227})
    for (int const sequences : {1, 7, 33, 64, 300})
      for (int const length : {65, 785, 3137})
        room::with_chunked_traits<room::ssd_sizes<tiny, __half>>(
            length, sequences, device_of(108, shared),
            [&]<class Tr>(Tr, room::chunked_plan const&) { CHECK(Tr::bytes <= shared * 1024); });
}
