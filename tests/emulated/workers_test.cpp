/// @file
/// Tests of the threads that run emulated blocks.
#include "launch.hpp"

#include <doctest/doctest.h>
#include <pthread.h>

#include <atomic>
#include <cstddef>
#include <stdexcept>
#include <thread>
#include <vector>

namespace {

/// Bytes between a variable of this thread and its stack's end.
std::size_t stack_left() {
  pthread_attr_t attributes;
  REQUIRE(pthread_getattr_np(pthread_self(), &attributes) == 0);
  void* end = nullptr;
  std::size_t bytes = 0;
  CHECK(pthread_attr_getstack(&attributes, &end, &bytes) == 0);
  pthread_attr_destroy(&attributes);
  return std::size_t(reinterpret_cast<char*>(&bytes) - static_cast<char*>(end));
}

}  // namespace

TEST_CASE("emulated workers: a thread has 8 MB of stack besides all kernels' shared memory") {
  std::size_t left = 0;
  std::thread{[&] { left = stack_left(); }}.join();
  CHECK(left > (std::size_t{8} << 20) - (64u << 10));  // some KB are the C library's
}

TEST_CASE("emulated workers: work is called here, no more often than asked, and has ended on return") {
  for (std::size_t const others : {0, 1, 3, 40}) {
    std::atomic<std::size_t> calls{0}, here{0}, running{0};
    auto const caller = std::this_thread::get_id();
    for (int round = 0; round < 200; ++round) {
      calls = here = 0;
      emulated::workers::get().run(others, [&] {
        ++running;
        ++calls;
        if (std::this_thread::get_id() == caller) ++here;
        std::this_thread::yield();
        --running;
      });
      REQUIRE(running == 0);
      REQUIRE(here == 1);
      REQUIRE(calls <= others + 1);
    }
  }
}

TEST_CASE("emulated workers: launches of several threads at once have every block run once") {
  constexpr unsigned callers = 4, blocks = 13, threads = 64;
  std::vector<std::vector<std::atomic<unsigned>>> hits(callers);
  std::vector<std::thread> all;
  for (auto& mine : hits) {
    mine = std::vector<std::atomic<unsigned>>(blocks);
    all.emplace_back([&mine] {
      for (int launch = 0; launch < 50; ++launch)
        emulated::run_grid(dim3{blocks}, dim3{threads}, 0, false, [&mine] { ++mine[blockIdx.x]; });
    });
  }
  for (auto& t : all) t.join();
  for (auto const& mine : hits)
    for (auto const& n : mine) CHECK(n == 50 * threads);
}

TEST_CASE("emulated workers: what a block throws leaves the launch, and the next launch runs") {
  auto const fail = [] {
    if (blockIdx.x == 5) throw std::runtime_error{"block 5"};
  };
  CHECK_THROWS_WITH_AS(emulated::run_grid(dim3{9}, dim3{32}, 0, false, fail), "block 5", std::runtime_error);
  std::atomic<unsigned> hits{0};
  emulated::run_grid(dim3{9}, dim3{32}, 0, false, [&] { ++hits; });
  CHECK(hits == 9 * 32);
}
