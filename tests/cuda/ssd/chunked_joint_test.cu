// The scan in chunks whose scores and update of the state are one phase, with two and four units a block.
#include <dm2/core/arena.hpp>
#include <dm2/cuda/ssd.cuh>

#include <doctest/doctest.h>

#include "cuda/ssd/case.cuh"
#include "cuda/support/device_array.cuh"
#include "support/compare.hpp"

#include <algorithm>
#include <cstddef>
#include <vector>

using namespace dm2;
using namespace dm2::test;
namespace room = dm2::cuda::detail::ssd;

using scan_shapes::few, scan_shapes::least, scan_shapes::lone, scan_shapes::square, scan_shapes::tiny;

namespace {

/// Four groups of three heads: with two or four units a block the last block has a team too many.
constexpr mixer_shape four_groups{.heads = 12, .headdim = 16, .d_state = 32, .groups = 4, .d_conv = 4};

template <mixer_shape M, class T, int Teams>
struct joint_scan_of {
  static constexpr mixer_shape shape = M;
  using element = T;
  using traits = room::chunked_traits<room::ssd_sizes<M, T>, Teams, true>;
  using apart = room::chunked_traits<room::ssd_sizes<M, T>, Teams>;
};

/// A batch on the device, and the same in double.
template <class Case>
struct device_scan : scan_operands<Case::shape, typename Case::element> {
  using base = scan_operands<Case::shape, typename Case::element>;
  static constexpr mixer_shape M = Case::shape;
  using T = typename Case::element;
  using base::x, base::b, base::c, base::dt, base::a, base::d, base::host;

  device_scan(int batch, int length) : base{random_ssd<M>(batch, length)} {}

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

}  // namespace

#define DM2_JOINT_SCANS                                                                                        \
  joint_scan_of<few, __nv_bfloat16, 2>, joint_scan_of<four_groups, __nv_bfloat16, 2>,                          \
      joint_scan_of<four_groups, __half, 4>, joint_scan_of<square, __half, 2>, joint_scan_of<lone, __half, 2>, \
      joint_scan_of<least, __nv_bfloat16, 4>

TEST_CASE_TEMPLATE("cuda ssd chunked, joint phases: y equals double's at lengths around the chunks', whole and in runs",
                   Case, DM2_JOINT_SCANS) {
  for (int const length : {1, 17, 63, 64, 65, 127, 128, 129, 257, 785}) {
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

TEST_CASE_TEMPLATE("cuda ssd chunked, joint phases: Tiny's shape equals double", Case,
                   joint_scan_of<tiny, __nv_bfloat16, 2>, joint_scan_of<tiny, __nv_bfloat16, 4>) {
  device_scan<Case> f{1, 321};
  f.host.forward();
  CHECK(relative_error(f.template run<typename Case::traits>(whole), f.host.y) <
        rounding_tolerance<typename Case::element>);
}

TEST_CASE_TEMPLATE("cuda ssd chunked, joint phases: the bits are those of a run before, and of phases apart", Case,
                   joint_scan_of<few, __nv_bfloat16, 2>, joint_scan_of<four_groups, __half, 4>) {
  device_scan<Case> f{2, 200};
  auto const y = f.template run<typename Case::traits>(whole);
  CHECK(f.template run<typename Case::traits>(whole) == y);
  CHECK(f.template run<typename Case::apart>(whole) == y);
}
