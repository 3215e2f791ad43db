#include <dm2/cuda/ssd.cuh>

#include <doctest/doctest.h>

#include "cuda/ssd/case.cuh"
#include "cuda/support/device_array.cuh"
#include "cuda/support/precisions.cuh"
#include "support/compare.hpp"
#include "support/views.hpp"

#include <algorithm>
#include <cstddef>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

using scan_shapes::least, scan_shapes::lone, scan_shapes::small, scan_shapes::square, scan_shapes::tiny;
constexpr mixer_shape widest{.heads = 2, .headdim = 128, .d_state = 256, .groups = 1, .d_conv = 4};

/// Heads in two slices that differ, six of them for blocks of four, and states that leave a part of a slab.
constexpr mixer_shape uneven{.heads = 3, .headdim = 100, .d_state = 36, .groups = 3, .d_conv = 4};

template <mixer_shape M, class T, cuda::precision P = cuda::precision::bf16>
struct scan_of {
  static constexpr mixer_shape shape = M;
  static constexpr cuda::precision precision = P;
  using element = T;
};
// Structures, not other names, since nvcc 13 loses structures among template arguments outside templates.
template <mixer_shape M>
struct tf32_scan_of : scan_of<M, float, cuda::precision::tf32> {};
template <mixer_shape M>
struct fp32_scan_of : scan_of<M, float, cuda::precision::fp32> {};

/// What the default precision's context is used for: the scan's numbers are those of its operands, but for TF32.
using context = cuda::context<>;

/// A batch on the device, and the same in double from the rounded numbers.
template <class Case>
struct device_scan : scan_operands<Case::shape, typename Case::element> {
  using base = scan_operands<Case::shape, typename Case::element>;
  static constexpr mixer_shape M = Case::shape;
  static constexpr auto tf32 = cuda::precision::tf32, fp32 = cuda::precision::fp32;
  using T = typename Case::element;
  using base::host, base::input;
  device_array<T> y{host.x.size()};

  explicit device_scan(ssd_case<M> f) : base{std::move(f)} {}
  device_scan(int batch, int length) : device_scan(random_ssd<M>(batch, length)) {}

  void forward(cuda::context<Case::precision>& ctx, scan_form form = scan_form::automatic) {
    y = device_array<T>{host.x.size()};
    cuda::check(cudaDeviceSynchronize(), "operands");  // the scan's stream need not wait for the copies' one
    cuda::ssd(ctx, input(), y.template as_rows<M.d_inner()>(), form);
  }
  /// Against double, which the first call computes.
  void check() {
    if (untouched(host.y)) host.forward();
    CHECK(relative_error(y.read(), host.y) <
          (std::is_same_v<T, float> ? product_tolerance < Case::precision == tf32 ? tf32 : fp32 >
                                    : rounding_tolerance<T>));
    CHECK(y.margins_untouched());
  }
};

constexpr scan_form forms[] = {scan_form::automatic, scan_form::quadratic, scan_form::chunked};

}  // namespace

#define DM2_WHOLE_SCANS                                                                                        \
  scan_of<tiny, __nv_bfloat16>, scan_of<tiny, __half>, scan_of<small, __nv_bfloat16>, scan_of<square, __half>, \
      scan_of<widest, __nv_bfloat16>, scan_of<least, __nv_bfloat16>, scan_of<lone, __half>
#define DM2_RECURRENT_SCANS                                                                               \
  scan_of<tiny, float>, scan_of<least, float>, scan_of<uneven, float>, scan_of<one_group, __nv_bfloat16>, \
      scan_of<one_group, float>, scan_of<two_groups, __half>, scan_of<two_groups, float>

TEST_CASE_TEMPLATE("cuda ssd: every form equals double at lengths around the tiles'", Case, DM2_WHOLE_SCANS,
                   DM2_RECURRENT_SCANS) {
  context ctx;
  for (int const length : {1, 15, 17, 63, 64, 65, 127, 128, 129, 197, 255, 256, 257, 785}) {
    device_scan<Case> f{2, length};
    for (scan_form const form : forms) {
      CAPTURE(length);
      CAPTURE(int(form));
      f.forward(ctx, form);
      f.check();
    }
  }
}

TEST_CASE_TEMPLATE("cuda ssd: float equals double where its longest tiles end, and TF32 to its rounding", Case,
                   scan_of<least, float>, tf32_scan_of<least>, tf32_scan_of<tiny>, tf32_scan_of<uneven>) {
  cuda::context<Case::precision> ctx;
  for (int const length : {1, 31, 32, 33, 129, 799, 800, 801}) {
    if (Case::shape.d_inner() > 100 && length > 200) continue;  // the same code, 40 times as long
    CAPTURE(length);
    device_scan<Case> f{2, length};
    f.forward(ctx);
    f.check();
  }
}

TEST_CASE("cuda ssd: float's scores are made for some of many sequences at a time, and for none above 720 tokens") {
  for (int const length : {720, 721}) {
    cuda::context<cuda::precision::fp32> ctx;
    int const few = 2 * ctx.device().multiprocessors / least.heads;
    device_scan<fp32_scan_of<least>> f{std::max(60, few + 1), length};  // 59's are 64 MB
    f.forward(ctx);
    f.check();
    CHECK((ctx.scratch_bytes() > 0) == (length == 720));
  }
}

TEST_CASE_TEMPLATE("cuda ssd: a long sequence equals double", Case, scan_of<tiny, __nv_bfloat16>,
                   scan_of<square, __half>, scan_of<two_groups, float>) {
  context ctx;
  device_scan<Case> f{1, 3137};
  f.forward(ctx);
  f.check();
}

TEST_CASE_TEMPLATE("cuda ssd: long sequences are cut into runs only where they are few", Case,
                   scan_of<least, __nv_bfloat16>, scan_of<lone, __half>) {
  context few_ctx, many_ctx;
  device_scan<Case> few{1, 785}, many{2 * many_ctx.device().multiprocessors, 129};
  few.forward(few_ctx, scan_form::chunked);
  few.check();
  CHECK(few_ctx.scratch_bytes() > 0);
  many.forward(many_ctx, scan_form::chunked);
  many.check();
  CHECK(many_ctx.scratch_bytes() == 0);
}

TEST_CASE_TEMPLATE("cuda ssd: a batch of any size equals double", Case, scan_of<tiny, __nv_bfloat16>) {
  context ctx;
  for (int const batch : {1, 3, 40}) {  // a head a block, and several
    CAPTURE(batch);
    device_scan<Case> f{batch, 81};
    f.forward(ctx);
    f.check();
  }
}

TEST_CASE_TEMPLATE("cuda ssd: a head that forgets nothing sums, and one that forgets at once only sees its own token",
                   Case, DM2_WHOLE_SCANS, DM2_RECURRENT_SCANS) {
  context ctx;
  for (int const length : {197, 513}) {
    auto host = random_ssd<Case::shape>(1, length);
    for (double& rate : host.a) rate = -16;  // exp(-320) is no float, exp(-1.6e-8) is 1
    for (std::size_t i = 0; i < host.dt.size(); ++i) host.dt[i] = i % 2 == 0 ? 1e-9 : 20;
    device_scan<Case> f{std::move(host)};
    for (scan_form const form : forms) {
      f.forward(ctx, form);
      f.check();
    }
  }
}

TEST_CASE_TEMPLATE("cuda ssd: what comes after a token that forgets all is exact again", Case, DM2_WHOLE_SCANS,
                   DM2_RECURRENT_SCANS) {
  context ctx;
  auto host = random_ssd<Case::shape>(1, 321);
  for (std::size_t i = 0; i < host.dt.size(); ++i) host.dt[i] = i % 37 == 5 ? 50 : 0.01;
  device_scan<Case> f{std::move(host)};
  for (scan_form const form : forms) {
    f.forward(ctx, form);
    f.check();
  }
}

TEST_CASE_TEMPLATE("cuda ssd: no step is no input", Case, DM2_WHOLE_SCANS, DM2_RECURRENT_SCANS) {
  context ctx;
  auto host = random_ssd<Case::shape>(1, 129);
  host.dt.assign(host.dt.size(), 0);
  device_scan<Case> f{std::move(host)};
  for (scan_form const form : forms) {
    f.forward(ctx, form);
    f.check();
  }
}

TEST_CASE_TEMPLATE("cuda ssd: two runs give the same bits", Case, DM2_WHOLE_SCANS, DM2_RECURRENT_SCANS) {
  for (int const length : {197, 785}) {
    context ctx;
    device_scan<Case> f{2, length};
    f.forward(ctx);
    auto const first = f.y.read();
    f.forward(ctx);
    CHECK(f.y.read() == first);
  }
}

TEST_CASE_TEMPLATE("cuda ssd: a captured scan replays to the same bits, and allocates nothing once planned", Case,
                   scan_of<tiny, __nv_bfloat16>, scan_of<one_group, float>) {
  cudaStream_t stream = nullptr;
  cuda::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  for (int const length : {197, 785}) {
    context ctx{stream};
    device_scan<Case> f{1, length};
    ctx.plan([&] { f.forward(ctx); });
    std::size_t const planned = ctx.scratch_bytes();
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t replay = nullptr;
    cuda::check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
    cuda::ssd(ctx, f.input(), f.y.template as_rows<Case::shape.d_inner()>());
    cuda::check(cudaStreamEndCapture(stream, &graph), "capture");
    cuda::check(cudaGraphInstantiate(&replay, graph, 0), "graph");
    cuda::check(cudaGraphLaunch(replay, stream), "graph");
    cuda::check(cudaStreamSynchronize(stream), "graph");
    f.check();
    auto const captured = f.y.read();
    f.forward(ctx);
    CHECK(f.y.read() == captured);
    CHECK(ctx.scratch_bytes() == planned);
    cuda::check(cudaGraphExecDestroy(replay), "graph");
    cuda::check(cudaGraphDestroy(graph), "graph");
  }
  cuda::check(cudaStreamDestroy(stream), "stream");
}

TEST_CASE_TEMPLATE("cuda ssd: operands that are aligned to their numbers only are read", Case,
                   scan_of<least, __nv_bfloat16>, scan_of<square, __half>) {
  using T = typename Case::element;
  context ctx;
  device_scan<Case> f{2, 65};
  auto values = f.host.x;
  values.insert(values.begin(), 0);
  device_array<T> const shifted{values};
  auto in = f.input();
  in.x.data = shifted.data() + 1;
  cuda::ssd(ctx, in, f.y.template as_rows<Case::shape.d_inner()>());
  f.check();
}

TEST_CASE("cuda ssd: operands that disagree are refused by name, and nothing is written") {
  context ctx;
  device_scan<scan_of<least, __nv_bfloat16>> f{2, 7};
  auto const message = [&](auto const& spoil) {
    auto in = f.input();
    auto y = f.y.as_rows<64>();
    spoil(in, y);
    std::string const text = shape_message([&] { cuda::ssd(ctx, in, y); });
    CHECK(untouched(f.y.read()));
    return text;
  };
  CHECK(message([](auto& in, auto&) { in.length = 5; }) == "ssd.x: got 14 rows, expected a multiple of the length 5");
  CHECK(message([](auto& in, auto&) { in.length = 0; }) == "ssd.x: got 14 rows, expected a multiple of the length 0");
  CHECK(message([](auto& in, auto&) { in.dt.count = 13; }) == "ssd.dt rows: got 13, expected 14");
  CHECK(message([](auto& in, auto&) { in.b.count = 13; }) == "ssd.b rows: got 13, expected 14");
  CHECK(message([](auto& in, auto&) { in.c.count = 15; }) == "ssd.c rows: got 15, expected 14");
  CHECK(message([](auto&, auto& y) { y.count = 13; }) == "ssd.y rows: got 13, expected 14");
}

TEST_CASE("cuda ssd: no sequences are no work") {
  context ctx;
  device_scan<scan_of<least, __nv_bfloat16>> f{1, 7};
  auto in = f.input();
  in.x.count = in.dt.count = in.b.count = in.c.count = 0;
  for (scan_form const form : forms) cuda::ssd(ctx, in, {f.y.data(), 0}, form);
  CHECK(untouched(f.y.read()));
}
