/// @file
/// Memory and load time of inference: Tiny at batch 1, from a checkpoint file to logits, in a process that does nothing
/// else. The file and the logits to expect come from a child process, which computes them in double.
#include "support/random_model.hpp"
#include "support/relative_error.hpp"

#include <dm2/io/checkpoint.hpp>
#include <dm2/model/model.hpp>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace {

using namespace dm2;
using namespace dm2::bench;

constexpr double most_load_seconds = 0.2, most_megabytes = 150;

/// The most memory that this process has had at any time, in megabytes (10^6 bytes); pages of mapped files count.
double peak_megabytes() {
  rusage use{};
  getrusage(RUSAGE_SELF, &use);
  return double(use.ru_maxrss) * 1024 / 1e6;
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// Writes a random Tiny to `weights`, and its logits, computed in double, to `logits`.
void prepare(std::filesystem::path const& weights, std::filesystem::path const& logits) {
  model<tiny, cpu::context<double>> wide;
  fill_random<tiny>(wide.state().data());
  std::vector<double> out(wide.classes);
  wide.forward(normal<double>(wide.pixels, 2).span(), out);
  std::ofstream{logits, std::ios::binary}.write(reinterpret_cast<char const*>(out.data()),
                                                std::streamsize(out.size() * sizeof(double)));
  model<tiny> net;
  std::copy(wide.state().begin(), wide.state().end(), net.state().begin());
  save(net, weights);
}

/// Loads and runs once; prints what it took. Returns whether the logits are right and the limits kept.
bool measure(std::filesystem::path const& weights, std::filesystem::path const& logits) {
  double const before = peak_megabytes(), start = now();
  model<tiny> net{1, cpu::context<float>{1}};
  double const built = now();
  load(net, weights);
  double const loaded = now(), after_load = peak_megabytes();
  auto const pictures = normal<float>(net.pixels, 2);
  std::vector<float> out(net.classes);
  double const first = now();
  net.forward(pictures.span(), out);
  double const done = now(), peak = peak_megabytes();

  std::vector<double> want(net.classes);
  std::ifstream{logits, std::ios::binary}.read(reinterpret_cast<char*>(want.data()),
                                               std::streamsize(want.size() * sizeof(double)));
  double const error = relative_error(out, want);
  std::printf("construction       %8.1f ms\n", 1e3 * (built - start));
  std::printf("load               %8.1f ms   (at most %.0f; file of %.1f MB in the page cache)\n",
              1e3 * (loaded - built), 1e3 * most_load_seconds, double(std::filesystem::file_size(weights)) / 1e6);
  std::printf("first forward      %8.1f ms\n", 1e3 * (done - first));
  std::printf("peak memory        %8.1f MB   (at most %.0f; %.1f before the model, %.1f after loading)\n", peak,
              most_megabytes, before, after_load);
  std::printf("model.bytes()      %8.1f MB\n", double(net.bytes()) / 1e6);
  std::printf("logits' error      %8.1e      (at most 1e-4)\n", error);
  if (!(error <= 1e-4)) std::fprintf(stderr, "WRONG RESULT\n");
  return error <= 1e-4 && loaded - built < most_load_seconds && peak < most_megabytes;
}

}  // namespace

int main() {
  std::string const stem =
      (std::filesystem::temp_directory_path() / "dm2_inference_memory.").string() + std::to_string(getpid());
  std::filesystem::path const weights = stem + ".safetensors", logits = stem + ".logits";
  bool good = false;
  try {
    pid_t const child = fork();  // before this process has taken memory or started threads
    if (child == 0) {
      prepare(weights, logits);
      std::_Exit(EXIT_SUCCESS);
    }
    int status = 1;
    good = child > 0 && waitpid(child, &status, 0) == child && status == 0 && measure(weights, logits);
  } catch (std::exception const& e) {
    std::fprintf(stderr, "%s\n", e.what());
  }
  std::filesystem::remove(weights);
  std::filesystem::remove(logits);
  return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
