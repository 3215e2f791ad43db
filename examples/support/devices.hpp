/// @file
/// Where a program computes: its flags, and the classifier that they ask for.
#pragma once

#include <dm2/cpu/context.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/model/model.hpp>

#include <CLI/CLI.hpp>

#include "classifier.hpp"
#include "command_line.hpp"
#include "gpu_classifier.hpp"
#include "host_classifier.hpp"
#include "models.hpp"

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dm2::example {

/// --device, --precision, --threads, --workers and --batch.
struct device_flags {
  std::string device = "auto", precision;
  int threads = 0;
  std::optional<int> workers, batch;
};

inline void add_device_options(CLI::App& app, device_flags& f) {
  app.add_option("-d,--device", f.device, "cuda, cpu, or auto: a GPU where there is one that works (auto)")
      ->type_name("NAME")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}).description(""));
  app.add_option("--precision", f.precision, "Numbers that a GPU computes in: bf16, fp16, fp32 or tf32 (bf16)")
      ->type_name("NAME")
      ->check(CLI::IsMember(std::vector<std::string>(precision_names.begin(), precision_names.end())).description(""));
  app.add_option("-t,--threads", f.threads, "Threads that compute on the CPU; 0 takes all processors (0)")
      ->type_name("N")
      ->check(number_from(0, 1024));
  app.add_option("-j,--workers", f.workers, "Threads that read pictures; 0: one a processor (2; 0 with a GPU)")
      ->type_name("N")
      ->check(number_from(0, 1024));
}

/// A device_flags without open questions.
struct chosen_device {
  bool gpu;
  std::string precision;  ///< of the GPU
  int threads, workers;

  /// "CPU, fp32", "GPU, bf16"
  [[nodiscard]] std::string text() const { return gpu ? "GPU, " + precision : "CPU, fp32"; }
};

/// Throws usage_error where the flags ask for a GPU, or for a precision that the CPU has not, and no GPU can be used.
[[nodiscard]] inline chosen_device choose_device(device_flags const& f) {
  std::string const problem = f.device == "cpu" ? "" : gpu_problem();
  bool const gpu = f.device != "cpu" && problem.empty();
  if (f.device == "cuda" && !gpu) throw usage_error{"--device cuda: " + problem};
  if (!gpu && !f.precision.empty() && f.precision != "fp32")
    throw usage_error{"--precision " + f.precision + ": the CPU computes in fp32" +
                      (problem.empty() ? "" : "; " + problem)};
  return {gpu, f.precision.empty() ? precision_names.front() : f.precision, f.threads, f.workers.value_or(gpu ? 0 : 2)};
}

/// The model called `name`, with the file's weights. Throws file_error where they do not fit it.
[[nodiscard]] inline std::unique_ptr<classifier> make_classifier(std::string_view name, tensor_file const& file,
                                                                 chosen_device const& device, int batch,
                                                                 bool patches = false) {
  if (device.gpu) return make_gpu_classifier(name, device.precision, file, batch, patches);
  std::unique_ptr<classifier> out;
  for_each_model([&]<config C>(char const* known) {
    using context = cpu::context<float>;
    if (!out && name == known)
      out = std::make_unique<host_classifier<model<C, context>>>(file, batch, patches, context{device.threads});
  });
  return out;
}

}  // namespace dm2::example
