/// @file
/// The scan of Mamba-2 as ONNX operators: one masked product, or chunks with a carried state.
///
/// y_i = sum_{j <= i} (C_i . B_j) exp(c_i - c_j) dt_j x_j + D x_i, c = cumulative sum of dt A (docs/onnx.md). Channels
/// stand before tokens, so that nothing is transposed. Two things keep runtimes quick and exact:
///   - exponents are clamped to [-60, 0] before the exponential. Above 0 are only pairs that the mask leaves out, which
///     could overflow; below -60 the numbers would become denormal, which make a processor 10 times slower.
///   - the mask multiplies C B^T, which heads share, and no tensor of heads x L x L.
#pragma once

#include <dm2/io/onnx/graph.hpp>
#include <dm2/model/config.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace dm2::detail {

/// Sizes of a scan over one direction.
struct onnx_scan_shape {
  std::int64_t groups, heads, headdim, state, length;  ///< heads are those of a group
  bool reversed;                                       ///< from the last token to the first
  std::int64_t chunks;                                 ///< 1: no chunks
  /// Tokens of a chunk; the last one may be filled up.
  [[nodiscard]] std::int64_t chunk() const { return (length + chunks - 1) / chunks; }
};

/// What a scan takes, as values of the graph: x [B, G H P, L], B and C [B, G N, L] in the computation's precision,
/// dt [B, G H, L] in float32 and after softplus.
struct onnx_scan_input {
  std::string x, b, c, dt;
};

/// Into how many chunks a scan is cut so that it costs least: multiplications and additions, and for each number that
/// one operation after the other passes over as much as 30 of them (measured: onnxruntime on AVX-512).
[[nodiscard]] inline std::int64_t choose_chunks(onnx_scan_shape s) {
  double const width = double(s.groups * s.heads * s.headdim), passes = 30;
  auto const cost = [&](std::int64_t chunks) {
    s.chunks = chunks;
    double const tokens = double(s.chunk() * chunks), each = double(s.chunk());
    double const pairs =
        tokens * each * (2.0 * double(s.groups * s.state) + 2 * width + 4 * passes * double(s.groups * s.heads));
    if (chunks == 1) return pairs;
    double const states = tokens * 4 * width * double(s.state) + 8 * passes * tokens * width;
    double const carried = double(chunks * chunks) * 2 * width * double(s.state);
    return pairs + states + carried + 3 * passes * double(chunks) * width * double(s.state);
  };
  std::int64_t best = 1;
  for (std::int64_t chunks = 2; chunks * 16 <= s.length; ++chunks)
    if (cost(chunks) < cost(best)) best = chunks;
  return best;
}

/// Writes a scan into a graph; y [B, G H P, L], without D x.
class onnx_scan {
 public:
  onnx_scan(onnx_graph& g, onnx_scan_shape const& s) : g_{g}, s_{s} {}

  /// `a` [G H]: -exp(A_log).
  [[nodiscard]] std::string operator()(onnx_scan_input const& in, std::vector<double> const& a) const {
    return s_.chunks == 1 ? whole(in, a) : chunked(in, a);
  }

 private:
  /// exp of exponents of which only those up to 0 count.
  [[nodiscard]] std::string decay(std::string const& exponents) const {
    return g_.node("Exp", {g_.node("Clip", {exponents, g_.number(-60), g_.number(0)})});
  }
  /// [n, n] of 1 where column i may see row j, else 0; `self`: where it is the same token, too.
  [[nodiscard]] std::vector<double> mask(std::int64_t n, bool self) const {
    std::vector<double> out(std::size_t(n * n));
    for (std::int64_t j = 0; j < n; ++j)
      for (std::int64_t i = 0; i < n; ++i) {
        bool const seen = s_.reversed ? j > i : j < i;
        out[std::size_t(j * n + i)] = seen || (self && i == j) ? 1 : 0;
      }
    return out;
  }
  [[nodiscard]] std::string sum(std::string const& x, std::int64_t axis, bool inclusive = true) const {
    return g_.node("CumSum", {x, g_.integer(axis)},
                   {{"reverse", std::int64_t{s_.reversed}}, {"exclusive", std::int64_t{!inclusive}}});
  }
  /// C B^T of each pair of tokens, where j may be seen by i, rows j.
  [[nodiscard]] std::string scores(std::string const& b, std::string const& c, std::vector<std::int64_t> const& swap,
                                   std::int64_t n) const {
    std::string const all = g_.node("MatMul", {g_.transpose(b, swap), c});
    return g_.node("Mul", {all, g_.weights(mask(n, true), {n, n}, "mask")});
  }

  [[nodiscard]] std::string whole(onnx_scan_input const& in, std::vector<double> const& a) const {
    std::int64_t const G = s_.groups, H = s_.heads, P = s_.headdim, N = s_.state, L = s_.length;
    // without groups, a rank less
    auto const by_head = [&](std::int64_t first, std::int64_t second) {
      return G == 1 ? std::vector{std::int64_t{0}, H, first, second}
                    : std::vector{std::int64_t{0}, G, H, first, second};
    };
    std::string b = in.b, c = in.c, pairs;
    if (G == 1) {
      pairs = g_.reshape(scores(b, c, {0, 2, 1}, L), {0, 1, L, L});
    } else {
      pairs = scores(g_.reshape(b, {0, G, N, L}), g_.reshape(c, {0, G, N, L}), {0, 1, 3, 2}, L);
      pairs = g_.reshape(pairs, {0, G, 1, L, L});
    }
    std::string const sums = sum(g_.node("Mul", {in.dt, g_.numbers(a, {G * H, 1})}), 2);
    std::string const between = g_.node("Sub", {g_.reshape(sums, by_head(1, L)), g_.reshape(sums, by_head(L, 1))});
    std::string const seen = g_.node("Mul", {g_.half(decay(between)), pairs});
    std::string const x = g_.node("Mul", {g_.reshape(in.x, by_head(P, L)), g_.half(g_.reshape(in.dt, by_head(1, L)))});
    return g_.reshape(g_.node("MatMul", {x, seen}), {0, G * H * P, L});
  }

  /// Channels of whole tokens as [B, G, n, channels of a group, T].
  [[nodiscard]] std::string in_chunks(std::string const& x, std::int64_t channels) const {
    std::string const filled = fill(x);
    return g_.transpose(g_.reshape(filled, {0, s_.groups, channels, s_.chunks, s_.chunk()}), {0, 1, 3, 2, 4});
  }
  /// Zeros behind the last token, up to whole chunks: they have no weight, and leave the state as it is.
  [[nodiscard]] std::string fill(std::string const& x) const {
    std::int64_t const missing = s_.chunks * s_.chunk() - s_.length;
    return missing == 0 ? x : g_.node("Pad", {x, g_.integers({0, 0, 0, 0, 0, missing})});
  }

  [[nodiscard]] std::string chunked(onnx_scan_input const& in, std::vector<double> const& a) const {
    std::int64_t const G = s_.groups, H = s_.heads, P = s_.headdim, N = s_.state, n = s_.chunks, T = s_.chunk();
    std::string const x = in_chunks(in.x, H * P), b = in_chunks(in.b, N), c = in_chunks(in.c, N);
    std::string const dt = in_chunks(in.dt, H);
    std::string const sums = sum(g_.node("Mul", {dt, g_.numbers(a, {G, 1, H, 1})}), 4);
    std::string const across = g_.reshape(sums, {0, G, n, H, 1, T});
    std::string const between = g_.node("Sub", {across, g_.reshape(sums, {0, G, n, H, T, 1})});
    std::string const pairs = g_.reshape(scores(b, c, {0, 1, 2, 4, 3}, T), {0, G, n, 1, T, T});
    std::string const seen = g_.node("Mul", {g_.half(decay(between)), pairs});
    std::string const weighted =
        g_.node("Mul", {g_.reshape(x, {0, G, n, H, P, T}), g_.half(g_.reshape(dt, {0, G, n, H, 1, T}))});
    std::string const inside = g_.node("MatMul", {weighted, seen});
    std::string const last = s_.reversed ? g_.slice(sums, 0, 1, 4) : g_.slice(sums, T - 1, T, 4);  // [B, G, n, H, 1]
    std::string const to_end = g_.reshape(decay(g_.node("Sub", {last, sums})), {0, G, n, H, 1, T});
    std::string const kept = g_.reshape(g_.node("Mul", {weighted, g_.half(to_end)}), {0, G, n, H * P, T});
    std::string const states = carry(g_.node("MatMul", {kept, g_.transpose(b, {0, 1, 2, 4, 3})}), last);
    std::string const before = g_.reshape(g_.node("MatMul", {states, c}), {0, G, n, H, P, T});
    std::string const y = g_.node("Add", {inside, g_.node("Mul", {before, g_.half(decay(across))})});
    std::string const in_order = g_.transpose(g_.reshape(y, {0, G, n, H * P, T}), {0, 1, 3, 2, 4});
    std::string const all = g_.reshape(in_order, {0, G * H * P, n * T});
    return n * T == s_.length ? all : g_.slice(all, 0, s_.length, 2);
  }

  /// The states before each chunk from what each chunk adds, [B, G, n, H P, N], in float32 inside.
  [[nodiscard]] std::string carry(std::string const& added, std::string const& last) const {
    std::int64_t const G = s_.groups, H = s_.heads, P = s_.headdim, N = s_.state, n = s_.chunks;
    std::string const totals = g_.transpose(g_.reshape(last, {0, G, n, H}), {0, 1, 3, 2});
    std::string const before = g_.reshape(sum(totals, 3, false), {0, G, H, n, 1});
    std::string const after = g_.reshape(sum(totals, 3), {0, G, H, 1, n});
    // rows k, columns m: chunk k sees m
    std::vector<double> seen = mask(n, false), turned(seen.size());
    for (std::size_t k = 0; k < std::size_t(n); ++k)
      for (std::size_t m = 0; m < std::size_t(n); ++m) turned[k * std::size_t(n) + m] = seen[m * std::size_t(n) + k];
    std::string const between = g_.node("Mul", {decay(g_.node("Sub", {before, after})), g_.numbers(turned, {n, n})});
    std::string const own = g_.transpose(g_.reshape(g_.full(added), {0, G, n, H, P * N}), {0, 1, 3, 2, 4});
    std::string const carried = g_.transpose(g_.node("MatMul", {between, own}), {0, 1, 3, 2, 4});
    return g_.half(g_.reshape(carried, {0, G, n, H * P, N}));
  }

  onnx_graph& g_;
  onnx_scan_shape s_;
};

}  // namespace dm2::detail
