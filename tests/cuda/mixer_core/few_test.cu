#include <dm2/cuda/mixer_core/few.cuh>
#include <dm2/cuda/mixer_core/few_input.cuh>
#include <dm2/cuda/project_add_norm/few.cuh>

#include <doctest/doctest.h>

#include "cuda/mixer_core/case.cuh"
#include "support/compare.hpp"
#include "support/random.hpp"

#include <cstddef>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

template <cuda::precision P, mixer_shape M>
struct few_mixer : device_mixer<P, M> {
  using T = cuda::element<P>;
  static constexpr mixer_shape shape() { return M; }
  static constexpr double tolerance() { return P == cuda::precision::bf16 ? 1.5e-2 : 2e-3; }
  device_array<T> convolved;
  device_array<float> squares;

  few_mixer(int sequences, int tokens)
      : device_mixer<P, M>{sequences, tokens},
        convolved{cuda::detail::mixer_core::few_numbers<M>(rows())},
        squares{rows() * 2 * cuda::detail::mixer_core::traits<T, M>::units} {}
  [[nodiscard]] std::size_t rows() const { return this->in.size() / M.projected(); }
  [[nodiscard]] cuda::detail::mixer_core::few_arguments<T> arguments() const {
    int const length = this->host.length;
    return cuda::detail::mixer_core::few_arguments_of<M, T>(this->in.data(), this->parameters(), convolved.data(),
                                                            this->g.data(), squares.data(), int(rows()) / length,
                                                            length);
  }
  void run() { cuda::detail::mixer_core::launch_few<M>(this->ctx, arguments(), true); }
  /// What mixer_core::launch_few leaves to its reader.
  void norm() {
    auto const p = this->parameters();
    cuda::detail::mixer_core::scale_by_squares<P, M>(this->ctx, this->g.data(), squares.data(), p.forward.norm.data,
                                                     p.backward.norm.data, int(rows()));
  }
};

constexpr auto bf16 = cuda::precision::bf16;
constexpr auto fp16 = cuda::precision::fp16;

/// Each block's decays, by its warps to many and by its first one to one: [blocks, 2, 16 most_tiles] both. A grid and
/// blocks as few_scan_kernel's.
template <class Tr>
__global__ void decays_kernel(__grid_constant__ cuda::detail::mixer_core::few_arguments<typename Tr::element> const p,
                              float* many, float* one) {
  using namespace cuda::detail::mixer_core;
  __shared__ float totals[few_scan_traits<Tr>::decay_warps];
  few_scan_place<Tr> const place{p};
  few_scan_layout<Tr> const lay{place.last_tile + 1};
  few_head const head{p, place};
  int const block = (int(blockIdx.z) * int(gridDim.y) + int(blockIdx.y)) * int(gridDim.x) + int(blockIdx.x);
  int const first = block * 2 * 16 * Tr::most_tiles;
  auto const* const dt = p.zxbcdt + place.first_row * Tr::projected + place.at.dt() + place.unit / Tr::per_head;
  few_token<Tr> token;
  bool const has = few_token<Tr>::has(lay);
  if (has) token.load(dt, place, p.length), token.sum_up(head, p.length, totals);
  __syncthreads();
  if (has) token.write(totals, lay.tokens, many + first);
  if (threadIdx.x < 32) head_decays<Tr>(dt, place.at, head.rate, head.bias, 0, p.length, lay.tokens, one + first);
}

}  // namespace

TEST_CASE_TEMPLATE("cuda mixer_core, few sequences: equals the CPU's in double at every length", F,
                   few_mixer<bf16, tiny_mixer>, few_mixer<fp16, tiny_mixer>, few_mixer<bf16, small_mixer>,
                   few_mixer<fp16, small_state>, few_mixer<bf16, four_heads>) {
  for (int const length : {1, 2, 15, 16, 17, 31, 33, 64, 113, 129, 197, 224}) {
    CAPTURE(length);
    F f{2, length};
    f.run();
    auto const bytes = f.g.read();
    f.run();
    CHECK(f.g.read() == bytes);
    f.norm();
    f.host.forward();
    double const error = relative_error(f.g.read(), f.host.g);
    MESSAGE("length ", length, ": ", error);
    CHECK(error < F::tolerance());
    CHECK((f.g.margins_untouched() && f.squares.margins_untouched() && f.convolved.margins_untouched()));
  }
}

TEST_CASE_TEMPLATE("cuda mixer_core, few sequences: convolved with the projection, or after it, gives the same bits", F,
                   few_mixer<bf16, tiny_mixer>, few_mixer<fp16, small_mixer>, few_mixer<bf16, four_heads>) {
  using T = typename F::T;
  constexpr mixer_shape M = F::shape();
  constexpr int D = 192, N = M.projected();
  for (int const length : {1, 2, 3, 12, 13, 14, 16, 29, 197}) {
    CAPTURE(length);
    F f{2, length};
    std::size_t const count = f.rows();
    random_source random{5};
    device_array<float> const residual{random.normal(count * D)}, norm{random.normal(D)};
    device_array<T> const in{random.normal(N * D, 0.1)};
    device_array<T> y{count * N}, convolved{f.convolved.size()};
    cuda::detail::project_add_norm::arguments<T> p{};
    p.before = residual.data(), p.norm = norm.data(), p.in = in.data(), p.y = f.in.data();
    p.count = int(count), p.eps = 1e-5f;
    cuda::detail::project_add_norm::launch_few_project<D, N, 1>(f.ctx, p);
    f.run();
    auto mixer = f.arguments();
    mixer.zxbcdt = p.y = y.data(), mixer.convolved = convolved.data();
    cuda::detail::mixer_core::launch_few_input<D, M>(f.ctx, p, mixer);
    CHECK(y.read() == f.in.read());
    CHECK(convolved.read() == f.convolved.read());
    CHECK((y.margins_untouched() && convolved.margins_untouched()));
    auto const bytes = f.g.read();
    cuda::detail::mixer_core::launch_few<M>(f.ctx, mixer, false);
    CHECK(f.g.read() == bytes);
  }
}

TEST_CASE_TEMPLATE("cuda mixer_core, few sequences: decays by many warps are those of one warp, to the last bit", F,
                   few_mixer<bf16, tiny_mixer>, few_mixer<fp16, tiny_mixer>, few_mixer<bf16, small_state>,
                   few_mixer<bf16, four_heads>) {
  using Tr = cuda::detail::mixer_core::traits<typename F::T, F::shape()>;
  using scan = cuda::detail::mixer_core::few_scan_traits<Tr>;
  for (int const length : {1, 31, 32, 33, 65, 130, 197, 224}) {
    CAPTURE(length);
    F f{2, length};
    int const groups = (length + scan::rows - 1) / scan::rows, blocks = Tr::units * groups * 4;
    std::size_t const count = std::size_t(blocks) * 2 * 16 * Tr::most_tiles;
    std::vector<float> const untouched(count, 7);
    device_array<float> many{untouched}, one{untouched};
    cuda::detail::launch("decays", decays_kernel<Tr>, {dim3(unsigned(Tr::units), unsigned(groups), 4), scan::threads},
                         f.ctx.stream(), f.arguments(), many.data(), one.data());
    auto const got = many.read();
    CHECK(got == one.read());
    for (int b = 0; b < blocks; ++b)  // each block has written, and its first token decays
      CHECK(got[std::size_t(b) * 2 * 16 * Tr::most_tiles] < 0);
    CHECK((many.margins_untouched() && one.margins_untouched()));
  }
}

TEST_CASE("cuda mixer_core, few sequences: for one or two of Tiny's on an H100, not for long ones or many") {
  cuda::device_properties device{cuda::current_device()};
  device.multiprocessors = 132, device.shared_per_sm = 233472;
  using T = __nv_bfloat16;
  CHECK(cuda::detail::mixer_core::few_fits<T, tiny_mixer>(device, 1, 197));
  CHECK(cuda::detail::mixer_core::few_fits<T, tiny_mixer>(device, 2, 197));
  CHECK_FALSE(cuda::detail::mixer_core::few_fits<T, tiny_mixer>(device, 3, 197));
  CHECK(cuda::detail::mixer_core::few_fits<T, tiny_mixer>(device, 4, 97));
  CHECK_FALSE(cuda::detail::mixer_core::few_fits<T, tiny_mixer>(device, 5, 1));
  CHECK(cuda::detail::mixer_core::few_fits<T, small_mixer>(device, 1, 197));
  CHECK_FALSE(cuda::detail::mixer_core::few_fits<T, tiny_mixer>(device, 1, 225));
  CHECK_FALSE(cuda::detail::mixer_core::few_fits<float, tiny_mixer>(device, 1, 197));
}
