/// @file
/// Brings a few bytes from process 0 to all others, at start.
///
/// NCCL begins with such: its unique id. The bytes go over a socket that process 0 has bound before anybody is told of
/// it, or through a file that it writes aside and renames. What comes from another run is found out by the run's name.
#pragma once

#include <dm2/comm/communicator.hpp>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace dm2 {

/// Where and as what processes meet.
struct rendezvous_place {
  std::string run;                  ///< the same on every process, and another one for every run
  int rank = 0;                     ///< this process
  int size = 1;                     ///< all of them
  double deadline = 60;             ///< seconds that a process waits for the others
  std::string host = {};            ///< process 0's machine; empty to meet by a file
  int port = 0;                     ///< on it
  std::filesystem::path file = {};  ///< that all processes see, where there is no host
};

namespace detail {

/// A socket, closed at the end.
class socket_handle {
 public:
  socket_handle() = default;
  explicit socket_handle(int file) : file_{file} {}
  socket_handle(socket_handle&& other) noexcept : file_{std::exchange(other.file_, -1)} {}
  socket_handle& operator=(socket_handle&& other) noexcept {
    std::swap(file_, other.file_);
    return *this;
  }
  ~socket_handle() {
    if (file_ >= 0) ::close(file_);
  }
  [[nodiscard]] int get() const { return file_; }
  [[nodiscard]] explicit operator bool() const { return file_ >= 0; }

 private:
  int file_ = -1;
};

/// The time until which something waits.
class time_limit {
 public:
  explicit time_limit(double seconds)
      : end_{clock::now() + std::chrono::duration_cast<clock::duration>(std::chrono::duration<double>(seconds))} {}
  [[nodiscard]] bool over() const { return clock::now() >= end_; }
  /// For poll(); at least 0.
  [[nodiscard]] int milliseconds() const {
    auto const left = std::chrono::duration_cast<std::chrono::milliseconds>(end_ - clock::now()).count();
    return int(std::clamp<std::int64_t>(left, 0, 1000));
  }

 private:
  using clock = std::chrono::steady_clock;
  clock::time_point end_;
};

/// Sends or receives all of `bytes`, in as many pieces as it takes. False where the other side is gone or too late.
template <class Move>
bool move_all(int file, short wanted, std::span<std::byte> bytes, time_limit const& limit, Move const& move) {
  while (!bytes.empty()) {
    pollfd p{file, wanted, 0};
    int const ready = ::poll(&p, 1, limit.milliseconds());
    if (ready == 0 && limit.over()) return false;
    if (ready <= 0) continue;
    ssize_t const n = move(bytes);
    if (n > 0)
      bytes = bytes.subspan(std::size_t(n));
    else if (n == 0 || (errno != EINTR && errno != EAGAIN && errno != EWOULDBLOCK))
      return false;
  }
  return true;
}
inline bool send_all(int file, std::span<std::byte const> bytes, time_limit const& limit) {
  std::vector<std::byte> copy(bytes.begin(), bytes.end());
  return move_all(file, POLLOUT, copy, limit,
                  [&](std::span<std::byte> left) { return ::send(file, left.data(), left.size(), MSG_NOSIGNAL); });
}
inline bool receive_all(int file, std::span<std::byte> bytes, time_limit const& limit) {
  return move_all(file, POLLIN, bytes, limit,
                  [&](std::span<std::byte> left) { return ::recv(file, left.data(), left.size(), 0); });
}

/// How a process names itself: fixed sizes, so that a stranger's bytes are read no further than this.
struct rendezvous_greeting {
  std::array<char, 8> magic{'d', 'm', '2', 'm', 'e', 'e', 't', '1'};
  std::uint64_t run = 0;  ///< hash of the run's name and size
  std::int32_t rank = 0, size = 0;
  bool operator==(rendezvous_greeting const&) const = default;
};

inline rendezvous_greeting greeting_of(rendezvous_place const& at, int rank) {
  rendezvous_greeting g;
  g.run = 0xcbf29ce484222325;  // FNV-1a
  for (char const c : at.run) g.run = (g.run ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  g.rank = rank;
  g.size = at.size;
  return g;
}

[[noreturn]] inline void rendezvous_failed(rendezvous_place const& at, std::string const& what) {
  throw process_error{
      "process " + std::to_string(at.rank) + " of " + std::to_string(at.size) + " did not meet the others " +
      (at.host.empty() ? "by " + at.file.string() : "at " + at.host + ":" + std::to_string(at.port)) + ": " + what};
}

/// The addresses of a host and port; for process 0, of this machine.
inline auto addresses_of(rendezvous_place const& at, bool own) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = own ? AI_PASSIVE : 0;
  int const problem = ::getaddrinfo(own ? nullptr : at.host.c_str(), std::to_string(at.port).c_str(), &hints, &found);
  if (problem != 0) rendezvous_failed(at, ::gai_strerror(problem));
  return std::unique_ptr<addrinfo, void (*)(addrinfo*)>{found, ::freeaddrinfo};
}

/// Binds the port.
inline socket_handle listen_at(rendezvous_place const& at) {
  auto const found = addresses_of(at, true);
  std::string problem = "no address";
  for (addrinfo const* a = found.get(); a != nullptr; a = a->ai_next) {
    socket_handle s{::socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol)};
    int const yes = 1, no = 0;
    if (s) ::setsockopt(s.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (s && a->ai_family == AF_INET6) ::setsockopt(s.get(), IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
    if (s && ::bind(s.get(), a->ai_addr, a->ai_addrlen) == 0 && ::listen(s.get(), 1024) == 0) return s;
    problem = std::strerror(errno);
  }
  rendezvous_failed(at, "cannot listen: " + problem);
}

/// Process 0: answers every other process once.
inline void serve_all(rendezvous_place const& at, socket_handle const& listening, std::span<std::byte const> bytes) {
  time_limit const limit{at.deadline};
  std::set<int> missing;
  for (int r = 1; r < at.size; ++r) missing.insert(r);
  while (!missing.empty()) {
    pollfd p{listening.get(), POLLIN, 0};
    if (limit.over()) {
      std::string names;
      for (int const r : missing) names += (names.empty() ? "" : ", ") + std::to_string(r);
      rendezvous_failed(at, "nothing was heard of process " + names);
    }
    if (::poll(&p, 1, limit.milliseconds()) <= 0) continue;
    socket_handle const other{::accept(listening.get(), nullptr, nullptr)};
    rendezvous_greeting got;
    time_limit const patience{std::min(at.deadline, 5.0)};  // a stranger may send nothing
    if (!other || !receive_all(other.get(), std::as_writable_bytes(std::span{&got, 1}), patience)) continue;
    if (got.rank < 1 || got.rank >= at.size || got != greeting_of(at, got.rank)) continue;  // of another run
    rendezvous_greeting const own = greeting_of(at, 0);
    if (send_all(other.get(), std::as_bytes(std::span{&own, 1}), patience) && send_all(other.get(), bytes, patience))
      missing.erase(got.rank);
  }
}

/// Another process: asks until it is answered by process 0 of this run.
inline void ask(rendezvous_place const& at, std::span<std::byte> bytes) {
  time_limit const limit{at.deadline};
  std::string problem = "nobody listens";
  while (!limit.over()) {
    auto const found = addresses_of(at, false);
    for (addrinfo const* a = found.get(); a != nullptr; a = a->ai_next) {
      socket_handle const s{::socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol)};
      if (!s || ::connect(s.get(), a->ai_addr, a->ai_addrlen) != 0) {
        problem = std::strerror(errno);
        continue;
      }
      rendezvous_greeting const own = greeting_of(at, at.rank);
      rendezvous_greeting got;
      time_limit const patience{std::min(at.deadline, 10.0)};
      if (send_all(s.get(), std::as_bytes(std::span{&own, 1}), patience) &&
          receive_all(s.get(), std::as_writable_bytes(std::span{&got, 1}), patience) && got == greeting_of(at, 0) &&
          receive_all(s.get(), bytes, patience))
        return;
      problem = "another program answers there, or another run";
    }
    std::this_thread::sleep_for(std::chrono::milliseconds{100});
  }
  rendezvous_failed(at, problem);
}

/// Process 0 writes the file aside and renames it; the others wait for it. A file of another run, left by a run that
/// was killed, is not taken.
inline void meet_by_file(rendezvous_place const& at, std::span<std::byte> bytes) {
  rendezvous_greeting const first = greeting_of(at, 0);
  std::vector<std::byte> content(sizeof first + bytes.size());
  if (at.rank == 0) {
    std::memcpy(content.data(), &first, sizeof first);
    std::copy(bytes.begin(), bytes.end(), content.begin() + sizeof first);
    auto const aside = at.file.string() + "." + std::to_string(::getpid()) + ".tmp";
    std::ofstream out{aside, std::ios::binary};
    out.write(reinterpret_cast<char const*>(content.data()), std::streamsize(content.size()));
    out.close();
    std::error_code problem;
    if (out) std::filesystem::rename(aside, at.file, problem);
    if (!out || problem) rendezvous_failed(at, "the file cannot be written");
    return;
  }
  for (time_limit const limit{at.deadline}; !limit.over(); std::this_thread::sleep_for(std::chrono::milliseconds{20})) {
    std::ifstream in{at.file, std::ios::binary};
    if (!in.read(reinterpret_cast<char*>(content.data()), std::streamsize(content.size()))) continue;
    if (std::memcmp(content.data(), &first, sizeof first) != 0) continue;
    std::copy(content.begin() + sizeof first, content.end(), bytes.begin());
    return;
  }
  rendezvous_failed(at, "process 0 did not write it");
}

}  // namespace detail

/// Gives every process what process 0 has in `bytes`, whose size is the same on all.
///
/// Errors   process_error after the deadline, with the place and, on process 0, the numbers of those that did not come.
class rendezvous {
 public:
  /// Process 0 binds the port here, before anybody is told of it. Throws process_error where it is taken.
  explicit rendezvous(rendezvous_place at) : at_{std::move(at)} {
    if (at_.rank == 0 && at_.size > 1 && !at_.host.empty()) listening_ = detail::listen_at(at_);
  }
  /// Once.
  void share(std::span<std::byte> bytes) const {
    if (at_.size == 1) return;
    if (at_.host.empty()) return detail::meet_by_file(at_, bytes);
    if (at_.rank == 0)
      detail::serve_all(at_, listening_, bytes);
    else
      detail::ask(at_, bytes);
  }

 private:
  rendezvous_place at_;
  detail::socket_handle listening_;
};

}  // namespace dm2
