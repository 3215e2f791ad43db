// Connects the processes of a run on GPUs: see support/gpu_trainer.hpp.
#include "../support/gpu_trainer.hpp"

#ifdef DM2_WITH_NCCL
#include <dm2/cuda/comm/nccl.cuh>
#else
#include <dm2/cuda/check.cuh>
#endif

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>

#include <unistd.h>

namespace dm2::example {
#ifdef DM2_WITH_NCCL
namespace {

std::string variable(char const* name) {
  char const* const text = std::getenv(name);
  return text == nullptr ? "" : text;
}

}  // namespace
#endif

std::unique_ptr<communicator> connect_gpus(process_place const& place, communicator* host, double deadline) {
  int count = 0;
  cuda::check(cudaGetDeviceCount(&count), "devices");
  if (place.local_rank >= count)
    throw std::runtime_error{"process " + std::to_string(place.rank) + " is to have GPU " +
                             std::to_string(place.local_rank) + " of this machine, which has " + std::to_string(count)};
  cuda::check(cudaSetDevice(place.local_rank), "device");
#ifdef DM2_WITH_NCCL
  cuda::nccl_options o;
  o.host = host;
  o.deadline = deadline;
  o.on_lost = [](std::string const& text) {
    std::fprintf(stderr, "%s: %s\n", program_invocation_short_name, text.c_str());
    std::_Exit(6);
  };
  std::string const meeting = variable("DM2_MEETING"), port = variable("MASTER_PORT");
  std::string run = variable("TORCHELASTIC_RUN_ID") + "-" + variable("TORCHELASTIC_RESTART_COUNT") + "-" +
                    variable("SLURM_JOB_ID") + "-" + variable("SLURM_STEP_ID") + "-" +
                    variable("OMPI_MCA_orte_ess_jobid") + "-" + port;
  if (!meeting.empty()) run = meeting;
  o.meeting = {.run = run, .rank = place.rank, .size = place.size};
  if (!meeting.empty()) {
    o.meeting.file = meeting + "/id";
    o.board = meeting + "/board";
  } else if (host == nullptr) {
    o.meeting.host = variable("MASTER_ADDR");
    o.meeting.port = port.empty() ? 0 : std::atoi(port.c_str()) + 1;
    if (o.meeting.host.empty() || o.meeting.port < 2 || o.meeting.port > 65535)
      throw std::runtime_error{std::string{place.by} +
                               " is set, but MASTER_ADDR and MASTER_PORT do not say where the processes meet"};
  }
  if (meeting.empty() && place.local_size == place.size)
    o.board = "/dev/shm/dm2-" + std::to_string(::getuid()) + "-" + std::to_string(std::hash<std::string>{}(run));
  return std::make_unique<cuda::nccl_communicator>(std::move(o));
#else
  static_cast<void>(deadline);
  if (host != nullptr) return nullptr;  // messages go by way of the host's memory
  throw std::runtime_error{"this program was compiled without NCCL, which connects the processes of several GPUs"};
#endif
}

}  // namespace dm2::example
