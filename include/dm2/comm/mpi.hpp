/// @file
/// Processes that MPI connects. The program is compiled and linked with MPI, and started by mpirun or srun.
#pragma once

#include <dm2/comm/communicator.hpp>
#include <dm2/comm/end_limit.hpp>
#include <dm2/comm/waiting.hpp>

#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace dm2 {

/// All processes that were started together, MPI_COMM_WORLD.
///
/// Begins MPI, and ends it when it is destroyed; a program has at most one. After a process_error MPI is not ended,
/// since that would wait for the lost process: the program's own end tells mpirun, which ends the others. Where another
/// process does not come to its end within the deadline, this one says so and exits with code 6: no call returns then.
///
///     dm2::mpi_communicator processes;
///     dm2::trainer driver{net, options, training, nullptr, folder, processes};
class mpi_communicator final : public communicator {
 public:
  /// `deadline` is in seconds, on top of four times the longest work between two exchanges.
  /// Throws process_error where MPI does not start, std::logic_error where it has been used already.
  explicit mpi_communicator(double deadline = 30) : mpi_communicator{started(), deadline} {}
  ~mpi_communicator() override {
    if (failed_) return;
    detail::end_limit const limit{waiting_.limit(), [this] {
                                    std::fprintf(stderr, "%s\n",
                                                 detail::waiting::end_text(waiting_.limit(), rank_).c_str());
                                    std::_Exit(6);
                                  }};
    MPI_Finalize();
  }

  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int size() const override { return size_; }
  [[nodiscard]] std::string name() const override { return "MPI"; }

 protected:
  void move(char const* what, std::span<outgoing_message const> out, std::span<incoming_message const> in) override {
    if (failed_) throw process_error{"MPI: called again after it failed"};
    waiting_.enter();
    pending work;
    int const tag = exchanges_++ % most_tag;
    for (incoming_message const& m : in)
      for_pieces(m.bytes, [&](std::byte* p, int n) {
        require(MPI_Irecv(p, n, MPI_BYTE, m.from, tag, MPI_COMM_WORLD, work.add(m.from)), what);
      });
    std::size_t const received = work.requests.size();
    for (outgoing_message const& m : out)
      for_pieces(m.bytes, [&](std::byte const* p, int n) {
        require(MPI_Isend(p, n, MPI_BYTE, m.to, tag, MPI_COMM_WORLD, work.add(m.to)), what);
      });
    wait(what, work, received);
    waiting_.leave();
  }

 private:
  /// Messages that are under way, and the other process of each.
  struct pending {
    std::vector<MPI_Request> requests;
    std::vector<int> peers;

    MPI_Request* add(int peer) {
      peers.push_back(peer);
      requests.push_back(MPI_REQUEST_NULL);
      return &requests.back();
    }
  };
  /// MPI promises tags to 32,767. Two messages with one tag keep their order.
  static constexpr int most_tag = 32'767;
  /// A count is an int.
  static constexpr std::size_t most_bytes = std::size_t{1} << 30;

  mpi_communicator(std::pair<int, int> place, double deadline)
      : rank_{place.first}, size_{place.second}, waiting_{place.first, place.second, deadline} {}

  static std::pair<int, int> started() {
    int begun = 0;
    MPI_Initialized(&begun);
    if (begun != 0) throw std::logic_error{"dm2::mpi_communicator: MPI has been started already"};
    int given = 0, rank = 0, size = 0;
    if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &given) != MPI_SUCCESS || given < MPI_THREAD_FUNNELED)
      throw process_error{"MPI does not start, or takes no threads beside the one that calls it"};
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    return {rank, size};
  }

  template <class B, class F>
  static void for_pieces(std::span<B> bytes, F const& f) {
    for (std::size_t at = 0; at < bytes.size(); at += most_bytes)
      f(bytes.data() + at, int(std::min(most_bytes, bytes.size() - at)));
  }

  /// Polls, so that it can stop. The first wait's length is 0: small messages take 5 us.
  void wait(char const* what, pending& work, std::size_t received) {
    std::size_t const count = work.requests.size();
    std::vector<char> done(count, 0);
    std::size_t left = count;
    for (int idle = 0; left > 0; ++idle) {
      for (std::size_t i = 0; i < count; ++i) {
        if (done[i] != 0) continue;
        int ready = 0;
        require(MPI_Test(&work.requests[i], &ready, MPI_STATUS_IGNORE), what);
        if (ready == 0) continue;
        done[i] = 1;
        --left;
        idle = 0;
        if (i < received) waiting_.hear(work.peers[i]);
      }
      if (left > 0 && waiting_.over()) give_up(what, work, done);
      // A core that spins would be missing to a process that computes: 200 polls, then naps of up to 1 ms.
      if (left > 0 && idle > 200) std::this_thread::sleep_for(std::chrono::microseconds{std::min(idle - 200, 1000)});
    }
  }

  [[noreturn]] void give_up(char const* what, pending const& work, std::vector<char> const& done) {
    std::vector<int> missing;
    for (std::size_t i = 0; i < done.size(); ++i)
      if (done[i] == 0) missing.push_back(work.peers[i]);
    std::sort(missing.begin(), missing.end());
    missing.erase(std::unique(missing.begin(), missing.end()), missing.end());
    failed_ = true;
    throw process_error{waiting_.report(what, step(), missing)};
  }
  void require(int status, char const* what) {
    if (status == MPI_SUCCESS) return;
    failed_ = true;
    char text[MPI_MAX_ERROR_STRING] = {};
    int length = 0;
    MPI_Error_string(status, text, &length);
    throw process_error{"MPI: " + std::string{text, std::size_t(length)} + " " + detail::waiting::place(what, step())};
  }

  int rank_, size_;
  detail::waiting waiting_;
  int exchanges_ = 0;
  bool failed_ = false;
};

}  // namespace dm2
