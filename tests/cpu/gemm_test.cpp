#include <dm2/cpu/gemm.hpp>

#include <doctest/doctest.h>

#include "support/compare.hpp"
#include "support/random.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

using namespace dm2;
using namespace dm2::test;
using cpu::matrix;
using cpu::op;

namespace {

/// A matrix with numbers between its rows that no product may read or write.
struct padded {
  std::ptrdiff_t rows, cols, stride;
  std::vector<double> data;

  padded(std::ptrdiff_t r, std::ptrdiff_t c, random_source& random)
      : rows{r}, cols{c}, stride{c + 3}, data{poisoned(std::size_t(r * stride))} {
    auto const x = random.normal(std::size_t(r * c));
    for (std::ptrdiff_t i = 0; i < r; ++i) std::copy_n(x.data() + i * c, c, data.data() + i * stride);
  }
  [[nodiscard]] double at(std::ptrdiff_t i, std::ptrdiff_t j) const { return data[std::size_t(i * stride + j)]; }
  matrix<double> view() { return {data.data(), rows, cols, stride}; }
  [[nodiscard]] std::vector<double> dense() const {
    std::vector<double> out;
    for (std::ptrdiff_t i = 0; i < rows; ++i)
      for (std::ptrdiff_t j = 0; j < cols; ++j) out.push_back(at(i, j));
    return out;
  }
  [[nodiscard]] bool padding_untouched() const {
    for (std::ptrdiff_t i = 0; i < rows; ++i)
      for (std::ptrdiff_t j = cols; j < stride; ++j)
        if (!std::isnan(data[std::size_t(i * stride + j)])) return false;
    return true;
  }
};

template <op A, op B, bool Accumulate>
void check_product(std::ptrdiff_t m, std::ptrdiff_t n, std::ptrdiff_t k, int threads) {
  random_source random{5};
  padded a = A == op::plain ? padded{m, k, random} : padded{k, m, random};
  padded b = B == op::plain ? padded{k, n, random} : padded{n, k, random};
  padded c{m, n, random};
  std::vector<double> want = c.dense();
  for (std::ptrdiff_t i = 0; i < m; ++i)
    for (std::ptrdiff_t j = 0; j < n; ++j) {
      double sum = Accumulate ? c.at(i, j) : 0;
      for (std::ptrdiff_t l = 0; l < k; ++l)
        sum += (A == op::plain ? a.at(i, l) : a.at(l, i)) * (B == op::plain ? b.at(l, j) : b.at(j, l));
      want[std::size_t(i * n + j)] = sum;
    }
  if (!Accumulate)
    for (std::ptrdiff_t i = 0; i < m; ++i)
      std::fill_n(c.data.data() + i * c.stride, n, std::numeric_limits<double>::quiet_NaN());
  cpu::context<double> ctx{threads};
  if (threads == 0)
    cpu::gemm<A, B, Accumulate, double>(a.view(), b.view(), c.view());
  else
    cpu::parallel_gemm<A, B, Accumulate, double>(ctx, a.view(), b.view(), c.view());
  CHECK(relative_error(c.dense(), want) < 1e-14);
  CHECK(c.padding_untouched());
}

template <op A, op B>
void check_products() {
  std::ptrdiff_t const shapes[][3] = {{1, 1, 1}, {1, 7, 5}, {17, 1, 3}, {31, 9, 8}, {33, 13, 65}, {65, 33, 17}};
  for (auto const& s : shapes)
    for (int const threads : {0, 1, 2, 3}) {
      CAPTURE(s[0]);
      CAPTURE(threads);
      check_product<A, B, false>(s[0], s[1], s[2], threads);
      check_product<A, B, true>(s[0], s[1], s[2], threads);
    }
}

}  // namespace

TEST_CASE("gemm: equals the triple loop with rows apart, alone and over threads, overwriting and adding") {
  SUBCASE("a b") { check_products<op::plain, op::plain>(); }
  SUBCASE("a b^T") { check_products<op::plain, op::transposed>(); }
  SUBCASE("a^T b") { check_products<op::transposed, op::plain>(); }
  SUBCASE("a^T b^T") { check_products<op::transposed, op::transposed>(); }
}

TEST_CASE("gemm: bands and columns of a matrix are its parts") {
  random_source random{6};
  padded a{5, 4, random};
  matrix<double> const part = a.view().band(1, 4).columns(2, 3);
  CHECK(part.rows == 3);
  CHECK(part.cols == 1);
  for (std::ptrdiff_t i = 0; i < 3; ++i) CHECK(part.data[i * part.stride] == a.at(i + 1, 2));
}
