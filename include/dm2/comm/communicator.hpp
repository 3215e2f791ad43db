/// @file
/// Messages between the processes of one training run.
///
/// Training asks for four things only: who am I, exchange, gather and broadcast. A library that moves bytes between two
/// processes is enough for all of them: see comm/mpi.hpp.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace dm2 {

/// Another process of the run did not answer in time, or its connection failed.
///
/// what() says which process, in which exchange, at which step, and when each process was last heard. The run is over
/// for this process: no later call on the communicator succeeds.
struct process_error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Bytes for one process.
struct outgoing_message {
  int to = 0;                        ///< its rank
  std::span<std::byte const> bytes;  ///< stay as they are until the exchange returns
};

/// Room for bytes of one process.
struct incoming_message {
  int from = 0;                ///< its rank
  std::span<std::byte> bytes;  ///< written (=); as many as the other process sends
};

/// What went between the processes so far.
struct traffic {
  std::uint64_t bytes = 0;  ///< sent by this process
  double seconds = 0;       ///< in exchanges, with the waiting for processes that are later
};

/// The processes of a run, numbered from 0 to size() - 1.
///
/// Every process makes the same calls in the same order, each named by `what`, a word for error messages. A call
/// returns when this process has what it waits for. One thread at a time may call.
///
/// Errors   process_error from every call, where a process it waits for has not answered within deadline().
///
///     dm2::single_process alone;
///     std::array<double, 1> const mine{0.5};
///     std::array<double, 1> all{};
///     alone.gather("losses", std::span{mine}, std::span{all});   // all[r] is process r's
class communicator {
 public:
  communicator() = default;
  communicator(communicator const&) = delete;
  communicator& operator=(communicator const&) = delete;
  virtual ~communicator() = default;

  /// This process.
  [[nodiscard]] virtual int rank() const = 0;
  /// Processes of the run.
  [[nodiscard]] virtual int size() const = 0;
  /// What moves the bytes: "MPI".
  [[nodiscard]] virtual std::string name() const = 0;

  /// The step that error messages name, counted from 0.
  void at_step(std::int64_t step) { step_ = step; }
  /// @copydoc at_step
  [[nodiscard]] std::int64_t step() const { return step_; }

  /// Sends and receives, all at once. Where one process names another in `in`, that one names it in `out`, with as many
  /// bytes. At most one message goes from a process to another. A message to itself is a copy.
  void exchange(char const* what, std::span<outgoing_message const> out, std::span<incoming_message const> in) {
    std::vector<outgoing_message> sent;
    std::vector<incoming_message> awaited;
    for (outgoing_message const& m : out)
      if (m.to != rank()) sent.push_back(m);
    for (incoming_message const& m : in) {
      if (m.from != rank()) {
        awaited.push_back(m);
        continue;
      }
      for (outgoing_message const& own : out)
        if (own.to == rank()) copy_own(own, m);
    }
    auto const begin = std::chrono::steady_clock::now();
    move(what, sent, awaited);
    traffic_.seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    for (outgoing_message const& m : sent) traffic_.bytes += m.bytes.size();
  }
  /// What went between the processes since this one was made.
  [[nodiscard]] virtual traffic sent() const { return traffic_; }

  /// Each process gives `own`, and has all of them afterwards: all [size(), own.size()], by rank.
  template <class T, std::size_t N, std::size_t M>
  void gather(char const* what, std::span<T const, N> own, std::span<T, M> all) {
    static_assert(std::is_trivially_copyable_v<T>, "dm2::communicator::gather<T>: T is copied byte by byte");
    require_size(what, all.size(), own.size() * std::size_t(size()));
    std::vector<outgoing_message> out;
    std::vector<incoming_message> in;
    for (int r = 0; r < size(); ++r) {
      out.push_back({r, std::as_bytes(own)});
      in.push_back({r, std::as_writable_bytes(all.subspan(std::size_t(r) * own.size(), own.size()))});
    }
    exchange(what, out, in);
  }

  /// Every process has what `root` has in `values`.
  template <class T, std::size_t N>
  void broadcast(char const* what, std::span<T, N> values, int root = 0) {
    static_assert(std::is_trivially_copyable_v<T>, "dm2::communicator::broadcast<T>: T is copied byte by byte");
    std::vector<outgoing_message> out;
    std::vector<incoming_message> in;
    if (rank() != root)
      in.push_back({root, std::as_writable_bytes(values)});
    else
      for (int r = 0; r < size(); ++r)
        if (r != root) out.push_back({r, std::as_bytes(std::span<T const>{values})});
    exchange(what, out, in);
  }

  /// Returns when every process has called it.
  void barrier(char const* what) {
    std::byte const own{};
    std::vector<std::byte> all(static_cast<std::size_t>(size()));
    gather(what, std::span<std::byte const>{&own, 1}, std::span<std::byte>{all});
  }

 protected:
  /// exchange() between different processes. Throws process_error.
  virtual void move(char const* what, std::span<outgoing_message const> out, std::span<incoming_message const> in) = 0;

 private:
  static void require_size(char const* what, std::size_t got, std::size_t expected) {
    if (got != expected)
      throw std::invalid_argument{"communicator: '" + std::string{what} + "' gathers " + std::to_string(expected) +
                                  " values, there is room for " + std::to_string(got)};
  }
  static void copy_own(outgoing_message const& from, incoming_message const& to) {
    if (from.bytes.size() != to.bytes.size())
      throw std::invalid_argument{"communicator: a message of " + std::to_string(from.bytes.size()) +
                                  " bytes to itself, room for " + std::to_string(to.bytes.size())};
    if (!from.bytes.empty()) std::memmove(to.bytes.data(), from.bytes.data(), from.bytes.size());
  }

  std::int64_t step_ = 0;
  traffic traffic_;
};

/// A run of one process: nothing is sent.
class single_process final : public communicator {
 public:
  [[nodiscard]] int rank() const override { return 0; }
  [[nodiscard]] int size() const override { return 1; }
  [[nodiscard]] std::string name() const override { return "one process"; }

 protected:
  void move(char const*, std::span<outgoing_message const>, std::span<incoming_message const>) override {}
};

/// The communicator of a program that knows no other process.
[[nodiscard]] inline communicator& one_process() {
  static single_process alone;
  return alone;
}

}  // namespace dm2
