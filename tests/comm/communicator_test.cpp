// Messages between processes: the part that needs no other process. tests/comm/processes.cpp has the rest.
#include <dm2/comm/communicator.hpp>
#include <dm2/comm/waiting.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cstddef>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

TEST_CASE("a process alone gathers, receives and exchanges its own") {
  dm2::single_process alone;
  std::array<double, 3> const own{1.5, -2, 7};
  std::array<double, 3> all{};
  alone.gather("numbers", std::span<double const>{own}, std::span<double>{all});
  CHECK(all == own);

  std::array<int, 2> values{3, 4};
  alone.broadcast("numbers", std::span{values});
  CHECK(values == std::array{3, 4});
  alone.barrier("nothing");

  std::array<int, 2> got{};
  std::array const out{dm2::outgoing_message{0, std::as_bytes(std::span{values})}};
  std::array const in{dm2::incoming_message{0, std::as_writable_bytes(std::span{got})}};
  alone.exchange("numbers", out, in);
  CHECK(got == values);
}

TEST_CASE("a gather without room for every process names both sizes") {
  dm2::single_process alone;
  std::array<double, 3> const own{1, 2, 3};
  std::vector<double> all(4);
  CHECK_THROWS_WITH_AS(alone.gather("losses", std::span<double const>{own}, std::span<double>{all}),
                       "communicator: 'losses' gathers 3 values, there is room for 4", std::invalid_argument);
}

TEST_CASE("a message to itself of another length than its room is refused") {
  dm2::single_process alone;
  std::array<std::byte, 4> bytes{};
  std::array const out{dm2::outgoing_message{0, std::span{bytes}.first(3)}};
  std::array const in{dm2::incoming_message{0, std::span{bytes}}};
  CHECK_THROWS_AS(alone.exchange("bytes", out, in), std::invalid_argument);
}

TEST_CASE("the report names the missing process, the exchange, the step counted from 1, and when each was heard") {
  dm2::detail::waiting w{0, 3, 12.5};
  w.enter();
  std::array const missing{2};
  std::string const text = w.report("gradients", 17, missing);
  CHECK(
      text.starts_with("process 2 of 3 did not answer process 0 within 12.5 s in the exchange 'gradients' of step 18; "
                       "last heard: process 1 "));
  CHECK(text.find("process 2 ", 20) != std::string::npos);
  CHECK(text.find("process 0 0.") == std::string::npos);
  CHECK_FALSE(w.over());
}

TEST_CASE("without a deadline and without work a wait is over at once") {
  dm2::detail::waiting w{0, 2, 0};
  w.enter();
  w.leave();
  dm2::detail::waiting late{1, 2, -1};
  late.enter();
  CHECK(late.over());
}

}  // namespace
