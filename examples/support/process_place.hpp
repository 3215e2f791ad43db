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

namespace dm2::example {

/// A process among those that a launcher started together.
struct process_place {
  int rank = 0;              ///< this one
  int size = 1;              ///< all of them
  int local_rank = 0;        ///< this one among those on this machine
  int local_size = 1;        ///< those on this machine
  std::string_view by = {};  ///< the variable that says so; empty where no launcher was at work
};

/// A whole number of the environment, or nothing.
[[nodiscard]] inline std::optional<int> environment_number(char const* name) {
  char const* const text = std::getenv(name);
  int number = 0;
  if (text == nullptr) return std::nullopt;
  auto const [end, problem] = std::from_chars(text, text + std::strlen(text), number);
  return problem == std::errc{} && *end == 0 ? std::optional{number} : std::nullopt;
}

/// The variable of torchrun and of this program's own --gpus.
inline constexpr std::string_view by_variables = "WORLD_SIZE";

/// What the variables of mpirun (OpenMPI, MPICH, Intel), srun and torchrun say.
[[nodiscard]] inline process_place started_as() {
  struct names {
    char const *size, *rank, *local_rank, *local_size;
  };
  // SLURM_PROCID alone does not say it: a batch script's own shell has it, too.
  for (names const n : {names{"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK",
                              "OMPI_COMM_WORLD_LOCAL_SIZE"},
                        names{"PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
                        names{"WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}}) {
    auto const size = environment_number(n.size), rank = environment_number(n.rank);
    if (!size || !rank || *size < 1 || *rank < 0 || *rank >= *size) continue;
    int const local_size = std::clamp(environment_number(n.local_size).value_or(1), 1, *size);
    int const local_rank = environment_number(n.local_rank).value_or(*rank % local_size);
    return {*rank, *size, std::max(0, local_rank), local_size, n.size};
  }
  return {};
}

}  // namespace dm2::example
