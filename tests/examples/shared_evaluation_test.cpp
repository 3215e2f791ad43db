// Who counts which pictures where several processes evaluate, and what all of them learn of one that fails.
#include "../../examples/support/shared_evaluation.hpp"
#include "../../examples/support/processes.hpp"

#include "comm/thread_processes.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <vector>

using namespace dm2::example;
using namespace dm2::test;

TEST_CASE("picture_deal: each picture has one owner, and batches are whole ones of the set") {
  for (std::size_t const pictures : {0, 1, 15, 16, 17, 70})
    for (std::size_t const batch : {1, 3, 16, 100})
      for (std::size_t const world : {1, 2, 3, 7}) {
        CAPTURE(pictures);
        CAPTURE(batch);
        CAPTURE(world);
        std::vector<std::size_t> owned(world, 0);
        for (std::size_t i = 0; i < pictures; ++i) {
          picture_deal const first{pictures, batch, 0, world};
          picture_deal const its{pictures, batch, first.owner(i), world};
          CHECK(its.owns(i));
          CHECK(its.place(i) == owned[its.rank]++);  // in the set's order
          CHECK(its.number(its.place(i)) == i);
          CHECK(its.place(i) < its.most());
          CHECK(its.owner(i) == its.owner(i / batch * batch));
        }
      }
}

TEST_CASE("gather_counts: every process has the counts of all pictures, in the set's order") {
  for (int const world : {1, 2, 4}) {
    std::vector<int> right(std::size_t(world), 0);
    as_processes(world, [&](dm2::communicator& self) {
      picture_deal const deal{11, 3, std::size_t(self.rank()), std::size_t(world)};
      std::vector<dm2::evaluation> own;
      for (std::size_t i = 0; i < deal.pictures; ++i)
        if (deal.owns(i)) own.push_back({1, i, 2 * i, 0.5 * double(i)});
      auto const all = gather_counts(self, deal, own);
      bool good = all.size() == deal.pictures;
      for (std::size_t i = 0; good && i < all.size(); ++i)
        good = all[i].top1 == i && all[i].loss_sum == 0.5 * double(i);
      right[std::size_t(self.rank())] = good ? 1 : 0;
    });
    CHECK(std::count(right.begin(), right.end(), 1) == world);
  }
}

TEST_CASE("gather_speed: the pictures of all in the time of the slowest") {
  std::array<run_speed, 2> seen;
  as_processes(2, [&](dm2::communicator& self) {
    seen[std::size_t(self.rank())] =
        gather_speed(self, self.rank() == 0 ? run_speed{10, 2.0, 1.0} : run_speed{20, 4.0, 0.5});
  });
  for (run_speed const& s : seen) {
    CHECK(s.pictures == 30);
    CHECK(s.seconds == 4.0);
    CHECK(s.waiting == 0.75);
  }
}

TEST_CASE("together: where one process fails, all of them throw what it said") {
  std::array<std::string, 3> said;
  auto const run = [&](auto const& body) {
    said = {};
    as_processes(3, [&](dm2::communicator& self) {
      std::string& text = said[std::size_t(self.rank())];
      try {
        together(self, [&] { body(self.rank()); });
      } catch (usage_error const& e) {
        text = std::string{"usage: "} + e.what();
      } catch (std::exception const& e) {
        text = e.what();
      }
    });
  };
  run([](int) {});
  CHECK(said == std::array<std::string, 3>{});
  run([](int rank) {
    if (rank == 1) throw std::runtime_error{"a disk is gone"};
  });
  CHECK(said == std::array<std::string, 3>{"process 1: a disk is gone", "a disk is gone", "process 1: a disk is gone"});
  run([](int rank) {
    if (rank == 2) throw usage_error{"no such class"};
  });
  CHECK(said == std::array<std::string, 3>{"usage: no such class", "usage: no such class", "usage: no such class"});
}
