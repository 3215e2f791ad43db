// How processes meet before they have a communicator.
#include <dm2/comm/rendezvous.hpp>
#include <dm2/core/random.hpp>

#include "io/scratch.hpp"

#include <doctest/doctest.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <fstream>
#include <span>
#include <string>
#include <thread>
#include <vector>

using namespace dm2;
using namespace dm2::test;

namespace {

using message = std::array<std::byte, 128>;

message random_message(std::uint64_t seed) {
  random_stream random{seed, 0, 0};
  message out;
  for (auto& b : out) b = std::byte(random.bits());
  return out;
}

/// A port that nobody has now.
int free_port() {
  detail::socket_handle const s{::socket(AF_INET, SOCK_STREAM, 0)};
  sockaddr_in a{};
  a.sin_family = AF_INET;
  socklen_t size = sizeof a;
  REQUIRE(::bind(s.get(), reinterpret_cast<sockaddr*>(&a), size) == 0);
  REQUIRE(::getsockname(s.get(), reinterpret_cast<sockaddr*>(&a), &size) == 0);
  return ntohs(a.sin_port);
}

/// What each of `size` processes has afterwards; process 0 comes last.
std::vector<message> meet(rendezvous_place at, message const& sent) {
  std::vector<message> out(std::size_t(at.size));
  std::vector<std::jthread> threads;
  for (int r = at.size; r-- > 0;)
    threads.emplace_back([&, r, place = at]() mutable {
      place.rank = r;
      if (r == 0) {
        std::this_thread::sleep_for(std::chrono::milliseconds{200});
        out[0] = sent;
      }
      rendezvous{place}.share(out[std::size_t(r)]);
    });
  threads.clear();
  return out;
}

}  // namespace

TEST_CASE("rendezvous: every process has process 0's bytes, by a socket and by a file, whoever comes first") {
  scratch_folder const folder;
  for (int const size : {1, 2, 5}) {
    message const sent = random_message(std::uint64_t(size));
    for (message const& got : meet({.run = "a", .size = size, .host = "127.0.0.1", .port = free_port()}, sent))
      CHECK(got == sent);
    for (message const& got : meet({.run = "a", .size = size, .file = folder / std::to_string(size)}, sent))
      CHECK(got == sent);
  }
}

TEST_CASE("rendezvous: strangers, silent ones and processes of another run neither get nor disturb anything") {
  message const sent = random_message(9);
  int const port = free_port();
  rendezvous_place first{.run = "ours", .rank = 0, .size = 2, .deadline = 20, .host = "127.0.0.1", .port = port};
  std::jthread server{[&] {
    message bytes = sent;
    rendezvous{first}.share(bytes);
  }};
  auto const connected = [&] {
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_port = htons(std::uint16_t(port));
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int tries = 0; tries < 1000; ++tries) {  // until the server listens
      detail::socket_handle s{::socket(AF_INET, SOCK_STREAM, 0)};
      if (::connect(s.get(), reinterpret_cast<sockaddr*>(&a), sizeof a) == 0) return s;
      std::this_thread::sleep_for(std::chrono::milliseconds{10});
    }
    FAIL("nobody listens");
    return detail::socket_handle{-1};
  };
  {
    auto const stranger = connected();
    message noise = random_message(1);
    CHECK(detail::send_all(stranger.get(), noise, detail::time_limit{5}));
  }
  { auto const gone = connected(); }
  rendezvous_place other = first;
  other.run = "another";
  other.rank = 1;
  other.deadline = 0.5;
  message got{};
  CHECK_THROWS_AS(rendezvous{other}.share(got), process_error);
  rendezvous_place second = first;
  second.rank = 1;
  rendezvous{second}.share(got);
  CHECK(got == sent);
}

TEST_CASE("rendezvous: a file of another run, or half a file, is not taken") {
  scratch_folder const folder;
  auto const file = folder / "id";
  message bytes = random_message(3);
  rendezvous{{.run = "killed", .rank = 0, .size = 2, .file = file}}.share(bytes);
  message got{};
  CHECK_THROWS_AS((rendezvous{{.run = "new", .rank = 1, .size = 2, .deadline = 0.2, .file = file}}.share(got)),
                  process_error);
  std::filesystem::resize_file(file, 40);
  CHECK_THROWS_AS((rendezvous{{.run = "killed", .rank = 1, .size = 2, .deadline = 0.2, .file = file}}.share(got)),
                  process_error);
}

TEST_CASE("rendezvous: a process that does not come is named, with the place") {
  int const port = free_port();
  message bytes{};
  rendezvous_place at{.run = "a", .rank = 0, .size = 3, .deadline = 0.3, .host = "127.0.0.1", .port = port};
  std::string text;
  try {
    rendezvous{at}.share(bytes);
  } catch (process_error const& e) {
    text = e.what();
  }
  CHECK(text == "process 0 of 3 did not meet the others at 127.0.0.1:" + std::to_string(port) +
                    ": nothing was heard of process 1, 2");
  at.rank = 1;
  CHECK_THROWS_AS(rendezvous{at}.share(bytes), process_error);
  rendezvous const holder{{.run = "a", .rank = 0, .size = 2, .host = "127.0.0.1", .port = port}};
  CHECK_THROWS_AS((rendezvous{{.run = "b", .rank = 0, .size = 2, .host = "127.0.0.1", .port = port}}), process_error);
}
