// A stranger's program: a small model of its own, run on one picture of noise. other.cpp includes dm2 as well, so that
// a function that is defined in a header without `inline` does not link.
#include <dm2/demansia.hpp>

#include <cstdio>

int classify_noise();

int main() {
  int const top = classify_noise();
  std::printf("class %d\n", top);
  return top >= 0 && top < 10 ? 0 : 1;
}
