/// @file
/// Starts a run's processes, watches them, and starts them anew.
#pragma once

#include "command_line.hpp"
#include "commands.hpp"
#include "gpu.hpp"
#include "process_place.hpp"
#include "stop_signal.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

namespace dm2::example {

/// A program to start: its words, and the variables that it gets beside this one's.
struct command {
  std::vector<std::string> words;
  std::vector<std::pair<std::string, std::string>> variables{};
};

/// This program's command line, by its file's full name, without the flags that start processes.
[[nodiscard]] inline std::vector<std::string> command_to_repeat(int argc, char const* const* argv) {
  static constexpr std::array<std::string_view, 3> ours{"--processes", "--gpus", "--restarts"};
  std::error_code problem;
  auto const self = std::filesystem::read_symlink("/proc/self/exe", problem);
  std::vector<std::string> out{problem ? argv[0] : self.string()};
  if (as_word) out.emplace_back(argv[0]);
  for (int i = 1; i < argc; ++i) {
    std::string_view const word = argv[i], name = word.substr(0, word.find('='));
    if (std::find(ours.begin(), ours.end(), name) == ours.end())
      out.emplace_back(word);
    else if (name == word)
      ++i;  // its value is the next word
  }
  return out;
}

/// The name that a program calls itself by in messages.
[[nodiscard]] inline std::string program_name(std::vector<std::string> const& words) {
  return std::filesystem::path{words.at(0)}.filename().string();
}

/// "0-3", "0,2", "1": numbers of GPUs, each once. Throws usage_error.
[[nodiscard]] inline std::vector<int> gpu_list(std::string const& text) {
  auto const require = [&](bool right) {
    if (!right) throw usage_error{"--gpus " + text + ": expected numbers of GPUs, each once, as 0-3 or 0,2"};
  };
  std::vector<int> out;
  char const *at = text.data(), *const end = at + text.size();
  auto const number = [&] {
    int value = 0;
    auto const [next, problem] = std::from_chars(at, end, value);
    require(problem == std::errc{} && value >= 0 && value < 1024);
    at = next;
    return value;
  };
  auto const take = [&](char wanted) { return at != end && *at == wanted && ++at != nullptr; };
  do {
    int const first = number(), last = take('-') ? number() : first;
    require(first <= last);
    for (int g = first; g <= last; ++g) {
      require(std::find(out.begin(), out.end(), g) == out.end());
      out.push_back(g);
    }
  } while (take(','));
  require(at == end);
  return out;
}

/// Programs that run together. Stop signals are passed on as SIGUSR1, which mpirun passes on in turn.
class process_family {
 public:
  process_family() = default;
  process_family(process_family const&) = delete;
  process_family& operator=(process_family const&) = delete;
  /// Ends those that are left.
  ~process_family() { signal_all(SIGKILL), reap(true); }

  /// Throws usage_error where it cannot be started.
  void start(command const& c) {
    std::vector<char*> words;
    for (std::string const& word : c.words) words.push_back(const_cast<char*>(word.c_str()));
    words.push_back(nullptr);
    pid_t const child = ::fork();
    if (child == 0) {
      for (auto const& [name, value] : c.variables) ::setenv(name.c_str(), value.c_str(), 1);
      ::execvp(words[0], words.data());
      ::_exit(127);
    }
    if (child < 0) throw usage_error{"cannot start " + c.words[0] + ": " + std::strerror(errno)};
    program_ = program_name(c.words);
    running_.push_back(child);
    names_.push_back(started_++);
  }
  /// Waits for all of them. Where one ends, the others get `patience` seconds to end, too, or to find out that it
  /// failed; ten where it was the one that found something out. Returns the exit code of the first that failed, or 128
  /// and the signal that ended it; 0 where none did.
  int wait(double patience) {
    using clock = std::chrono::steady_clock;
    clock::time_point ended{};
    bool passed_on = false;
    while (!running_.empty()) {
      bool const well = code_ == 0, whole = running_.size() == std::size_t(started_);
      reap(false);
      bool const some = running_.size() < std::size_t(started_);
      if ((whole && some) || (well && code_ != 0)) ended = clock::now();
      double const allowed = code_ == exit_process ? std::min(10.0, patience) : patience;
      if (some && std::chrono::duration<double>(clock::now() - ended).count() > allowed) end_late_ones();
      if (stop_requested && !passed_on) signal_all(SIGUSR1), passed_on = true;
      std::this_thread::sleep_for(std::chrono::milliseconds{50});
    }
    return code_;
  }

 private:
  /// Ends those that are left; where the others have ended well, these are what fails.
  void end_late_ones() {
    if (code_ == 0 && !running_.empty()) {
      std::cerr << program_ + ": process " + std::to_string(names_.front()) + " did not end with the others\n";
      code_ = exit_process;
    }
    signal_all(SIGKILL);
  }
  void signal_all(int signal) const {
    for (pid_t const child : running_) ::kill(child, signal);
  }
  void reap(bool all) {
    for (std::size_t i = running_.size(); i-- > 0;) {
      int status = 0;
      pid_t const ended = ::waitpid(running_[i], &status, all ? 0 : WNOHANG);
      if (ended == 0 || (ended < 0 && errno == EINTR)) continue;
      int const code = ended < 0 ? exit_process : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      if (code > 128 && code_ == 0 && started_ > 1)
        std::cerr << program_ + ": process " + std::to_string(names_[i]) + " was ended by signal " +
                         std::to_string(code - 128) + '\n';
      if (code_ == 0) code_ = code;
      running_.erase(running_.begin() + std::ptrdiff_t(i));
      names_.erase(names_.begin() + std::ptrdiff_t(i));
    }
  }

  std::string program_;
  std::vector<pid_t> running_;
  std::vector<int> names_;  ///< of those: the how many-th they were
  int started_ = 0;
  int code_ = 0;
};

/// Runs `once`, and again with --resume auto where a process was lost, at most `restarts` times. once(words) returns an
/// exit code.
template <class Once>
int with_restarts(int restarts, std::vector<std::string> words, Once const& once) {
  for (;; --restarts) {
    int const code = once(words);
    bool const lost = code == exit_process || code > 128;
    if (!lost || restarts <= 0 || stop_requested) return code;
    std::cerr << program_name(words) << ": a process was lost; goes on from the last checkpoint (" << restarts
              << " restarts left)\n";
    std::erase(words, "--overwrite");
    words.insert(words.end(), {"--resume", "auto"});
  }
}

/// Starts this program `count` times by mpirun. Returns an exit code; throws usage_error where it cannot.
inline int start_by_mpirun(int count, int restarts, std::vector<std::string> const& words) {
#ifndef DM2_WITH_MPI
  throw usage_error{"--processes " + std::to_string(count) +
                    ": this program was compiled without MPI (libopenmpi-dev)"};
#endif
  // Containers run as root, and a machine may have fewer processors than processes: OpenMPI asks to be told. Of two
  // processes it would bind each to one core, with all its threads.
  ::setenv("OMPI_MCA_rmaps_base_oversubscribe", "1", 0);
  ::setenv("OMPI_MCA_hwloc_base_binding_policy", "none", 0);
  if (::geteuid() == 0) {
    ::setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 0);
    ::setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 0);
  }
  return with_restarts(restarts, words, [&](std::vector<std::string> const& now) {
    command c{{"mpirun", "-n", std::to_string(count)}};
    c.words.insert(c.words.end(), now.begin(), now.end());
    process_family family;
    family.start(c);
    int const code = family.wait(0);
    if (code == 127) throw usage_error{"--processes needs mpirun (openmpi-bin)"};
    return code;
  });
}

/// Starts this program once for each GPU. They meet in a folder of their own. `patience`: as process_family::wait.
inline int start_on_gpus(std::vector<int> const& gpus, int restarts, double patience,
                         std::vector<std::string> const& words) {
  return with_restarts(restarts, words, [&](std::vector<std::string> const& now) {
    bool const shared = std::filesystem::is_directory("/dev/shm");
    std::string folder = (shared ? "/dev/shm" : std::filesystem::temp_directory_path().string()) + "/dm2-XXXXXX";
    if (::mkdtemp(folder.data()) == nullptr) throw usage_error{"--gpus: cannot make " + folder};
    int code = exit_process;
    {
      process_family family;
      for (std::size_t r = 0; r < gpus.size(); ++r)
        family.start({now,
                      {{"WORLD_SIZE", std::to_string(gpus.size())},
                       {"RANK", std::to_string(r)},
                       {"LOCAL_WORLD_SIZE", std::to_string(gpus.size())},
                       {"LOCAL_RANK", std::to_string(gpus[r])},
                       {"DM2_MEETING", folder}}});
      code = family.wait(patience);
    }
    std::error_code ignored;
    std::filesystem::remove_all(folder, ignored);
    return code;
  });
}

/// The words of a process that --gpus starts: on a GPU or not at all, where no --device says otherwise. Throws
/// usage_error where this program knows no GPU.
[[nodiscard]] inline std::vector<std::string> words_for_gpus([[maybe_unused]] std::string const& gpus,
                                                             std::vector<std::string> words) {
#ifndef DM2_EXAMPLES_CUDA
  throw usage_error{"--gpus " + gpus + ": " + gpu_problem()};
#endif
  auto const names_device = [](std::string const& word) { return word.starts_with("--device") || word == "-d"; };
  if (std::none_of(words.begin(), words.end(), names_device)) words.insert(words.end(), {"--device", "cuda"});
  return words;
}

/// The flags that start processes.
struct start_flags {
  int processes = 0, restarts = 0;
  std::string gpus;
  double deadline = 30;
};

/// Starts what the flags ask for, and returns an exit code; nothing where this process works itself, alone or as one of
/// those that a launcher has started. Throws usage_error.
[[nodiscard]] inline std::optional<int> start_processes(start_flags const& f, std::vector<std::string> const& words) {
  int const started = started_as().size;
  if (!f.gpus.empty() && f.processes > 1) throw usage_error{"--gpus and --processes exclude each other"};
  if (!f.gpus.empty() && started == 1)
    return start_on_gpus(gpu_list(f.gpus), f.restarts, f.deadline + 15, words_for_gpus(f.gpus, words));
  if (f.processes > 1 && started == 1) return start_by_mpirun(f.processes, f.restarts, words);
  if (f.processes > 1 && f.processes != started)
    throw usage_error{"--processes " + std::to_string(f.processes) + ": there are " + std::to_string(started) +
                      " already"};
  return std::nullopt;
}

}  // namespace dm2::example
