#include <dm2/cuda/device/stream.cuh>

#include <doctest/doctest.h>

#include "cuda/ssd/backward_case.cuh"
#include "support/compare.hpp"
#include "support/views.hpp"

#include <cstddef>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

using cuda::detail::ssd::backward_walks;
using scan_shapes::few, scan_shapes::least, scan_shapes::lone, scan_shapes::padded, scan_shapes::padded_slices,
    scan_shapes::sliced, scan_shapes::square, scan_shapes::tiny, scan_shapes::widest;

// In no unnamed namespace: nvcc 13 takes a member that only other templates use for unused there.
/// A case with twice the tolerance of dA, for batches: of two heads it is two sums of both signs, whose draws are off
/// by up to 5.9e-2 in bf16.
template <class Case>
struct batch_of : Case {
  static constexpr double total_tolerance = 2 * sum_tolerance<typename Case::element>;
};

namespace {

/// Three heads of so many columns.
template <int Headdim>
constexpr mixer_shape heads_of{.heads = 3, .headdim = Headdim, .d_state = 32, .groups = 1, .d_conv = 4};
/// Four groups of three heads: an odd number of units, fewer than there are sets of decays with the teams apart.
constexpr mixer_shape four_groups{.heads = 12, .headdim = 16, .d_state = 32, .groups = 4, .d_conv = 4};

/// Bytes of a block with two units' operands there, the teams apart or in step.
template <class Case, bool Apart>
constexpr int block_bytes = cuda::detail::ssd::backward_chunk_layout<
                                cuda::detail::ssd::backward_chunk_traits<Case::shape, typename Case::element, Apart>>{2}
                                .bytes;

/// Whether the teams are apart where a block may have so much shared memory.
template <class Case>
bool apart(int shared) {
  cuda::context<> const ctx;
  auto device = ctx.device();
  device.shared_per_block = shared, device.shared_per_sm = 228 << 10;
  return Case::form::staggers(device);
}

/// Gradients that nothing has written.
template <class Case>
void forget(device_scan<Case>& f) {
  f.out = device_array<typename Case::element>{f.in.size()}, f.ddt = device_array<float>{f.host.dt.size()};
  f.da = device_array<float>{f.da.size()}, f.dd = device_array<float>{f.dd.size()};
}

template <class Case>
std::vector<std::vector<double>> every_gradient(device_scan<Case> const& f) {
  return {f.out.read(), f.ddt.read(), f.da.read(), f.dd.read()};
}

/// Whether the device has room for the plan.
template <class Case>
bool has_room(cuda::detail::ssd::backward_chunk_plan const& plan) {
  cuda::context<> const ctx;
  return plan.walks == backward_walks::alone ||
         (Case::form::shares(ctx.device()) &&
          (plan.walks == backward_walks::beside || cuda::has_early_starts(ctx.device())));
}

/// Every gradient as planned; none where the device has no room for it.
template <class Case>
std::vector<std::vector<double>> planned(device_scan<Case>& f, cuda::detail::ssd::backward_chunk_plan const& plan) {
  using form = typename Case::form;
  if (!has_room<Case>(plan)) return {};
  forget(f);
  auto const p = f.operands();
  cuda::context<> ctx;
  std::size_t const bytes = form::scratch_bytes(p.sequences, p.length, plan);
  cuda::check(cudaDeviceSynchronize(), "operands");  // the scan's stream need not wait for the copies' one
  if (!ctx.reserve(bytes)) return {};
  arena_scope const scope{ctx.shared()};
  form::launch(p, ctx.shared().template take<std::byte>(bytes), ctx.device(), ctx.stream(), plan);
  cuda::check(cudaStreamSynchronize(ctx.stream()), "the gradients");  // its scratch goes with the context
  return every_gradient(f);
}

/// Scans one behind the other in one stream with the same scratch, whose operands a copy right ahead of each brings to
/// the same place.
template <class Case>
void run_in_turn(std::vector<device_scan<Case>*> const& scans, cuda::detail::ssd::backward_chunk_plan const& plan) {
  using scan = device_scan<Case>;
  using form = typename Case::form;
  scan const& one = *scans[0];
  device_array<typename Case::element> const in{one.in.size()}, dy{one.dy.size()};
  device_array<float> const dt{one.dt.size()};
  cuda::device_memory const scratch{form::scratch_bytes(one.host.batch, one.host.length, plan)};
  cuda::stream const stream;
  cuda::context<> const ctx{stream.get()};
  auto const copy = [&](auto const& to, auto const& from) {
    cuda::check(cudaMemcpyAsync(to.data(), from.data(), from.size() * sizeof(*from.data()), cudaMemcpyDeviceToDevice,
                                stream.get()),
                "operands");
  };
  cuda::check(cudaDeviceSynchronize(), "operands");
  for (scan* const f : scans) {
    copy(in, f->in), copy(dy, f->dy), copy(dt, f->dt);
    auto p = f->operands();
    p.x = in.data(), p.b = p.x + scan::width, p.c = p.b + scan::states, p.dy = dy.data(), p.dt = dt.data();
    form::launch(p, scratch.data(), ctx.device(), stream.get(), plan);
  }
  stream.synchronize();
}

/// The properties of an H200, but for its number.
cuda::device_properties h200() {
  cuda::context<> const ctx;
  auto device = ctx.device();
  device.multiprocessors = 132, device.shared_per_block = 227 << 10, device.shared_per_sm = 228 << 10;
  return device;
}

/// Every gradient, of two runs that give the same bits, with so much shared memory; none where the device has less.
template <class Case>
std::vector<std::vector<double>> gradients(int shared) {
  device_scan<Case> f{2, 200};
  std::vector<std::vector<double>> all[2];
  for (auto& of : all) {
    if (!f.launch(f.operands(), shared)) return {};
    of = {f.out.read(), f.ddt.read(), f.da.read(), f.dd.read()};
  }
  CHECK(all[0] == all[1]);
  return all[0];
}

}  // namespace

#define DM2_CHUNKED_SCANS                                                                                    \
  chunked_scan_of<few, __nv_bfloat16>, chunked_scan_of<few, __half>, chunked_scan_of<sliced, __nv_bfloat16>, \
      chunked_scan_of<square, __half>, chunked_scan_of<least, __nv_bfloat16>, chunked_scan_of<lone, __half>, \
      chunked_scan_of<heads_of<24>, __nv_bfloat16>, chunked_scan_of<padded_slices, __half>

TEST_CASE_TEMPLATE("cuda ssd_backward_chunked: every gradient equals double's at lengths around the chunks'", Case,
                   DM2_CHUNKED_SCANS) {
  for (int const length : {1, 17, 64, 65, 81, 128, 145, 257, 320}) {
    CAPTURE(length);
    device_scan<Case> f{1, length};
    f.check();
  }
}

TEST_CASE_TEMPLATE("cuda ssd_backward_chunked: batches equal double at lengths around the chunks'", Case,
                   batch_of<chunked_scan_of<few, __nv_bfloat16>>, batch_of<chunked_scan_of<four_groups, __nv_bfloat16>>,
                   batch_of<chunked_scan_of<sliced, __nv_bfloat16>>) {
  for (int const length : {1, 63, 127, 129, 193}) {
    CAPTURE(length);
    device_scan<Case> f{2, length};
    f.check();
  }
}

TEST_CASE_TEMPLATE("cuda ssd_backward_chunked: heads of any multiple of 8 columns equal double", Case,
                   chunked_scan_of<heads_of<8>, __half>, chunked_scan_of<heads_of<40>, __nv_bfloat16>,
                   chunked_scan_of<heads_of<56>, __half>, chunked_scan_of<heads_of<72>, __nv_bfloat16>,
                   chunked_scan_of<heads_of<88>, __half>, chunked_scan_of<heads_of<104>, __nv_bfloat16>,
                   chunked_scan_of<heads_of<120>, __half>) {
  device_scan<Case> f{2, 131};
  f.check();
}

TEST_CASE_TEMPLATE("cuda ssd_backward_chunked: Tiny's shape, a batch and the widest sizes equal double", Case,
                   chunked_scan_of<tiny, __nv_bfloat16>, chunked_scan_of<square, __nv_bfloat16>,
                   chunked_scan_of<padded, __nv_bfloat16>, chunked_scan_of<padded, __half>,
                   chunked_scan_of<widest, __half>) {
  device_scan<Case> f{2, Case::shape.headdim == 128 ? 150 : 257};
  f.check();
}

TEST_CASE_TEMPLATE("cuda ssd_backward_chunked: long sequences equal double", Case, chunked_scan_of<few, __nv_bfloat16>,
                   chunked_scan_of<least, __half>) {
  device_scan<Case> f{1, 785};
  f.check();
}

TEST_CASE_TEMPLATE("cuda ssd_backward_chunked: the longest sequences equal double [long]", Case,
                   chunked_scan_of<few, __nv_bfloat16>, chunked_scan_of<square, __half>) {
  device_scan<Case> f{1, 3137};
  f.check();
}

TEST_CASE_TEMPLATE("cuda ssd_backward_chunked: heads that forget nothing, and heads that forget at once", Case,
                   chunked_scan_of<few, __nv_bfloat16>, chunked_scan_of<square, __half>,
                   chunked_scan_of<heads_of<24>, __nv_bfloat16>) {
  check_extreme_decays<Case>(270);
}

TEST_CASE_TEMPLATE("cuda ssd_backward_chunked: no step is no gradient but that of D and of the step itself", Case,
                   chunked_scan_of<least, __nv_bfloat16>) {
  check_no_steps<Case>(130);
}

TEST_CASE_TEMPLATE("cuda ssd_backward_chunked: a slow decay's gradient keeps its digits over chunks", Case,
                   chunked_scan_of<few, __nv_bfloat16>) {
  check_slow_decay<Case>(400);
}

TEST_CASE("cuda ssd_backward_chunked: every set of sequences has its own A and D") {
  check_sets<chunked_scan_of<least, __nv_bfloat16>>(70);
}

TEST_CASE_TEMPLATE("cuda ssd_backward_chunked: teams apart and in step, with two units in memory and one, agree", Case,
                   chunked_scan_of<few, __nv_bfloat16>, chunked_scan_of<sliced, __half>,
                   chunked_scan_of<four_groups, __half>, chunked_scan_of<heads_of<24>, __nv_bfloat16>) {
  constexpr int two_apart = block_bytes<Case, true>, two_in_step = block_bytes<Case, false>;
  CHECK(apart<Case>(two_apart));
  CHECK_FALSE(apart<Case>(two_apart - 1));
  auto const first = gradients<Case>(two_apart);
  for (int const shared : {two_apart - 1, two_in_step - 1}) {
    CAPTURE(shared);
    auto const other = gradients<Case>(shared);
    if (first.empty() || other.empty()) continue;
    CHECK(other[0] == first[0]);
    CHECK(relative_error(other[1], first[1]) < 1e-6);
    CHECK(relative_error(other[2], first[2]) < 1e-5);
    CHECK(relative_error(other[3], first[3]) < 1e-6);
  }
}

TEST_CASE_TEMPLATE("cuda ssd_backward_chunked: walks of two and four units a block have the bits of one", Case,
                   chunked_scan_of<few, __nv_bfloat16>, chunked_scan_of<sliced, __half>,
                   chunked_scan_of<square, __half>, chunked_scan_of<least, __nv_bfloat16>) {
  constexpr int units = cuda::detail::ssd::backward_chunk_traits<Case::shape, typename Case::element>::units;
  for (int const length : {65, 129, 200, 600}) {  // 1 to 9 steps
    CAPTURE(length);
    device_scan<Case> f{1, length};
    auto const one = planned(f, {1, 1});
    REQUIRE_FALSE(one.empty());
    f.compare();
    CHECK(planned(f, {1, 2}) == one);
    if constexpr (units % 4 == 0) CHECK(planned(f, {1, 4}) == one);
  }
}

TEST_CASE_TEMPLATE("cuda ssd_backward_chunked: slices walked beside the chunks before have the bits of one slice", Case,
                   chunked_scan_of<few, __nv_bfloat16>, chunked_scan_of<sliced, __half>,
                   chunked_scan_of<square, __half>) {
  for (int const length : {64, 65, 200, 449}) {  // 0 to 7 steps; sequences in slices that are equal and not, and in one
    CAPTURE(length);
    device_scan<Case> f{5, length};
    auto const alone = planned(f, {5, 1});
    REQUIRE_FALSE(alone.empty());
    f.compare();
    for (int const slice : {1, 2, 5}) {
      CAPTURE(slice);
      for (auto const walks : {backward_walks::beside, backward_walks::early}) {
        CAPTURE(int(walks));
        auto const beside = planned(f, {slice, 2, walks});
        if (!beside.empty()) CHECK(beside == alone);
      }
    }
    CHECK(planned(f, {2, 1}) == alone);
  }
}

TEST_CASE_TEMPLATE("cuda ssd_backward_chunked: early walks wait for operands and scratch of what is ahead of the call",
                   Case, chunked_scan_of<few, __nv_bfloat16>, chunked_scan_of<square, __half>) {
  for (int const length : {65, 449}) {
    CAPTURE(length);
    auto host = random_ssd<Case::shape>(5, length);
    std::swap(host.x, host.dy);
    device_scan<Case> f{5, length}, g{std::move(host)};
    auto const first = planned(f, {5, 1}), second = planned(g, {5, 1});
    REQUIRE(first != second);
    for (auto const walks : {backward_walks::alone, backward_walks::beside, backward_walks::early}) {
      CAPTURE(int(walks));
      if (!has_room<Case>({1, 2, walks})) continue;
      forget(f), forget(g);
      run_in_turn<Case>({&f, &g}, {1, 2, walks});
      CHECK(every_gradient(f) == first);
      CHECK(every_gradient(g) == second);
    }
  }
}

TEST_CASE("cuda ssd_backward_chunked: every set of sequences has its own A and D in slices that start early") {
  using Case = chunked_scan_of<few, __nv_bfloat16>;
  auto device = h200();
  device.multiprocessors = 2;
  auto const plan = Case::form::plan(6, 385, device);
  CHECK((plan.walks == backward_walks::early && plan.slice == 1) == cuda::has_early_starts(device));
  check_sets<Case>(385, device.multiprocessors);
}

TEST_CASE("cuda ssd_backward_chunked: many long sequences are walked beside chunks, few, short and longest are not") {
  using form = cuda::detail::ssd::backward_chunked<tiny, __nv_bfloat16>;
  auto device = h200();
  auto const early = [&](int sequences, int length) {
    return form::plan(sequences, length, device).walks == backward_walks::early;
  };
  CHECK(early(64, 3137) == cuda::has_early_starts(device));
  if (early(64, 3137)) {
    CHECK(form::plan(64, 3137, device).slice == 16);  // 128 blocks that walk for 132 multiprocessors
    CHECK(form::plan(40, 3137, device).slice == 14);
  }
  CHECK(form::scratch_bytes(64, 3137, device) < form::most_scratch + (std::size_t{1} << 20));
  CHECK_FALSE(early(32, 3137));  // two slices
  CHECK_FALSE(early(64, 785));   // 208 blocks of chunks a slice
  CHECK_FALSE(early(64, 4097));  // three slices' states would be 613 MB
  CHECK_FALSE(early(64, 16385));
  CHECK(form::scratch_bytes(64, 16385, device) < form::most_scratch + (std::size_t{8} << 20));
  device.shared_per_block = 163 << 10, device.shared_per_sm = 164 << 10;
  CHECK_FALSE(early(64, 3137));
}

TEST_CASE("cuda ssd_backward_chunked: walks have four units a block only where no multiprocessor then has more to do") {
  using form = cuda::detail::ssd::backward_chunked<tiny, __nv_bfloat16>;
  auto const device = h200();
  CHECK(form::plan(4, 3137, device).teams == 1);   // 64 blocks of one unit
  CHECK(form::plan(16, 3137, device).teams == 2);  // 64 blocks of four would leave half of them without
  CHECK(form::plan(64, 785, device).teams == 4);   // 256 blocks of four, as 512 of two
  CHECK(form::plan(174, 577, device).teams == 2);  // 11 rounds of two, or six of four
}

TEST_CASE("cuda ssd_backward_chunked: the teams of a group of one unit are in step, whose gradients equal double's") {
  using Case = chunked_scan_of<lone, __half>;
  CHECK_FALSE(apart<Case>(227 << 10));
  CHECK_FALSE(gradients<Case>(block_bytes<Case, false> - 1).empty());
  device_scan<Case> f{1, 145};
  f.check();
}

TEST_CASE("cuda ssd_backward_chunked: Tiny's teams are apart where a block may have 113 KB") {
  using Case = chunked_scan_of<tiny, __nv_bfloat16>;
  CHECK(apart<Case>(113 << 10));
  CHECK_FALSE(apart<Case>(112 << 10));
  CHECK_FALSE(apart<Case>(99 << 10));
}

TEST_CASE("cuda ssd_backward_chunked: more sequences than the scratch holds go in slices of about one size") {
  using form = cuda::detail::ssd::backward_chunked<tiny, __nv_bfloat16>;
  auto const bytes = [](int sequences) {
    return form::scratch_bytes(sequences, 3137, {form::slice(sequences, 3137, h200()), 2});
  };
  CHECK(bytes(64) >= bytes(32));
  CHECK(bytes(64) <= bytes(36));
  CHECK(bytes(64) < form::most_scratch + (std::size_t{1} << 20));
  CHECK(bytes(32) > bytes(31));
}

TEST_CASE("cuda ssd_backward_chunked: slices leave a device of 132 multiprocessors the fewest rounds of blocks") {
  using form = cuda::detail::ssd::backward_chunked<tiny, __nv_bfloat16>;
  auto const device = h200();
  auto const rounds = [](int sequences) { return (sequences * 50 + 263) / 264; };  // of 50 chunks, two blocks each
  int const taken = form::slice(64, 3137, device);
  CHECK(taken == 33);  // 264 blocks of two units in both directions: one round
  for (int n = 32; n <= 36; ++n) CHECK(rounds(taken) + rounds(64 - taken) <= rounds(n) + rounds(64 - n));
  CHECK(form::slice(50, 3137, device) == 50);
  CHECK(form::slice(1, 3137, device) == 1);
  CHECK(form::slice(0, 3137, device) == 1);
}

TEST_CASE("cuda ssd_backward_chunked: no sequences are no work") {
  check_no_sequences<chunked_scan_of<least, __nv_bfloat16>>();
}

TEST_CASE("cuda ssd_backward_chunked: calls that do not fit are left to another form") {
  using cuda::detail::ssd::backward_chunked;
  device_scan<chunked_scan_of<tiny, __nv_bfloat16>> const f{1, 257};
  CHECK_FALSE(f.fits([](auto& p) { ++p.x; }));
  CHECK_FALSE(f.fits([](auto& p) { ++p.db_stride; }));
  CHECK(f.fits(99 << 10));
  CHECK_FALSE(f.fits(64 << 10));
  CHECK(backward_chunked<widest, __half>::possible);
  CHECK(backward_chunked<padded, __nv_bfloat16>::possible);
  CHECK_FALSE(backward_chunked<heads_of<12>, __nv_bfloat16>::possible);
  CHECK_FALSE(backward_chunked<tiny, float>::possible);
  CHECK_FALSE(backward_chunked<one_group, __nv_bfloat16>::possible);
}
