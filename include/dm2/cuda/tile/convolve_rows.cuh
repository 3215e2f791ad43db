/// @file
/// A causal convolution with SiLU of rows in shared memory, in place.
///
/// Rows are tokens. A thread goes down a run of them, with some neighbouring channels, and needs the last tokens of the
/// run before: it reads them first, and all threads wait for each other before the first writes.
#pragma once

#include <dm2/cuda/instructions/mma.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <cstddef>

namespace dm2::cuda::detail {

/// One thread's part, of rows of `Width` 16-bit numbers, 2 Width + 16 bytes apart. Sums are float's, in the order of
/// taps. Taps and bias are kept halved, so that a sum is the argument of SiLU's tanh: h tanh(h) + h.
///
/// V: channels of a thread. More of them are fewer accesses, fewer are longer runs where there are many threads.
template <class T, int Width, int Taps, int V = 4>
class row_convolution {
 public:
  static constexpr int pieces = Width / V, pitch = 2 * Width + 16;
  using numbers = vector_numbers<T, V>;
  static_assert(is_half<T> && Width % V == 0, "dm2::cuda::detail::row_convolution: whole pieces of 16-bit numbers");

  /// Thread `own` of `count`, at least `pieces`, which do `rows` rows together, of which the first `inside` are there.
  __device__ row_convolution(int own, int count, int rows, int inside) : channel_{own % pieces * V} {
    int const runs = count / pieces, each = (rows + runs - 1) / runs, run = own / pieces;
    first_ = run < runs ? run * each : rows;
    last_ = min(first_ + each, inside);
  }

  /// Reads the thread's parameters: taps [channels, Taps] and bias [channels] of the rows' first channel, `step` is 1
  /// or, where the parameters are in reverse, -1.
  __device__ void load(float const* taps, float const* bias, int step) {
    taps += channel_ * step * Taps, bias += channel_ * step;
#pragma unroll
    for (int v = 0; v < V; ++v) {
#pragma unroll
      for (int k = 0; k < Taps; ++k) taps_[k][v] = 0.5f * taps[v * step * Taps + k];
      bias_[v] = 0.5f * bias[v * step];
    }
  }

  /// The same from shared memory, halved: the channels' first taps, `stride` numbers behind them the second ones, and
  /// so on, and behind the last taps the bias. One at a time: with loads of four, two more accumulators of the scan's
  /// backward were kept outside of registers, and its loop over units had 2,060 instructions for 2,015.
  __device__ void load_halved(float const* rows, int stride) {
    rows += channel_;
#pragma unroll
    for (int k = 0; k <= Taps; ++k) {
      float(&to)[V] = k < Taps ? taps_[k % Taps] : bias_;
#pragma unroll
      for (int v = 0; v < V; ++v) to[v] = rows[k * stride + v];
    }
  }

  /// rows = silu(convolution(rows)), with zeros before row 0. wait() is between the first reads and the first writes,
  /// and every thread of the team calls it once. keep(row, channel, numbers) gets what is written.
  template <class Wait, class Keep>
  __device__ void run(unsigned char* rows, Wait const& wait, Keep const& keep) {
    unsigned char* const own = rows + channel_ * int(sizeof(T));
    float raw[Taps][V];  // token first + u of a step is at u
#pragma unroll
    for (int back = 1; back < Taps; ++back) {
      int const row = first_ - back;
      numbers::load_if(row >= 0 && first_ < last_, at(own, row)).get(raw[Taps - back]);
    }
    wait();
    int row = first_;
#pragma unroll 1
    for (; row + Taps <= last_; row += Taps) step<true>(own, row, raw, keep);
    if (row < last_) step<false>(own, row, raw, keep);
  }

 private:
  [[nodiscard]] static __device__ T* at(unsigned char* own, int row) { return reinterpret_cast<T*>(own + row * pitch); }
  /// Taps rows from `row` on. Whole: all of them are the thread's.
  template <bool Whole, class Keep>
  __device__ void step(unsigned char* own, int row, float (&raw)[Taps][V], Keep const& keep) const {
    numbers in[Taps];
#pragma unroll
    for (int u = 0; u < Taps; ++u) in[u] = numbers::load_if(Whole || row + u < last_, at(own, row + u));
#pragma unroll
    for (int u = 0; u < Taps; ++u) {
      if (!Whole && row + u >= last_) break;
      in[u].get(raw[u]);
      float sum[V];
      convolve(raw, u, sum);
      numbers::store(at(own, row + u), sum);
      keep(row + u, channel_, sum);
    }
  }
  /// The result of the token at `newest`, of which those before it are before it in the ring.
  __device__ void convolve(float const (&raw)[Taps][V], int newest, float (&sum)[V]) const {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      float h = bias_[v];
#pragma unroll
      for (int k = 0; k < Taps; ++k) h = fmaf(taps_[k][v], raw[(newest + 1 + k) % Taps][v], h);
      sum[v] = fmaf(h, tanh_fast(h), h);
    }
  }

  float taps_[Taps][V], bias_[V];  // halved
  int channel_, first_, last_;
};

}  // namespace dm2::cuda::detail
