/// @file
/// A table with a row for each kernel or operation: its time beside what it moves and multiplies.
#pragma once

#include <dm2/cuda/check.cuh>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/memory.cuh>
#include <dm2/cuda/device/stream.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/model/config.hpp>
#include <dm2/model/parameter_table.hpp>

#include "cuda/device_report.cuh"
#include "cuda/timing.cuh"
#include "support/random_model.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace dm2::bench {

/// What an operation has to move, each operand and result once, and to multiply (support/flops.hpp); 0 where the other
/// one decides.
struct kernel_cost {
  double bytes = 0, flops = 0;
};

/// What the command line asks for.
struct kernel_options {
  std::string_view filter;  ///< a room's name, or a part of it; empty for all
  bool once = false;        ///< each once, without times: for a profiler
};

/// What a result has to be before it is timed.
enum class kernel_result {
  repeats,    ///< every number written, finite, and the same in two runs
  adds_up,    ///< the same from zeros: the operation adds to what is there
  is_finite,  ///< finite; an operand that the operation moves on makes two runs differ
};

/// Prints rows as they are measured.
class kernel_table {
 public:
  explicit kernel_table(kernel_options const& options) : options_{options} {
    if (!options_.once) limits_ = print_device();
  }

  [[nodiscard]] cuda::stream const& stream() const { return stream_; }
  /// Whether a room's rows are asked for; its operands need not exist otherwise.
  [[nodiscard]] bool wants(std::string_view room) const { return room.find(options_.filter) != std::string_view::npos; }
  /// Rows so far.
  [[nodiscard]] int rows() const { return rows_; }

  void begin(char const* network, int batch) const {
    if (options_.once) return;
    std::printf("\n%s, bf16, batch %d\n\n| room | kernels | us | MB | GFLOP | TB/s | TFLOP/s | roofline us |\n",
                network, batch);
    std::printf("|---|---|---:|---:|---:|---:|---:|---:|\n");
  }

  /// Checks a result of `work`, which enqueues in stream(), and times it.
  template <class T, class F>
  void row(char const* room, std::string const& part, kernel_cost cost, T* result, std::size_t count, F const& work,
           kernel_result kind = kernel_result::repeats) {
    if (!wants(room)) return;
    ++rows_;
    if (options_.once) {
      work();
      stream_.synchronize();
      return;
    }
    verify(std::string{room} + ", " + part, result, count, work, kind);
    print(room, part, cost, median_us(stream_, work));
  }

  /// A row whose time is known.
  void print(char const* room, std::string const& part, kernel_cost c, double us) const {
    std::printf("| %s | %s | %.1f | %.2f | %.3f | %.2f | %.1f | %.1f |\n", room, part.c_str(), us, c.bytes / 1e6,
                c.flops / 1e9, c.bytes / us / 1e6, c.flops / us / 1e6,
                std::max(c.bytes / limits_.copy, c.flops / limits_.product) * 1e6);
    std::fflush(stdout);
  }

 private:
  /// The first numbers of a result, a million of them at most.
  template <class T, class F>
  std::vector<T> run(T* result, std::size_t count, F const& work, kernel_result kind) const {
    if (kind != kernel_result::is_finite)  // 0xff bytes are a NaN in every floating type
      cuda::check(cudaMemsetAsync(result, kind == kernel_result::repeats ? 0xff : 0, count * sizeof(T), stream_.get()),
                  "clear a result");
    work();
    stream_.synchronize();
    std::vector<T> out(std::min(count, std::size_t{1} << 20));
    cuda::check(cudaMemcpy(out.data(), result, out.size() * sizeof(T), cudaMemcpyDeviceToHost), "read a result");
    return out;
  }
  template <class T, class F>
  void verify(std::string const& name, T* result, std::size_t count, F const& work, kernel_result kind) const {
    auto const first = run(result, count, work, kind);
    for (T const v : first)
      if (!std::isfinite(cuda::detail::to_float(v))) throw std::runtime_error{name + ": a result is not finite"};
    if (kind == kernel_result::is_finite) return;
    auto const second = run(result, count, work, kind);
    if (std::memcmp(first.data(), second.data(), first.size() * sizeof(T)) != 0)
      throw std::runtime_error{name + ": two runs differ"};
  }

  kernel_options options_;
  ceilings limits_{};
  cuda::stream stream_;
  int rows_ = 0;
};

/// A network's random parameters on the device, with the copies that products read, and room for their gradients.
template <config C, cuda::precision P = cuda::precision::bf16>
struct kernel_parameters {
  using T = cuda::element<P>;
  static constexpr std::size_t size = state_extent<C>;
  cuda::context<P> ctx;
  random_array<float> state{size}, gradients{size};
  random_array<T> copies{size};

  explicit kernel_parameters(cuda::stream const& s) : ctx{s.get()} {
    std::vector<float> host(size);
    fill_random<C>(host.data());
    cuda::check(cudaMemcpy(state.data(), host.data(), size * sizeof(float), cudaMemcpyHostToDevice), "state");
    ctx.set_copies(state.data(), copies.data());
    round(ctx, state.data(), size, copies.data());
    s.synchronize();
  }
  [[nodiscard]] network_view<C, float const, space::device> net() const {
    return network_view<C, float const, space::device>{state.data()};
  }
  [[nodiscard]] network_view<C, float, space::device> grad() const {
    return network_view<C, float, space::device>{gradients.data()};
  }
};

}  // namespace dm2::bench
