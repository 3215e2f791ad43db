/// @file
/// The operations as loops over their formulas, in double, one sequence at a time: what the backend is compared with.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace dm2::test::naive {

using numbers = std::vector<double>;

inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
inline double silu(double x) { return x * sigmoid(x); }
inline double softplus(double x) { return x > 20 ? x : std::log(1 + std::exp(x)); }

/// Columns [first, first + n) of x [rows, width].
inline numbers columns(numbers const& x, int width, int first, int n) {
  numbers out;
  for (std::size_t r = 0; r < x.size() / std::size_t(width); ++r)
    for (int c = 0; c < n; ++c) out.push_back(x[r * std::size_t(width) + std::size_t(first + c)]);
  return out;
}

/// x [rows, width] with its rows, or the channels of each row, in reverse.
inline numbers flip_rows(numbers const& x, int width) {
  numbers out;
  for (std::size_t r = x.size() / std::size_t(width); r-- > 0;)
    for (int c = 0; c < width; ++c) out.push_back(x[r * std::size_t(width) + std::size_t(c)]);
  return out;
}
inline numbers flip_columns(numbers x, int width) {
  for (auto at = x.begin(); at != x.end(); at += width) std::reverse(at, at + width);
  return x;
}

/// x [R, K], w [N, K], bias [N] or empty; y [R, N].
inline numbers linear(numbers const& x, numbers const& w, numbers const& bias, int K, int N) {
  std::size_t const k = std::size_t(K), n = std::size_t(N), rows = x.size() / k;
  numbers y(rows * n);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t j = 0; j < n; ++j) {
      double sum = bias.empty() ? 0 : bias[j];
      for (std::size_t i = 0; i < k; ++i) sum += x[r * k + i] * w[j * k + i];
      y[r * n + j] = sum;
    }
  return y;
}

/// The mean square is taken inside each of `groups` equal groups of a row of w's size.
inline numbers rms_norm(numbers const& x, numbers const& w, double eps, int groups = 1) {
  numbers y(x.size());
  std::size_t const width = w.size() / std::size_t(groups);
  for (std::size_t at = 0; at < x.size(); at += width) {
    double square = 0;
    for (std::size_t c = 0; c < width; ++c) square += x[at + c] * x[at + c];
    double const scale = 1 / std::sqrt(square / double(width) + eps);
    for (std::size_t c = 0; c < width; ++c) y[at + c] = x[at + c] * scale * w[(at + c) % w.size()];
  }
  return y;
}

inline numbers gated_rms_norm(numbers const& y, numbers const& z, numbers const& w, double eps, int groups) {
  numbers v(y.size());
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = y[i] * silu(z[i]);
  return rms_norm(v, w, eps, groups);
}

/// x [L, C], w [C, K], bias [C].
inline numbers causal_conv1d(numbers const& x, numbers const& w, numbers const& bias) {
  int const C = int(bias.size()), K = int(w.size()) / C, L = int(x.size()) / C;
  numbers y(x.size());
  for (int t = 0; t < L; ++t)
    for (int c = 0; c < C; ++c) {
      double sum = bias[std::size_t(c)];
      for (int k = 0; k < K; ++k)
        if (t - (K - 1) + k >= 0) sum += w[std::size_t(c * K + k)] * x[std::size_t((t - (K - 1) + k) * C + c)];
      y[std::size_t(t * C + c)] = sum;
    }
  return y;
}

/// x [L, heads, d].
inline numbers rotary(numbers x, int heads, int d, int rot) {
  int const L = int(x.size()) / (heads * d);
  for (int t = 0; t < L; ++t)
    for (int h = 0; h < heads; ++h)
      for (int i = 0; i < rot / 2; ++i) {
        double const angle = t * std::pow(10000.0, -2.0 * i / rot);
        double& a = x[std::size_t((t * heads + h) * d + i)];
        double& b = x[std::size_t((t * heads + h) * d + rot / 2 + i)];
        double const turned = a * std::cos(angle) - b * std::sin(angle);
        b = b * std::cos(angle) + a * std::sin(angle);
        a = turned;
      }
  return x;
}

/// The recurrence. x [L, H, P], dt [L, H], A [H], B and C [L, G, N], D [H].
inline numbers ssd(numbers const& x, numbers const& dt, numbers const& A, numbers const& B, numbers const& C,
                   numbers const& D, int groups, int N) {
  int const H = int(A.size()), L = int(dt.size()) / H, P = int(x.size()) / (L * H);
  numbers y(x.size());
  for (int h = 0; h < H; ++h) {
    int const g = h / (H / groups);
    numbers state(std::size_t(P * N));
    for (int t = 0; t < L; ++t) {
      double const step = dt[std::size_t(t * H + h)], decay = std::exp(step * A[std::size_t(h)]);
      for (int p = 0; p < P; ++p) {
        double const in = x[std::size_t((t * H + h) * P + p)];
        double sum = D[std::size_t(h)] * in;
        for (int n = 0; n < N; ++n) {
          std::size_t const bc = std::size_t((t * groups + g) * N + n);
          double& s = state[std::size_t(p * N + n)];
          s = decay * s + step * B[bc] * in;
          sum += C[bc] * s;
        }
        y[std::size_t((t * H + h) * P + p)] = sum;
      }
    }
  }
  return y;
}

/// softmax(q k^T / sqrt(d)) v for each head; q, k, v [L, heads, d].
inline numbers softmax_attention(numbers const& q, numbers const& k, numbers const& v, int heads, int d) {
  int const L = int(q.size()) / (heads * d);
  auto const at = [&](int t, int h, int c) { return std::size_t((t * heads + h) * d + c); };
  numbers y(q.size());
  for (int h = 0; h < heads; ++h)
    for (int i = 0; i < L; ++i) {
      numbers weight(static_cast<std::size_t>(L));
      double sum = 0;
      for (int j = 0; j < L; ++j) {
        double score = 0;
        for (int c = 0; c < d; ++c) score += q[at(i, h, c)] * k[at(j, h, c)];
        sum += weight[std::size_t(j)] = std::exp(score / std::sqrt(double(d)));
      }
      for (int j = 0; j < L; ++j)
        for (int c = 0; c < d; ++c) y[at(i, h, c)] += weight[std::size_t(j)] / sum * v[at(j, h, c)];
    }
  return y;
}

}  // namespace dm2::test::naive
