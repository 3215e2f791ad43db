#include <dm2/cpu/project_add_norm.hpp>
#include <dm2/cuda/project_add_norm/backward_hopper.cuh>

#include <doctest/doctest.h>

#include "cuda/support/device_array.cuh"
#include "support/compare.hpp"
#include "support/random.hpp"
#include "support/views.hpp"

#include <cstddef>
#include <type_traits>
#include <utility>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

/// One project-add-norm's backward, on both sides; the kernel alone.
template <class Traits>
struct hopper_backward_case {
  using T = typename Traits::element;
  static constexpr int D = Traits::dim, K = Traits::inner, N = Traits::wide;
  static constexpr double tolerance = std::is_same_v<T, __half> ? 8e-4 : 6e-3;
  std::size_t count;
  random_source random{89};
  std::vector<double> dy, in, residual, rstd, norm, dresidual, out, dnorm, dg, normed;
  device_array<T> dy_, in_, out_, normed_, rounded_, dg_;
  device_array<float> residual_, rstd_, norm_, dresidual_, dnorm_;

  explicit hopper_backward_case(std::size_t rows)
      : count{rows},
        dy{rounded<T>(random.normal(count * N))},
        in{rounded<T>(random.normal(N * D, 0.05))},
        residual{rounded<float>(random.normal(count * D))},
        rstd{rounded<float>(random.uniform(count, 0.5, 2.0))},
        norm{rounded<float>(random.normal(D))},
        dresidual{rounded<float>(random.normal(count * D))},
        out{rounded<T>(random.normal(D * K, 0.1))},
        dnorm{rounded<float>(random.normal(D))},
        dg{poisoned(count * K)},
        normed{poisoned(count * D)},
        dy_{dy},
        in_{in},
        out_{out},
        normed_{count * D},
        rounded_{count * D},
        dg_{count * K},
        residual_{residual},
        rstd_{rstd},
        norm_{norm},
        dresidual_{dresidual},
        dnorm_{dnorm} {}

  void run_host() {
    for (std::size_t i = 0; i < normed.size(); ++i) normed[i] = residual[i] * rstd[i / D] * norm[i % D];
    cpu::context<double> ctx{2};
    std::vector<double> const g(count * K);
    std::vector<double> din(std::size_t{N} * D), dout(std::size_t{D} * K);
    linear_parameters<double const, D, K> const output{as_block<D, K>(std::as_const(out)), {}};
    linear_parameters<double, D, K> const output_gradient{as_block<D, K>(dout), {}};
    norm_projection<double const, N, D> const input{as_block<D>(std::as_const(norm)),
                                                    {as_block<N, D>(std::as_const(in)), {}}};
    norm_projection<double, N, D> const input_gradient{as_block<D>(dnorm), {as_block<N, D>(din), {}}};
    cpu::project_add_norm_project_backward(
        ctx, core_projection<double const, D, K>{as_rows<K>(g), output}, {as_rows<D>(residual), rstd.data()}, input,
        as_rows<N>(std::as_const(dy)), as_rows<D>(dresidual),
        core_projection<double, D, K>{as_rows<K>(dg), output_gradient}, input_gradient);
  }
  void run_device(int multiprocessors) {
    cuda::device_memory scratch{(count / 64 + 1) * D * sizeof(float) + arena::alignment};
    arena parts{reinterpret_cast<std::byte*>(scratch.data()), scratch.size()};
    cuda::device_properties device{cuda::current_device()};
    device.multiprocessors = multiprocessors;
    cuda::detail::project_add_norm::launch_backward_hopper<Traits>(
        nullptr, parts, device,
        {dy_.data(), in_.data(), residual_.data(), rstd_.data(), norm_.data(), dresidual_.data(), normed_.data(),
         rounded_.data(), out_.data(), dg_.data(), nullptr, int(count)},
        dnorm_.data());
    cuda::check(cudaDeviceSynchronize(), "project_add_norm::launch_backward_hopper");
  }
  void compare() const {
    double const error = relative_error(dresidual_.read(), dresidual), last = relative_error(dg_.read(), dg);
    MESSAGE("R ", count, " D ", D, " K ", K, " N ", N, " groups ", Traits::groups, ": dresidual ", error, ", dg ", last,
            ", dnorm ", relative_error(dnorm_.read(), dnorm));
    CHECK(error < 4e-6);  // nothing is rounded on the way there
    CHECK(relative_error(dnorm_.read(), dnorm) < 4e-6);
    CHECK(last < tolerance);
    CHECK(relative_error(normed_.read(), normed) < tolerance);
    CHECK(rounded_.read() == rounded<T>(dresidual_.read()));
    CHECK((dresidual_.margins_untouched() && dnorm_.margins_untouched() && dg_.margins_untouched()));
    CHECK((normed_.margins_untouched() && rounded_.margins_untouched() && dy_.margins_untouched()));
  }
};

using bf16 = __nv_bfloat16;
template <class T, int D, int K, int N, int Groups>
using traits = cuda::detail::project_add_norm::backward_hopper_traits<T, D, K, N, Groups>;

template <class Traits>
bool on_hopper() {
  bool const runs =
      cuda::detail::project_add_norm::backward_hopper_runs<Traits>(cuda::device_properties{cuda::current_device()});
  if (!runs) MESSAGE("no Hopper, or no code for one: skipped");
  return runs;
}

}  // namespace

TEST_CASE_TEMPLATE("cuda project_add_norm_backward, hopper: equals the CPU's in double at any number of rows", Tr,
                   traits<bf16, 192, 768, 1032, 2>, traits<bf16, 192, 768, 1032, 3>, traits<__half, 192, 768, 864, 2>,
                   traits<bf16, 192, 288, 1032, 2>, traits<__half, 192, 40, 72, 3>, traits<bf16, 384, 1536, 1800, 2>) {
  if (!on_hopper<Tr>()) return;
  for (std::size_t const count : {1u, 63u, 64u, 65u, 197u, 500u}) {
    hopper_backward_case<Tr> f{count};
    f.run_host();
    f.run_device(count == 500 ? 2 : 132);  // two blocks: one has a tile after its first
    f.compare();
  }
}

TEST_CASE("cuda project_add_norm_backward, hopper: two runs give the same bits") {
  using Tr = traits<bf16, 192, 768, 1032, 2>;
  if (!on_hopper<Tr>()) return;
  hopper_backward_case<Tr> f{500}, g{500};
  f.run_device(3);
  g.run_device(3);
  CHECK(g.dresidual_.read() == f.dresidual_.read());
  CHECK(g.dnorm_.read() == f.dnorm_.read());
  CHECK(g.dg_.read() == f.dg_.read());
}
