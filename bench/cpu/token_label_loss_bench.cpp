/// @file
/// The token-labeling loss and its gradient, at Tiny's 196 patches and 1000 classes: bound by memory and exp.
#include "support/operation.hpp"

#include <dm2/cpu/token_label_loss.hpp>

#include <cmath>

namespace token_label_loss_bench {

using namespace dm2;
using namespace dm2::bench;

constexpr int classes = 1000, tokens = 196;
constexpr mix_box box{2, 9, 3, 12};

template <class T>
struct loss_case {
  std::size_t batch;
  buffer<T> cls = normal<T>(batch * classes, 1), aux = normal<T>(batch * tokens * classes, 2),
            target = uniform<T>(batch * (2 + tokens) * classes, 3, 0, 0.002f), dcls{batch * classes},
            daux{batch * tokens * classes}, loss{1};

  explicit loss_case(std::size_t b) : batch{b} {}

  void operator()(cpu::context<T>& ctx) {
    using read = rows<T const, classes>;
    using write = rows<T, classes>;
    loss.data()[0] = T(cpu::token_label_loss(ctx, read{cls.data(), batch}, read{aux.data(), batch * tokens},
                                             read{target.data(), batch * (2 + tokens)}, box, write{dcls.data(), batch},
                                             write{daux.data(), batch * tokens}));
  }
  [[nodiscard]] std::vector<std::span<T const>> results() const { return {dcls.span(), daux.span(), loss.span()}; }

  /// The definition, row by row in double.
  [[nodiscard]] std::vector<std::vector<double>> oracle() const {
    std::vector<double> dc(dcls.size()), da(daux.size());
    double total = 0;
    auto const row = [&](T const* l, T const* t, T const* partner, double a, double weight, double* dl) {
      double sum = 0, mass = 0;
      for (std::size_t c = 0; c < classes; ++c) sum += std::exp(double(l[c]));
      for (std::size_t c = 0; c < classes; ++c) {
        double const want = a * double(t[c]) + (1 - a) * double(partner[c]);
        mass += want;
        total -= weight * want * (double(l[c]) - std::log(sum));
        dl[c] = -weight * want;
      }
      for (std::size_t c = 0; c < classes; ++c) dl[c] += weight * mass * std::exp(double(l[c])) / sum;
    };
    double const a = 1 - double(box.area()) / tokens, n = double(batch);
    for (std::size_t b = 0; b < batch; ++b) {
      T const* const t = target.data() + b * (2 + tokens) * classes;
      row(cls.data() + b * classes, t + classes, target.data() + ((batch - 1 - b) * (2 + tokens) + 1) * classes, a,
          1 / n, dc.data() + b * classes);
      for (std::size_t k = 0; k < tokens; ++k)
        row(aux.data() + (b * tokens + k) * classes, t + (2 + k) * classes, t, 1, 1 / (n * tokens),
            da.data() + (b * tokens + k) * classes);
    }
    return {dc, da, {total}};
  }
};

/// Logits, targets and gradients pass once.
void run(benchmark::State& state) {
  std::size_t const batch = std::size_t(state.range(0));
  double const bytes = 3.0 * double(batch) * (1 + tokens) * classes * sizeof(float);
  time_operation<loss_case>(state, std::to_string(batch), int(state.range(1)), {0, bytes}, 1e-5, batch);
}

BENCHMARK(run)->Name("token_label_loss")->ArgNames({"batch", "threads"})->ArgsProduct({{8}, {1, 2}})->UseRealTime();

}  // namespace token_label_loss_bench
