// Tiny at other picture sizes, patches, groups, widths and states, at equal tokens: where the speed falls off the
// curve.
//
//     dm2_cuda_cliff_bench [CSV]     a table to the standard output, and the same numbers to a file
#include "cuda/cliff/cases.hpp"
#include "cuda/device_report.cuh"

#include <cstddef>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace dm2::bench;

/// Pictures a second, and FLOP/s beside those of the first case.
struct rate {
  double pictures, share;
};

rate rate_of(cliff_times const& t, double us, double first_us, cliff_times const& first) {
  double const flops = t.flops * t.batch / us, of_first = first.flops * first.batch / first_us;
  return {t.batch / us * 1e6, 100 * flops / of_first};
}

void print_row(cliff_case const& c, cliff_times const& t, cliff_times const& first) {
  rate const i = rate_of(t, t.inference_us, first.inference_us, first);
  rate const b = rate_of(t, t.training_us, first.training_us, first);
  std::printf("| %s | %s | bf16 | %d | %d | %.0f | %.2f | %.0f %% | %.0f | %.2f | %.0f %% |\n", c.series, c.name,
              t.tokens, t.batch, i.pictures, i.pictures * t.tokens / 1e6, i.share, b.pictures,
              b.pictures * t.tokens / 1e6, b.share);
  auto const evaluation = [&](char const* numbers, double us, double first_us) {
    if (us == 0) return;
    rate const r = rate_of(t, us, first_us, first);
    std::printf("| %s | %s | %s | %d | %d | %.0f | %.2f | %.0f %% | - | - | - |\n", c.series, c.name, numbers, t.tokens,
                t.batch, r.pictures, r.pictures * t.tokens / 1e6, r.share);
  };
  evaluation("tf32", t.tf32_us, first.tf32_us);
  evaluation("fp32", t.fp32_us, first.fp32_us);
  std::fflush(stdout);
}

void write_row(std::ofstream& to, cliff_case const& c, cliff_times const& t, cliff_times const& first) {
  rate const i = rate_of(t, t.inference_us, first.inference_us, first);
  rate const b = rate_of(t, t.training_us, first.training_us, first);
  to << c.series << ",\"" << c.name << "\"," << t.tokens << ',' << t.batch << ',' << t.flops << ',' << t.inference_us
     << ',' << i.pictures << ',' << i.share << ',' << t.training_us << ',' << b.pictures << ',' << b.share << ','
     << t.tf32_us << ',' << t.fp32_us << std::endl;
}

template <std::size_t... I>
void run(std::ofstream& csv, std::index_sequence<I...>) {
  std::vector<cliff_times> all;
  auto const one = [&](cliff_case const& c, cliff_times (*measure)()) {
    all.push_back(measure());
    print_row(c, all.back(), all.front());
    if (csv.is_open()) write_row(csv, c, all.back(), all.front());
  };
  (one(cliff_cases[I], measure_cliff_case<int(I)>), ...);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    print_device();
    std::puts(
        "Medians of graph replays, batches of as many tokens as 256 pictures of 224 pixels. Training is forward, loss "
        "and "
        "backward.");
    std::puts("The share is of the FLOP/s of the first row with these numbers; the scan counts in chunks.\n");
    std::puts(
        "| changed | to | numbers | tokens | batch | inference /s | M tokens/s | share | "
        "training /s | M tokens/s | share |");
    std::puts("|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|");
    std::ofstream csv;
    if (argc > 1) {
      csv.open(argv[1]);
      csv << "changed,to,tokens,batch,flops,inference_us,inference_per_s,inference_share,training_us,training_per_s,"
             "training_share,tf32_us,fp32_us\n";
    }
    run(csv, std::make_index_sequence<std::size(cliff_cases)>{});
    if (argc > 1 && !csv.flush()) throw std::runtime_error{std::string{argv[1]} + ": cannot be written"};
  } catch (std::exception const& e) {
    std::fprintf(stderr, "error: %s\n", e.what());
    return 1;
  }
}
