/// @file
/// Where a program computes: its flags, and the classifier that they ask for.
#pragma once

#include <dm2/data/worker_threads.hpp>
#include <dm2/io/tensor_file.hpp>
#include <dm2/run/backend.hpp>
#include <dm2/run/classifier.hpp>
#include <dm2/run/model_code.hpp>
#include <dm2/run/network.hpp>

#include <CLI/CLI.hpp>

#include "command_line.hpp"
#include "device_pictures.hpp"
#include "gpu.hpp"

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace dm2::example {

/// What finishes the pictures: operations, resizing, normalising. The bytes are the same.
enum class augment_place { any, host, device };

/// The names of augment_place, for --augment.
[[nodiscard]] inline std::map<std::string, augment_place> augment_places() {
  return {{"auto", augment_place::any}, {"host", augment_place::host}, {"device", augment_place::device}};
}

/// Whether the device finishes them. Throws usage_error where it is asked to, and cannot.
[[nodiscard]] inline bool augments_on_device(augment_place asked, bool can) {
  if (asked == augment_place::device && !can)
    throw usage_error{"--augment device needs a GPU (--device cuda), which finishes the pictures"};
  return can && asked != augment_place::host;
}

/// A program's pictures, and what reads them.
struct picture_load {
  bool packed = false;         ///< they are in packed sets
  bool training = false;       ///< the network trains on them
  int batch = 1, workers = 0;  ///< pictures at a time; threads that read (0: one a processor)
};

/// Whether the device decodes JPEGs sooner than the host's threads, each of which does 500 to 620 a second. An H200
/// that infers takes 23,000 of a packed set; one that trains loses 2 % to it, so that 16 threads, which decode as many
/// as it trains on, are the better ones. A file without restarts is one thread's work there: a batch takes as long as
/// its largest, 7,200 pictures a second in batches of 256, 12,500 of 1,024 (bench/results/h200/decode.md).
[[nodiscard]] inline bool device_decodes_sooner(picture_load const& load) {
  int const threads = worker_count(load.workers);
  if (!load.packed) return load.batch / 32 >= threads;
  return !load.training || threads < 16;
}

/// The flags' choice for a load. Throws usage_error where the device is asked to do what it cannot.
[[nodiscard]] inline device_pictures choose_pictures(augment_place augment, augment_place decode, bool can,
                                                     picture_load const& load) {
  bool const finishes = augments_on_device(augment, can);
  if (decode == augment_place::device && !finishes)
    throw usage_error{
        "--decode device needs a GPU (--device cuda) that finishes the pictures, too (not --augment host)"};
  bool const open = decode == augment_place::any;
  return {finishes, finishes && (open ? device_decodes_sooner(load) : decode == augment_place::device)};
}

/// --device, --precision, --threads, --workers and --batch.
struct device_flags {
  std::string device = "auto", precision;
  int threads = 0;
  std::optional<int> workers, batch;
  augment_place augment = augment_place::any, decode = augment_place::any;
};

inline void add_device_options(CLI::App& app, device_flags& f) {
  app.add_option("-d,--device", f.device, "cuda, cpu, or auto: a GPU where there is one that works (auto)")
      ->type_name("NAME")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}).description(""));
  app.add_option("--precision", f.precision, "Numbers that a GPU computes in: bf16, fp16, fp32 or tf32 (bf16)")
      ->type_name("NAME")
      ->check(CLI::IsMember(std::vector<std::string>(precision_names.begin(), precision_names.end())).description(""));
  app.add_option_function<std::string>(
         "--augment", [&f](std::string const& name) { f.augment = augment_places().at(name); },
         "What finishes pictures once they are decoded: host, device, or auto: a GPU that computes (auto). The "
         "results\n"
         "are the same")
      ->type_name("NAME")
      ->check(CLI::IsMember({"auto", "host", "device"}).description(""));
  app.add_option_function<std::string>(
         "--decode", [&f](std::string const& name) { f.decode = augment_places().at(name); },
         "What decodes JPEGs: host, device (a GPU, baseline files; fastest those with restarts, as packed sets have "
         "them),\n"
         "or auto: what is sooner (auto). The results are the same")
      ->type_name("NAME")
      ->check(CLI::IsMember({"auto", "host", "device"}).description(""));
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
  augment_place augment, decode;  ///< what the flags ask for

  /// What the GPU does to pictures.
  [[nodiscard]] device_pictures pictures(bool packed, int batch) const {
    return choose_pictures(augment, decode, gpu, {.packed = packed, .batch = batch, .workers = workers});
  }

  /// Where a model's code computes.
  [[nodiscard]] run::backend backend() const {
    return gpu ? *run::find_backend("cuda-" + precision) : run::backend::cpu;
  }
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
  static_cast<void>(choose_pictures(f.augment, f.decode, gpu, {}));
  return {gpu,       f.precision.empty() ? precision_names.front() : f.precision,
          f.threads, f.workers.value_or(gpu ? 0 : 2),
          f.augment, f.decode};
}

/// The code of a configuration for the device: compiled in, from the cache, or compiled now, which is said on stderr.
/// Throws what run::find_code throws.
[[nodiscard]] run::model_code const& find_model_code(std::string const& program, config const& c,
                                                     chosen_device const& device);

/// A network with a file's weights, and what takes its pictures.
struct loaded_classifier {
  std::unique_ptr<run::network> net;
  std::unique_ptr<run::classifier> pictures;  ///< of it
};

/// The network that the code makes, with the file's weights. Throws file_error where they do not fit it.
[[nodiscard]] loaded_classifier load_classifier(run::model_code const& code, tensor_file const& file,
                                                chosen_device const& device, int batch, bool patches = false);

}  // namespace dm2::example
