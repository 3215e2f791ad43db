/// @file
/// Processes of a run as threads of one test: their messages go through memory.
#pragma once

#include <dm2/comm/communicator.hpp>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace dm2::test {

/// The letters that are under way.
struct mailbox {
  std::mutex mutex;
  std::condition_variable arrived;
  std::map<std::pair<int, int>, std::deque<std::vector<std::byte>>> letters;  ///< by sender and receiver
};

/// One of them. Waits at most two minutes for a letter.
class thread_process final : public communicator {
 public:
  thread_process(mailbox& box, int rank, int size) : box_{box}, rank_{rank}, size_{size} {}
  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int size() const override { return size_; }
  [[nodiscard]] std::string name() const override { return "threads"; }

 protected:
  void move(char const* what, std::span<outgoing_message const> out, std::span<incoming_message const> in) override {
    std::unique_lock lock{box_.mutex};
    for (outgoing_message const& m : out) box_.letters[{rank_, m.to}].emplace_back(m.bytes.begin(), m.bytes.end());
    box_.arrived.notify_all();
    for (incoming_message const& m : in) {
      auto& waiting = box_.letters[{m.from, rank_}];
      if (!box_.arrived.wait_for(lock, std::chrono::minutes{2}, [&] { return !waiting.empty(); }))
        throw process_error{"process " + std::to_string(m.from) + " did not send '" + what + "'"};
      if (waiting.front().size() != m.bytes.size())
        throw process_error{"'" + std::string{what} + "' has " + std::to_string(waiting.front().size()) +
                            " bytes, room for " + std::to_string(m.bytes.size())};
      std::copy(waiting.front().begin(), waiting.front().end(), m.bytes.begin());
      waiting.pop_front();
    }
  }

 private:
  mailbox& box_;
  int rank_, size_;
};

/// Calls body(process) in a thread for each of `count` processes, and rethrows what the first of them threw.
template <class Body>
void as_processes(int count, Body const& body) {
  mailbox box;
  std::vector<std::exception_ptr> problems(static_cast<std::size_t>(count));
  {
    std::vector<std::jthread> threads;
    for (int r = 0; r < count; ++r)
      threads.emplace_back([&, r] {
        try {
          thread_process self{box, r, count};
          body(static_cast<communicator&>(self));
        } catch (...) {
          problems[static_cast<std::size_t>(r)] = std::current_exception();
        }
      });
  }
  for (auto const& problem : problems)
    if (problem) std::rethrow_exception(problem);
}

}  // namespace dm2::test
