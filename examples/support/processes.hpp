/// @file
/// The processes of one run: how this one was started, and what connects it to the others.
#pragma once

#include <dm2/comm/communicator.hpp>
#ifdef DM2_WITH_MPI
#include <dm2/comm/mpi.hpp>
#endif

#include "command_line.hpp"
#include "gpu_trainer.hpp"
#include "process_place.hpp"

#include <algorithm>
#include <cstddef>
#include <exception>
#include <iostream>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <streambuf>
#include <string>
#include <utility>
#include <vector>

namespace dm2::example {

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
  /// `deadline` in seconds, as mpi_communicator takes it. Begins MPI where that started this process.
  explicit run_processes(double deadline) : place_{started_as()}, deadline_{deadline} {
#ifdef DM2_WITH_MPI
    if (place_.size == 1 || !place_.by_mpi) return;
    mpi_.emplace(deadline);
    place_.rank = mpi_->rank();
    place_.size = mpi_->size();
#endif
  }

  /// Connects the processes, on GPUs or on CPUs. Once. Throws usage_error where this program cannot, process_error.
  void connect(bool gpu) {
    if (place_.size == 1) return;
    communicator* host = nullptr;
#ifdef DM2_WITH_MPI
    if (mpi_) host = &*mpi_;
#endif
    if (gpu) gpus_ = connect_gpus(place_, host, deadline_);
    if (gpu || host != nullptr) return;
    throw usage_error{std::string{place_.by} + "=" + std::to_string(place_.size) +
                      ": processes on CPUs are started by mpirun or srun --mpi=pmix, and the program is compiled with "
                      "MPI (libopenmpi-dev)"};
  }

  /// The communicator, after connect().
  [[nodiscard]] communicator& get() {
    if (gpus_) return *gpus_;
#ifdef DM2_WITH_MPI
    if (mpi_) return *mpi_;
#endif
    return one_process();
  }
  [[nodiscard]] process_place const& place() const { return place_; }
  [[nodiscard]] bool first() const { return place_.rank == 0; }

 private:
  process_place place_;
  double deadline_;
#ifdef DM2_WITH_MPI
  std::optional<mpi_communicator> mpi_;
#endif
  std::unique_ptr<communicator> gpus_;  ///< last: its messages may go by MPI
};

/// The text of process `root`, on every process. Throws process_error.
inline std::string share_text(communicator& processes, std::string text, int root = 0) {
  std::size_t length = text.size();
  processes.broadcast("text", std::span{&length, 1}, root);
  text.resize(length);
  processes.broadcast("text", std::span{text}, root);
  return text;
}

/// Calls body() on every process. Where it throws on one, it throws on all: there the own exception, elsewhere a
/// usage_error or std::runtime_error with what the first one said. Throws process_error.
template <class Body>
void together(communicator& processes, Body const& body) {
  std::exception_ptr own;
  std::string text;
  char outcome = 0;
  try {
    body();
  } catch (process_error const&) {
    throw;
  } catch (usage_error const& problem) {
    own = std::current_exception(), text = problem.what(), outcome = 1;
  } catch (std::exception const& problem) {
    own = std::current_exception(), text = problem.what(), outcome = 2;
  }
  std::vector<char> all(std::size_t(processes.size()));
  processes.gather("outcome", std::span<char const>{&outcome, 1}, std::span{all});
  auto const failed = std::find_if(all.begin(), all.end(), [](char one) { return one != 0; });
  if (failed == all.end()) return;
  int const rank = int(failed - all.begin());
  text = share_text(processes, std::move(text), rank);
  if (own) std::rethrow_exception(own);
  if (*failed == 1) throw usage_error{text};
  throw std::runtime_error{"process " + std::to_string(rank) + ": " + text};
}

}  // namespace dm2::example
