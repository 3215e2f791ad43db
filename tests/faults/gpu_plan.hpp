/// @file
/// Which call of the CUDA runtime fails, and how, as the environment says.
///
///     DM2_GPU_FAULT         CALL:N:HOW: the N-th CALL fails
///     DM2_GPU_FAULT_COUNTS  at the end of the process a file of "CALL COUNT" lines is written here
///
/// CALL is memory, pinned, copy, launch, wait, event, stream, graph, device or product. HOW is
///
///     once   this call is refused, and the next ones work: memory has run out, or an argument is none
///     lost   this call and all after it report an illegal address, as when the device is gone; frees, too
///     late   it is accepted, and from then on the device does nothing. Calls go on to report success until one waits
///            for the device: that one and all after it report a kernel that failed
///
/// The emulated runtime asks it, and gpu_shim.cpp before the real one.
#pragma once

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace dm2::faults {

/// The kinds of calls that are counted.
enum gpu_call {
  gpu_memory,   ///< cudaMalloc
  gpu_pinned,   ///< cudaMallocHost
  gpu_copy,     ///< copies and fills
  gpu_launch,   ///< kernels
  gpu_wait,     ///< for a stream, an event, the device; whether an event has passed
  gpu_event,    ///< made, recorded, waited for by a stream, read
  gpu_stream,   ///< made
  gpu_graph,    ///< capture, instantiation, launch
  gpu_device,   ///< what the device is, and what a kernel may have of it
  gpu_product,  ///< cuBLASLt
  gpu_call_kinds
};
inline constexpr std::array<char const*, gpu_call_kinds> gpu_call_names{
    "memory", "pinned", "copy", "launch", "wait", "event", "stream", "graph", "device", "product"};

/// The runtime's statuses, by their numbers in driver_types.h.
enum gpu_status {
  gpu_success = 0,
  gpu_invalid_value = 1,
  gpu_out_of_memory = 2,
  gpu_illegal_address = 700,
  gpu_launch_out_of_resources = 701,
  gpu_launch_failure = 719
};

/// What becomes of a call: a status other than gpu_success, or success, of which `skipped` does nothing.
struct gpu_answer {
  gpu_status status = gpu_success;
  bool skipped = false;
};

/// The environment's plan, and what has been called so far. Any thread may ask.
class gpu_plan {
 public:
  /// That of the process, which outlives the destructors of the program.
  static gpu_plan& get() {
    static gpu_plan* const one = new gpu_plan;
    return *one;
  }

  /// Counts a call. `waits`: it reports what failed before it.
  gpu_answer ask(gpu_call kind, bool waits) {
    long const n = ++counted_[kind];
    bool const here = kind == kind_ && n == number_;
    if (here && how_ == "lost") lost_ = gpu_illegal_address;
    if (here && how_ == "late") late_ = true;
    if (int const status = lost_; status != gpu_success) return {gpu_status(status), false};
    if (here && how_ == "once") return {refusal(kind), false};
    if (!late_) return {};
    if (!waits) return {gpu_success, true};
    lost_ = gpu_launch_failure;
    return {gpu_launch_failure, false};
  }
  /// The status of a call that gives something back, which is not counted.
  [[nodiscard]] gpu_status given_back() const { return gpu_status(lost_.load()); }

 private:
  /// To the file that the environment names.
  void write_counts() const {
    std::FILE* const file = std::fopen(counts_.c_str(), "w");
    if (file == nullptr) std::abort();
    for (int k = 0; k < gpu_call_kinds; ++k)
      std::fprintf(file, "%s %ld\n", gpu_call_names[std::size_t(k)], counted_[std::size_t(k)].load());
    if (std::fclose(file) != 0) std::abort();
  }
  gpu_plan() {
    if (char const* const text = std::getenv("DM2_GPU_FAULT_COUNTS")) {
      counts_ = text;
      std::atexit([] { get().write_counts(); });
    }
    if (char const* const text = std::getenv("DM2_GPU_FAULT")) parse(text);
  }
  void parse(std::string const& text) {
    std::size_t const one = text.find(':'), two = text.find(':', one + 1);
    for (int k = 0; k < gpu_call_kinds; ++k)
      if (text.substr(0, one) == gpu_call_names[std::size_t(k)]) kind_ = k;
    if (two != text.npos) {
      number_ = std::atol(text.c_str() + one + 1);
      how_ = text.substr(two + 1);
    }
    if (kind_ >= 0 && number_ > 0 && (how_ == "once" || how_ == "lost" || how_ == "late")) return;
    std::fprintf(stderr, "DM2_GPU_FAULT=%s is not CALL:N:HOW\n", text.c_str());
    std::abort();
  }
  [[nodiscard]] static gpu_status refusal(gpu_call kind) {
    switch (kind) {
      case gpu_copy:
      case gpu_event:
      case gpu_device:
        return gpu_invalid_value;
      case gpu_launch:
        return gpu_launch_out_of_resources;
      default:
        return gpu_out_of_memory;
    }
  }

  std::string counts_, how_;
  int kind_ = -1;
  long number_ = 0;
  std::array<std::atomic<long>, gpu_call_kinds> counted_{};
  std::atomic<int> lost_{gpu_success};
  std::atomic<bool> late_{false};
};

}  // namespace dm2::faults
