/// @file
/// The processes of one training run: how this one was started, and how others are.
#pragma once

#include <dm2/comm/communicator.hpp>
#ifdef DM2_WITH_MPI
#include <dm2/comm/mpi.hpp>
#endif

#include "command_line.hpp"
#include "stop_signal.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <optional>
#include <span>
#include <streambuf>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

namespace dm2::example {

/// A process among those that a launcher started together.
struct process_place {
  int rank = 0;              ///< this one
  int size = 1;              ///< all of them
  int local_size = 1;        ///< those on this machine
  std::string_view by = {};  ///< the variable that says so; empty where no launcher was at work
};

namespace detail {

/// A whole number of the environment, or nothing.
[[nodiscard]] inline std::optional<int> environment_number(char const* name) {
  char const* const text = std::getenv(name);
  int number = 0;
  if (text == nullptr) return std::nullopt;
  auto const [end, problem] = std::from_chars(text, text + std::strlen(text), number);
  return problem == std::errc{} && *end == 0 ? std::optional{number} : std::nullopt;
}

}  // namespace detail

/// What the variables of mpirun (OpenMPI, MPICH, Intel), srun and torchrun say.
[[nodiscard]] inline process_place started_as() {
  struct names {
    char const *size, *rank, *local_size;
  };
  // SLURM_PROCID alone does not say it: a batch script's own shell has it, too.
  for (names const n :
       {names{"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"},
        names{"PMI_SIZE", "PMI_RANK", "MPI_LOCALNRANKS"}, names{"WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE"}}) {
    auto const size = detail::environment_number(n.size), rank = detail::environment_number(n.rank);
    if (!size || !rank || *size < 1 || *rank < 0 || *rank >= *size) continue;
    return {*rank, *size, std::clamp(detail::environment_number(n.local_size).value_or(1), 1, *size), n.size};
  }
  return {};
}

/// Takes what a process says that is not the first: its notices and tables are those of the first.
class quiet_output {
 public:
  explicit quiet_output(bool quiet)
      : out_{quiet ? std::cout.rdbuf(&nothing_) : nullptr}, error_{quiet ? std::cerr.rdbuf(&nothing_) : nullptr} {}
  quiet_output(quiet_output const&) = delete;
  quiet_output& operator=(quiet_output const&) = delete;
  /// Errors are said again.
  ~quiet_output() {
    if (out_ != nullptr) std::cout.rdbuf(out_);
    if (error_ != nullptr) std::cerr.rdbuf(error_);
  }

 private:
  struct nothing : std::streambuf {
    int overflow(int c) override { return c == traits_type::eof() ? 0 : c; }
  };
  nothing nothing_;
  std::streambuf *out_, *error_;
};

/// The run's communicator, by what started this process.
class run_processes {
 public:
  /// `deadline` in seconds, as mpi_communicator takes it. Throws usage_error where other processes were started that
  /// this program cannot talk to.
  explicit run_processes([[maybe_unused]] double deadline) : place_{started_as()} {
    if (place_.by.empty()) return;
#ifdef DM2_WITH_MPI
    if (place_.by != "WORLD_SIZE") {
      mpi_.emplace(deadline);
      place_.rank = mpi_->rank();
      place_.size = mpi_->size();
      return;
    }
#endif
    if (place_.size == 1) return;
    throw usage_error{std::string{place_.by} + "=" + std::to_string(place_.size) +
                      ": this program was compiled without what connects its processes; mpirun starts one that was "
                      "compiled with MPI (libopenmpi-dev)"};
  }

  /// The communicator.
  [[nodiscard]] communicator& get() {
#ifdef DM2_WITH_MPI
    if (mpi_) return *mpi_;
#endif
    return one_process();
  }
  [[nodiscard]] process_place const& place() const { return place_; }
  [[nodiscard]] bool first() const { return place_.rank == 0; }

 private:
  process_place place_;
#ifdef DM2_WITH_MPI
  std::optional<mpi_communicator> mpi_;
#endif
};

/// Starts `command`, passes stop signals on as SIGUSR1, which mpirun passes on in turn, and waits. Returns its exit
/// code, or 128 and the signal that ended it. Throws usage_error where it cannot be started.
inline int run_watched(std::vector<std::string> const& command) {
  std::vector<char*> arguments;
  for (std::string const& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  pid_t const child = ::fork();
  if (child == 0) {
    ::execvp(arguments[0], arguments.data());
    ::_exit(127);
  }
  if (child < 0) throw usage_error{"--processes: cannot start " + command[0] + ": " + std::strerror(errno)};
  bool passed_on = false;
  for (int status = 0;;) {
    pid_t const ended = ::waitpid(child, &status, WNOHANG);
    if (ended == child && WIFEXITED(status)) return WEXITSTATUS(status);
    if (ended == child && WIFSIGNALED(status)) return 128 + WTERMSIG(status);
    if (ended < 0 && errno != EINTR) throw usage_error{"--processes: lost " + command[0]};
    if (stop_requested && !passed_on) passed_on = ::kill(child, SIGUSR1) == 0;
    std::this_thread::sleep_for(std::chrono::milliseconds{50});
  }
}

/// The text of the first process, on every process. Throws process_error.
inline std::string share_text(communicator& processes, std::string text) {
  std::size_t length = text.size();
  processes.broadcast("text", std::span{&length, 1});
  text.resize(length);
  processes.broadcast("text", std::span{text});
  return text;
}

/// This program's command line, by its file's full name, without --processes and --restarts.
[[nodiscard]] inline std::vector<std::string> command_to_repeat(int argc, char const* const* argv) {
  std::error_code problem;
  auto const self = std::filesystem::read_symlink("/proc/self/exe", problem);
  std::vector<std::string> out{problem ? argv[0] : self.string()};
  for (int i = 1; i < argc; ++i) {
    std::string const word = argv[i];
    bool const ours = word == "--processes" || word == "--restarts";
    if (ours) ++i;  // and its number
    if (!ours && !word.starts_with("--processes=") && !word.starts_with("--restarts=")) out.push_back(word);
  }
  return out;
}

/// Starts this program `count` times by mpirun, without the flags that asked for it. `restarts`: how often it is
/// started anew, with --resume auto, after a process was lost. Returns the exit code.
inline int start_processes(int count, int restarts, std::vector<std::string> arguments) {
#ifndef DM2_WITH_MPI
  static_cast<void>(count), static_cast<void>(restarts), static_cast<void>(arguments);
  throw usage_error{"--processes: this program was compiled without MPI (libopenmpi-dev)"};
#else
  // Containers run as root, and a machine may have fewer processors than processes: OpenMPI asks to be told.
  ::setenv("OMPI_MCA_rmaps_base_oversubscribe", "1", 0);
  if (::geteuid() == 0) {
    ::setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 0);
    ::setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 0);
  }
  std::vector<std::string> command{"mpirun", "-n", std::to_string(count)};
  command.insert(command.end(), arguments.begin(), arguments.end());
  for (;; --restarts) {
    int const code = run_watched(command);
    if (code == 127) throw usage_error{"--processes needs mpirun (openmpi-bin)"};
    bool const lost = code == exit_process || code > 128;
    if (!lost || restarts <= 0 || stop_requested) return code;
    std::cerr << "train: a process was lost; goes on from the last checkpoint (" << restarts << " restarts left)\n";
    if (std::find(command.begin(), command.end(), "--overwrite") != command.end()) std::erase(command, "--overwrite");
    command.insert(command.end(), {"--resume", "auto"});
  }
#endif
}

}  // namespace dm2::example
