/// @file
/// Where a process stands among those that a launcher started with it.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string_view>
#include <system_error>
#include <thread>

namespace dm2::example {

/// A process among those that a launcher started together.
struct process_place {
  int rank = 0;              ///< this one
  int size = 1;              ///< all of them
  int local_rank = 0;        ///< this one among those on this machine
  int local_size = 1;        ///< those on this machine
  std::string_view by = {};  ///< the variable that says so; empty where no launcher was at work
  bool by_mpi = false;       ///< whether the launcher connects its processes by MPI
};

/// A whole number of the environment, or nothing.
[[nodiscard]] inline std::optional<int> environment_number(char const* name) {
  char const* const text = std::getenv(name);
  int number = 0;
  if (text == nullptr) return std::nullopt;
  auto const [end, problem] = std::from_chars(text, text + std::strlen(text), number);
  return problem == std::errc{} && *end == 0 ? std::optional{number} : std::nullopt;
}

/// srun's processes on this machine. SLURM_STEP_TASKS_PER_NODE counts those of each machine of the step, as "4(x2),3":
/// four on each of the first two, three on the next.
[[nodiscard]] inline std::optional<int> slurm_local_size() {
  char const* const text = std::getenv("SLURM_STEP_TASKS_PER_NODE");
  int const node = environment_number("SLURM_NODEID").value_or(0);
  if (text == nullptr) return std::nullopt;
  char const *at = text, *const end = text + std::strlen(text);
  for (int machines = 0; at < end; at += *at == ',') {
    int count = 0, times = 1;
    auto read = std::from_chars(at, end, count);
    if (read.ec != std::errc{}) return std::nullopt;
    if (std::string_view{read.ptr, end}.starts_with("(x")) {
      read = std::from_chars(read.ptr + 2, end, times);
      if (read.ec != std::errc{} || read.ptr == end || *read.ptr++ != ')') return std::nullopt;
    }
    if (node < (machines += times)) return count;
    at = read.ptr;
    if (at < end && *at != ',') return std::nullopt;
  }
  return std::nullopt;
}

/// What the variables of mpirun (OpenMPI, MPICH, Intel), torchrun and srun say. srun's come last: where it has started
/// another launcher, that one knows better.
[[nodiscard]] inline process_place started_as() {
  struct names {
    char const *size, *rank, *local_rank, *local_size;
  };
  for (names const n : {names{"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK",
                              "OMPI_COMM_WORLD_LOCAL_SIZE"},
                        names{"PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
                        names{"WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"},
                        // SLURM_NTASKS does not say it: a batch script's own shell has it, too
                        names{"SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", nullptr}}) {
    auto const size = environment_number(n.size), rank = environment_number(n.rank);
    if (!size || !rank || *size < 1 || *rank < 0 || *rank >= *size) continue;
    bool const slurm = n.local_size == nullptr;
    auto const beside = slurm ? slurm_local_size() : environment_number(n.local_size);
    int const local_size = std::clamp(beside.value_or(1), 1, *size);
    int const local_rank = environment_number(n.local_rank).value_or(*rank % local_size);
    std::string_view const by = n.size;
    // srun's processes find one another only where it was started with --mpi=pmix
    bool const mpi = slurm ? environment_number("PMIX_RANK").has_value() : by != "WORLD_SIZE";
    return {*rank, *size, std::max(0, local_rank), local_size, by, mpi};
  }
  return {};
}

/// Processors that are left to each of the processes of this machine, where `asked` leaves their number open.
[[nodiscard]] inline int share_of_processors(int asked, process_place const& place) {
  if (asked != 0 || place.local_size == 1) return asked;
  return std::max(1, int(std::thread::hardware_concurrency()) / place.local_size);
}

}  // namespace dm2::example
