/// @file
/// Times dm2's own forward of a weights file, batch 1, one thread, for scripts/onnx_times.
///
///     onnx_forward WEIGHTS INPUT RUNS
///
/// INPUT is a safetensors file with pixel_values [1, channels, height, width] and logits [1, classes], with which the
/// results are compared. Prints the processor time of each run in milliseconds, a line each.
#include <dm2/io/tensor_file.hpp>
#include <dm2/run/config_of_file.hpp>
#include <dm2/run/models.hpp>
#include <dm2/run/network_file.hpp>

#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <exception>
#include <stdexcept>
#include <vector>

namespace {

double milliseconds() {
  std::timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return double(now.tv_sec) * 1e3 + double(now.tv_nsec) * 1e-6;
}

void require_equal(std::vector<float> const& got, std::vector<float> const& want) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    difference += std::pow(double(got[i]) - double(want[i]), 2);
    norm += std::pow(double(want[i]), 2);
  }
  if (!(difference <= 1e-8 * norm)) throw std::runtime_error{"the logits are not those of INPUT"};
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 4) {
    std::fputs("usage: onnx_forward WEIGHTS INPUT RUNS\n", stderr);
    return EXIT_FAILURE;
  }
  dm2::tensor_file const weights{argv[1]}, input{argv[2]};
  dm2::config const c = dm2::config_of(weights).configuration;
  dm2::run::model_code const* const code = dm2::run::find_compiled_in(c, dm2::run::backend::cpu);
  if (code == nullptr) throw std::runtime_error{"this program has no code of " + dm2::name_of(c)};
  auto const net = code->make_network(1, 1);
  (void)dm2::run::load(*net, weights);
  auto const pixels = dm2::to_vector<float>(input.at("pixel_values")), want = dm2::to_vector<float>(input.at("logits"));
  std::vector<float> logits(std::size_t(c.classes));
  net->forward(pixels, logits);
  require_equal(logits, want);
  for (int i = 0; i < std::atoi(argv[3]); ++i) {
    double const before = milliseconds();
    net->forward(pixels, logits);
    std::printf("%.2f\n", milliseconds() - before);
  }
  return EXIT_SUCCESS;
} catch (std::exception const& error) {
  std::fprintf(stderr, "onnx_forward: %s\n", error.what());
  return EXIT_FAILURE;
}
