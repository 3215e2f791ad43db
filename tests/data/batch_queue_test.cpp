// The queue behind the loader after something went wrong.
#include <dm2/data/batch_queue.hpp>

#include <doctest/doctest.h>

#include <cstddef>
#include <stdexcept>

using dm2::detail::batch_queue, dm2::detail::batch_slot;

namespace {
void fill(batch_slot&, int) {}
}  // namespace

TEST_CASE("batch queue: an error of prepare in mid-epoch comes at every call, and a new epoch begins without it") {
  batch_queue queue{2, 2, fill};
  bool failing = true;
  auto const prepare = [&](batch_slot& slot) {
    if (failing && slot.content.number == 3) throw std::runtime_error{"no memory"};
    slot.content.resize(1, false);
  };
  queue.stop();
  queue.start(0, 8, prepare);
  CHECK(queue.next() != nullptr);
  CHECK(queue.next() != nullptr);
  CHECK_THROWS_WITH_AS((void)queue.next(), "no memory", std::runtime_error);  // batch 1 goes back, and 3 has no room
  for (int again = 0; again < 3; ++again) CHECK_THROWS_AS((void)queue.next(), std::runtime_error);
  failing = false;
  queue.stop();
  queue.start(0, 8, prepare);
  int batches = 0;
  while (queue.next() != nullptr) ++batches;
  CHECK(batches == 8);
}

TEST_CASE("batch queue: an error of prepare at the start leaves an epoch without batches, not one that waits") {
  batch_queue queue{2, 2, fill};
  queue.stop();
  CHECK_THROWS_AS(queue.start(0, 8, [](batch_slot&) { throw std::runtime_error{"no memory"}; }), std::runtime_error);
  CHECK(queue.next() == nullptr);
}

TEST_CASE("batch queue: an error of fill comes at every call") {
  batch_queue queue{2, 2, [](batch_slot& slot, int) {
                      if (slot.content.number == 1) throw std::runtime_error{"unreadable"};
                    }};
  queue.stop();
  queue.start(0, 8, [](batch_slot& slot) { slot.content.resize(2, false); });
  CHECK_THROWS_AS(
      {
        for (int i = 0; i < 8; ++i) (void)queue.next();
      },
      std::runtime_error);
  for (int again = 0; again < 3; ++again) CHECK_THROWS_AS((void)queue.next(), std::runtime_error);
}
