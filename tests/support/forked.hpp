/// @file
/// A function run in a forked process.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <stdexcept>

namespace dm2::test {

/// Runs f, which returns a bool, in a forked process; returns its answer. What hangs for 30 s or crashes is false.
template <class F>
bool forked(F const& f) {
  pid_t const child = fork();
  if (child < 0) throw std::runtime_error{"fork failed"};
  if (child == 0) {
    alarm(30);
    bool good = false;
    try {
      good = f();
    } catch (...) {
    }
    _exit(good ? 0 : 1);
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child) throw std::runtime_error{"waitpid failed"};
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace dm2::test
