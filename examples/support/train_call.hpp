/// @file
/// Training as a call, for other languages: the command line's words in, exceptions out.
#pragma once

#include <string>
#include <vector>

namespace dm2::example {

/// Trains as `train WORDS...` does, in this process, and returns its exit code where that is not told by an exception:
/// exit_ok, exit_incomplete after --check, exit_diverged, exit_stopped. What the program prints on the way is printed.
/// No signal is handled: whoever wants one to end the run sets stop_requested.
///
/// Throws CLI::ParseError, usage_error, and what the parts throw.
extern "C" int train_by_words(std::vector<std::string> words);

}  // namespace dm2::example
