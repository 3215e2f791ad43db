// dm2.train's compiled part: the program's train command as a call.
#include "../../../examples/support/command_line.hpp"
#include "../../../examples/support/stop_signal.hpp"
#include "../../../examples/support/train_call.hpp"
#include "bound.hpp"

#include <csignal>
#include <string>
#include <vector>

#include <signal.h>

namespace dm2::python {

namespace {

/// While it lives, SIGINT ends the run after the present step, a second one at once; then Python's handler is back.
class interrupt_guard {
 public:
  interrupt_guard() {
    example::stop_requested = false;
    struct sigaction wanted {};
    wanted.sa_handler = [](int) {
      if (example::stop_requested) std::_Exit(128 + SIGINT);
      example::stop_requested = true;
    };
    wanted.sa_flags = SA_RESTART;
    ::sigaction(SIGINT, &wanted, &before_);
  }
  interrupt_guard(interrupt_guard const&) = delete;
  interrupt_guard& operator=(interrupt_guard const&) = delete;
  ~interrupt_guard() {
    ::sigaction(SIGINT, &before_, nullptr);
    example::stop_requested = false;
  }

 private:
  struct sigaction before_ {};
};

int train(std::vector<std::string> const& words) {
  nb::gil_scoped_release const released;
  interrupt_guard const guard;
  return example::train_by_words(words);
}

}  // namespace

void add_training(nb::module_& m) {
  m.def("train", train, nb::arg("words"),
        "Trains as `dm2 train WORDS...`; 0: done, 1: --check found something, 4: diverged, 5: stopped.");
}

}  // namespace dm2::python
