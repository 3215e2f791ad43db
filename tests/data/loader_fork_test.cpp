// A loader in a process that was forked after it was made.
#include <dm2/data/loader.hpp>

#include "data/picture_set.hpp"
#include "support/forked.hpp"

#include <doctest/doctest.h>

#include <cstddef>
#include <memory>
#include <stdexcept>

using namespace dm2;
using namespace dm2::test;

namespace {

std::size_t samples(loader& from) {
  std::size_t n = 0;
  from.start(0);
  while (batch const* const b = from.next()) n += std::size_t(b->size);
  return n;
}

template <class F>
bool refuses(F const& f) {
  try {
    f();
  } catch (std::logic_error const&) {
    return true;
  }
  return false;
}

}  // namespace

TEST_CASE(
    "loader: in a forked process it is refused and destroyed, and a new one works, while the old process goes on") {
  picture_set const files{10};
  dataset const set = files.plain();
  auto const make = [&] {
    return std::make_unique<loader>(set, loader_options{.mode = loading::evaluation, .batch = 3, .threads = 2},
                                    evaluation_sample_transform({4, 5}));
  };
  auto old = make();
  old->start(0);
  REQUIRE(old->next() != nullptr);
  CHECK(forked([&] {
    bool const refused = refuses([&] { (void)old->next(); }) && refuses([&] { old->start(1); });
    old.reset();
    auto const anew = make();
    return refused && samples(*anew) == 10;
  }));
  CHECK(samples(*old) == 10);
}
