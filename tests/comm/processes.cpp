// What only several processes show of a communicator: mpirun -n N processes [CASE]. Ends with 0 where all is right.
//
//   (none)       every call, with sizes from none to several pieces, against what each process can compute alone
//   silent       process 1 sleeps for ever before the second exchange; the others end with 6 and say so
//   endless      process 1 sleeps for ever before its end; the others end with 6 and say so
//   paused       process 0 waits for process 1's end, and is stopped there for longer than it may wait: ends with 0
#include <dm2/comm/mpi.hpp>
#include <dm2/core/random.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iostream>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <signal.h>
#include <unistd.h>

namespace {

/// The bytes that process `from` sends to process `to` in round `round`: either side can make them.
std::vector<std::uint32_t> message(int from, int to, int round, std::size_t size) {
  dm2::random_stream random{std::uint64_t(from), std::uint32_t(to), std::uint64_t(round)};
  std::vector<std::uint32_t> out(size);
  for (auto& word : out) word = random.bits();
  return out;
}

std::size_t size_of_message(int from, int to, int round) {
  static constexpr std::size_t sizes[] = {0, 1, 7, 1023, 1024, 1025, 300'001};
  return sizes[std::size_t(from * 3 + to * 5 + round) % std::size(sizes)];
}

void require(bool right, std::string const& what) {
  if (!right) throw std::runtime_error{what};
}

void exchange_round(dm2::communicator& c, int round) {
  int const self = c.rank();
  std::vector<std::vector<std::uint32_t>> sent, received;
  std::vector<dm2::outgoing_message> out;
  std::vector<dm2::incoming_message> in;
  for (int r = 0; r < c.size(); ++r) {
    sent.push_back(message(self, r, round, size_of_message(self, r, round)));
    received.emplace_back(size_of_message(r, self, round));
  }
  for (int r = c.size(); r-- > 0;) {
    out.push_back({r, std::as_bytes(std::span{sent[std::size_t(r)]})});
    in.push_back({r, std::as_writable_bytes(std::span{received[std::size_t(r)]})});
  }
  c.exchange("messages", out, in);
  for (int r = 0; r < c.size(); ++r)
    require(received[std::size_t(r)] == message(r, self, round, size_of_message(r, self, round)),
            "the message of process " + std::to_string(r) + " is another");
}

void gather_and_broadcast(dm2::communicator& c) {
  std::vector<double> const own{double(c.rank()), 0.5 * double(c.rank()), -1};
  std::vector<double> all(3 * std::size_t(c.size()));
  c.gather("numbers", std::span{own}, std::span{all});
  for (int r = 0; r < c.size(); ++r)
    require(all[std::size_t(r) * 3] == r && all[std::size_t(r) * 3 + 1] == 0.5 * r && all[std::size_t(r) * 3 + 2] == -1,
            "gathered another number");
  for (int root = 0; root < c.size(); ++root) {
    auto values = message(c.rank(), root, 99, 1000);
    c.broadcast("numbers", std::span{values}, root);
    require(values == message(root, root, 99, 1000), "broadcast another message");
  }
  c.barrier("end");
}

/// Process 1 stops process 0 (SIGSTOP) for `stop`, when that has waited in its end for 0.3 s of the 3 s that it may,
/// and ends half a second after it has continued it.
void pause_the_first(dm2::communicator& c, std::chrono::seconds stop) {
  int id = ::getpid();
  c.broadcast("id", std::span{&id, 1}, 0);
  if (c.rank() != 1) return;
  std::this_thread::sleep_for(std::chrono::milliseconds{300});
  require(::kill(id, SIGSTOP) == 0, "process 0 cannot be stopped");
  std::this_thread::sleep_for(stop);
  require(::kill(id, SIGCONT) == 0, "process 0 cannot be continued");
  std::this_thread::sleep_for(std::chrono::milliseconds{500});
}

}  // namespace

int main(int argc, char** argv) {
  std::string const what = argc > 1 ? argv[1] : "";
  try {
    dm2::mpi_communicator c{what.empty() ? 30.0 : 3.0};
    c.at_step(4);
    for (int round = 0; round < 5; ++round) exchange_round(c, round);
    if (what == "silent" && c.rank() == 1) std::this_thread::sleep_for(std::chrono::hours{1});
    gather_and_broadcast(c);
    if (what == "endless" && c.rank() == 1) std::this_thread::sleep_for(std::chrono::hours{1});
    if (what == "paused") pause_the_first(c, std::chrono::seconds{5});
    if (c.rank() == 0) std::cout << c.size() << " processes by " << c.name() << ": right\n";
    return 0;
  } catch (dm2::process_error const& lost) {
    std::cerr << lost.what() << '\n';
    return 6;
  } catch (std::exception const& problem) {
    std::cerr << problem.what() << '\n';
    return 1;
  }
}
