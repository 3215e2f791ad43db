#include <dm2/cuda/device/stream.cuh>
#include <dm2/cuda/project_add_norm_backward.cuh>

#include <doctest/doctest.h>

#include "cuda/project_add_norm/backward_case.cuh"
#include "cuda/support/precisions.cuh"

#include <cstddef>

using namespace dm2;
using namespace dm2::test;

namespace {

template <class F>
void check_tensor(std::size_t count) {
  static_assert(cuda::detail::project_add_norm::backward_tensor_form<typename F::T, F::D, F::K, F::N>::possible);
  check_backward<F>(count, cuda::project_add_norm_backward_form::tensor);
}

}  // namespace

TEST_CASE_TEMPLATE("project_add_norm_backward: one kernel does the same", P, in_bf16, in_fp16) {
  for (std::size_t const count : {1u, 17u, 63u, 64u, 65u, 128u, 197u}) {
    check_tensor<project_add_norm_backward_case<P::value, 64, 96, 136>>(count);
    check_tensor<project_add_norm_backward_case<P::value, 64, 64, 192>>(count);
  }
  check_tensor<project_add_norm_backward_case<P::value, 128, 192, 200>>(131);
  check_tensor<tiny_case<P::value>>(150);
  check_tensor<project_add_norm_backward_case<P::value, 192, 384, 1152>>(130);
}

TEST_CASE_TEMPLATE("project_add_norm_backward: a Hopper's kernel does the same", P, in_bf16, in_fp16) {
  auto const choice = cuda::project_add_norm_backward_form::hopper;
  for (std::size_t const count : {1u, 65u, 150u}) check_backward<tiny_case<P::value>>(count, choice);
  check_backward<project_add_norm_backward_case<P::value, 192, 288, 864>>(197, choice);
  check_backward<project_add_norm_backward_case<P::value, 384, 576, 136>>(130, choice);
}

TEST_CASE_TEMPLATE("project_add_norm_backward: one kernel does the same of many rows [long]", P, in_bf16, in_fp16) {
  for (std::size_t const count : {785u, 3137u, 20000u}) check_tensor<tiny_case<P::value>>(count);
}

TEST_CASE("project_add_norm_backward: one kernel's bits are the same in two runs") {
  using F = project_add_norm_backward_case<cuda::precision::bf16, 64, 96, 136>;
  F f{300}, g{300};
  for (F* each : {&f, &g}) {
    each->forward();
    each->backward(cuda::project_add_norm_backward_form::tensor);
  }
  CHECK(g.dresidual_out.read() == f.dresidual_out.read());
  CHECK(g.dg_out.read() == f.dg_out.read());
  CHECK(g.in.dw_out.read() == f.in.dw_out.read());
  CHECK(g.out.dw_out.read() == f.out.dw_out.read());
  CHECK(g.dnorm_out.read() == f.dnorm_out.read());
}

TEST_CASE("project_add_norm_backward: a graph's replay does what a run does") {
  using F = project_add_norm_backward_case<cuda::precision::bf16, 192, 96, 136>;
  for (auto const choice : {cuda::project_add_norm_backward_form::general, cuda::project_add_norm_backward_form::tensor,
                            cuda::project_add_norm_backward_form::hopper}) {
    cuda::stream const stream;
    F f{65}, g{65};
    f.forward();
    f.backward(choice);
    g.forward();
    g.ctx.plan([&] { g.backward(choice); });
    CHECK(g.dresidual_out.read() == g.dresidual);
    g.ctx.set_stream(stream.get());
    cuda::graph const recorded{stream, [&] { g.backward(choice); }};
    CHECK(g.dresidual_out.read() == g.dresidual);
    recorded.launch(stream.get());
    CHECK(g.dresidual_out.read() == f.dresidual_out.read());
    CHECK(g.dg_out.read() == f.dg_out.read());
    CHECK(g.in.dw_out.read() == f.in.dw_out.read());
    CHECK(g.out.db_out.read() == f.out.db_out.read());
    CHECK(g.dnorm_out.read() == f.dnorm_out.read());
  }
}
