/// @file
/// Eigen's matrix product: the ceiling that everything else is compared with, and the shapes that the models multiply.
#include "support/flops.hpp"
#include "support/operation.hpp"

#include <dm2/cpu/gemm.hpp>

namespace gemm_bench {

using namespace dm2;
using namespace dm2::bench;
using cpu::op;

/// a [M, K] times b [K, N], or times b [N, K] transposed.
template <class T, op B>
struct product {
  int m, n, k;
  buffer<T> a = normal<T>(std::size_t(m) * std::size_t(k), 1), b = normal<T>(std::size_t(k) * std::size_t(n), 2),
            c{std::size_t(m) * std::size_t(n)};

  product(int rows, int columns, int depth) : m{rows}, n{columns}, k{depth} {}

  void operator()(cpu::context<T>& ctx) {
    cpu::matrix<T const> const right =
        B == op::plain ? cpu::matrix<T const>{b.data(), k, n} : cpu::matrix<T const>{b.data(), n, k};
    cpu::parallel_gemm<op::plain, B, false, T>(ctx, {a.data(), m, k}, right, {c.data(), m, n});
  }
  [[nodiscard]] std::vector<std::span<T const>> results() const { return {c.span()}; }
  /// Three loops in double.
  [[nodiscard]] std::vector<std::vector<double>> oracle() const {
    std::vector<double> out(c.size());
    for (int i = 0; i < m; ++i)
      for (int l = 0; l < k; ++l)
        for (int j = 0; j < n; ++j)
          out[std::size_t(i * n + j)] +=
              double(a.data()[i * k + l]) * double(b.data()[B == op::plain ? l * n + j : j * k + l]);
    return {out};
  }
};
template <class T>
using plain_product = product<T, op::plain>;
template <class T>
using transposed_product = product<T, op::transposed>;

template <template <class> class Product>
void multiply(benchmark::State& state) {
  int const m = int(state.range(0)), n = int(state.range(1)), k = int(state.range(2)), threads = int(state.range(3));
  std::string const key = std::to_string(m) + "/" + std::to_string(n) + "/" + std::to_string(k);
  time_operation<Product>(state, key, threads, {product_flops(m, n, k), 0}, 1e-5, m, n, k);
}

void shapes(benchmark::internal::Benchmark* b) {
  constexpr int one = 197, eight = 8 * 197;
  b->ArgNames({"M", "N", "K", "threads"})->UseRealTime();
  for (int threads : {1, 2}) {
    for (int rows : {one, eight}) {
      b->Args({rows, 1032, 192, threads})->Args({rows, 192, 768, threads});   // Tiny's mixer, in and out
      b->Args({rows, 864, 192, threads})->Args({rows, 192, 288, threads});    // its attention
      b->Args({rows, 1800, 384, threads})->Args({rows, 384, 1536, threads});  // Small's mixer
    }
    b->Args({196, 192, 4096, threads})->Args({196, 1000, 192, threads});  // Tiny's patch projection and heads
  }
}

BENCHMARK(multiply<plain_product>)
    ->Name("gemm/ceiling")
    ->ArgNames({"M", "N", "K", "threads"})
    ->Args({1024, 1024, 1024, 1})
    ->Args({1024, 1024, 1024, 2})
    ->UseRealTime();
BENCHMARK(multiply<transposed_product>)->Name("gemm/model")->Apply(shapes);

}  // namespace gemm_bench
