#include <dm2/core/arena.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <stdexcept>

using namespace dm2;

namespace {

/// Buffers of a few types, as an operation's scratch has them.
struct some_plan {
  char* a;
  double* b;
  float* c;
  int* none;

  some_plan(arena& from, std::size_t n)
      : a{from.take<char>(n)}, b{from.take<double>(n + 1)}, c{from.take<float>(3 * n)}, none{from.take<int>(0)} {}
};

bool aligned(void const* p) { return reinterpret_cast<std::uintptr_t>(p) % arena::alignment == 0; }

}  // namespace

TEST_CASE("arena: pieces are aligned, apart, and inside the memory") {
  host_memory const memory{4096};
  arena a{memory.data(), memory.size()};
  some_plan const p{a, 7};
  CHECK(aligned(p.a));
  CHECK(aligned(p.b));
  CHECK(aligned(p.c));
  CHECK(reinterpret_cast<std::byte*>(p.a) == memory.data());
  CHECK(reinterpret_cast<std::byte*>(p.b) >= reinterpret_cast<std::byte*>(p.a + 7));
  CHECK(reinterpret_cast<std::byte*>(p.c) >= reinterpret_cast<std::byte*>(p.b + 8));
  CHECK(reinterpret_cast<std::byte*>(p.c + 21) <= memory.data() + a.used());
  CHECK(a.used() <= memory.size());
}

TEST_CASE("arena: a plan measures what it places, and fits exactly") {
  for (std::size_t const n : {0u, 1u, 7u, 64u, 1000u}) {
    std::size_t const bytes = planned_bytes<some_plan>(n);
    CHECK(bytes % arena::alignment == 0);
    host_memory const memory{bytes};
    arena a{memory.data(), memory.size()};
    some_plan const p{a, n};
    CHECK(a.used() == bytes);
    CHECK(p.b != nullptr);
    CHECK_THROWS_AS(a.take<char>(1), std::length_error);
  }
}

TEST_CASE("arena: measuring gives no memory") {
  arena ruler;
  some_plan const p{ruler, 9};
  CHECK(p.a == nullptr);
  CHECK(p.c == nullptr);
  CHECK(ruler.used() > 0);
}

TEST_CASE("arena: taking more than was planned throws and takes nothing") {
  host_memory const memory{128};
  arena a{memory.data(), memory.size()};
  a.take<char>(64);
  CHECK_THROWS_AS(a.take<char>(65), std::length_error);
  CHECK(a.used() == 64);
  CHECK(a.take<char>(64) != nullptr);
}

TEST_CASE("arena: a size that overflows throws, in one piece and as a sum") {
  constexpr std::size_t huge = std::numeric_limits<std::size_t>::max();
  arena ruler;
  CHECK_THROWS_AS(ruler.take<double>(huge), std::length_error);
  CHECK_THROWS_AS(ruler.take<double>(huge / 8), std::length_error);
  CHECK_THROWS_AS(ruler.take<char>(huge), std::length_error);
  CHECK(ruler.used() == 0);
  for (int i = 0; i < 3; ++i) ruler.take<char>(huge / 8);
  CHECK_THROWS_AS(([&] {
                    for (int i = 0; i < 9; ++i) ruler.take<char>(huge / 8);
                  }()),
                  std::length_error);
  CHECK(ruler.used() >= huge / 8 * 3);
  host_memory const memory{64};
  arena a{memory.data(), memory.size()};
  CHECK_THROWS_AS(a.take<double>(huge / 8), std::length_error);
  CHECK_THROWS_AS(a.take<char>(huge / 2), std::length_error);
}

TEST_CASE("arena: a scope gives back what was taken inside it, and the peak stays") {
  arena ruler;
  ruler.take<char>(64);
  {
    arena_scope const outer{ruler};
    ruler.take<char>(128);
    {
      arena_scope const inner{ruler};
      ruler.take<char>(256);
      CHECK(ruler.used() == 448);
    }
    CHECK(ruler.used() == 192);
  }
  CHECK(ruler.used() == 64);
  CHECK(ruler.peak() == 448);
}

TEST_CASE("arena: owned memory is aligned, zeroed, and moves") {
  host_memory a{100};
  CHECK(aligned(a.data()));
  CHECK(a.size() == 100);
  CHECK(std::all_of(a.data(), a.data() + 100, [](std::byte b) { return b == std::byte{0}; }));
  std::byte* const at = a.data();
  host_memory const b = std::move(a);
  CHECK(b.data() == at);
  CHECK(host_memory{}.data() == nullptr);
  CHECK(host_memory{0}.data() == nullptr);
}
