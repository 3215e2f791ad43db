// An operation behind the run-time interface is the library's own, and what makes no sense is refused by name.
#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cpu/context.hpp>
#include <dm2/cpu/ssd.hpp>
#include <dm2/run/cpu_operators.hpp>
#include <dm2/run/operator_code.hpp>
#include <dm2/run/operators.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <span>
#include <stdexcept>
#include <vector>

namespace {

constexpr dm2::mixer_shape shape{4, 3, 5, 2, 1};
constexpr int length = 67;
constexpr std::size_t rows = 2 * length;

/// Numbers between -1 and 1 that repeat late.
std::vector<double> wave(std::size_t n, double step) {
  std::vector<double> out(n);
  for (std::size_t i = 0; i < n; ++i) out[i] = std::sin(step * double(i + 1));
  return out;
}

struct operands {
  std::vector<double> x = wave(rows * 12, 0.37), dt = wave(rows * 4, 0.11), a = wave(4, 0.9), b = wave(rows * 10, 0.23),
                      c = wave(rows * 10, 0.51), d = wave(4, 1.7);

  operands() {
    for (double& v : dt) v = std::abs(v);
    for (double& v : a) v = -std::abs(v) - 0.1;
  }
  [[nodiscard]] std::array<void const*, 6> addresses() const {
    return {x.data(), dt.data(), a.data(), b.data(), c.data(), d.data()};
  }
};

}  // namespace

TEST_CASE("run operators: a scan behind the interface has the bits of cpu::ssd") {
  operands const given;
  std::vector<double> got(rows * 12, std::nan("")), want(got);
  dm2::cpu::context<double> ctx{1};
  using per_head = dm2::block<double const, dm2::space::host, 4>;
  dm2::ssd_input<shape, double> const in{.x = {given.x.data(), rows},
                                         .dt = {given.dt.data(), rows},
                                         .a = per_head{given.a.data()},
                                         .b = {given.b.data(), rows},
                                         .c = {given.c.data(), rows},
                                         .d = per_head{given.d.data()},
                                         .length = length};
  dm2::cpu::ssd<shape, double>(ctx, in, {want.data(), rows});

  dm2::run::cpu_ssd<shape, double> code{1};
  auto const reads = given.addresses();
  std::array<void*, 1> const writes{got.data()};
  code.forward({reads, writes, rows, length, nullptr});
  CHECK(got == want);
}

TEST_CASE("run operators: another number of operands, or rows that are no whole sequences, are refused") {
  operands const given;
  std::vector<double> y(rows * 12);
  dm2::run::cpu_ssd<shape, double> code{1};
  auto const reads = given.addresses();
  std::array<void*, 1> const writes{y.data()};
  CHECK_THROWS_WITH_AS(code.forward({std::span{reads}.first(5), writes, rows, length, nullptr}),
                       "dm2::run::operator_code: got 5 and 1 operands, expected 6 and 1", std::invalid_argument);
  CHECK_THROWS_WITH_AS(code.backward({reads, writes, rows, length, nullptr}),
                       "dm2::run::operator_code: got 6 and 1 operands, expected 7 and 6", std::invalid_argument);
  CHECK_THROWS_AS(code.forward({reads, writes, rows - 1, length, nullptr}), dm2::shape_error);
}

TEST_CASE("run operators: a shape that no operation takes is refused before anything is compiled") {
  using dm2::run::make_operator;
  auto const ask = [](dm2::mixer_shape const& m) {
    (void)make_operator(dm2::run::operation::ssd, m, dm2::run::operation_numbers::cpu_float, 1);
  };
  CHECK_THROWS_WITH_AS(ask({4, 8, 16, 3, 4}), "mixer operation: groups must divide heads", std::invalid_argument);
  CHECK_THROWS_WITH_AS(ask({4, 129, 16, 1, 4}), "mixer operation: headdim must be 1..128", std::invalid_argument);
  CHECK_THROWS_WITH_AS(ask({0, 8, 16, 1, 4}), "mixer operation: heads must be 1..1024", std::invalid_argument);
}

TEST_CASE("run operators: the source of an operation names its shape, its numbers and its backend") {
  auto const unit =
      dm2::run::operator_unit(dm2::run::operation::mixer_core, {8, 48, 128, 1, 4, dm2::mixer_variant::bidirectional},
                              dm2::run::operation_numbers::cuda_bf16);
  CHECK(unit.name == "operator.cu");
  CHECK(unit.text.find("gpu_mixer_core<shape, dm2::cuda::precision::bf16>") != unit.text.npos);
  CHECK(unit.text.find("shape{8, 48, 128, 1, 4, dm2::mixer_variant::bidirectional}") != unit.text.npos);
}
