// Going on with a training checkpoint.
#include <dm2/cpu/context.hpp>
#include <dm2/train/training_checkpoint.hpp>

#include "fuzz/support.hpp"
#include "fuzz/targets.hpp"
#include "support/configurations.hpp"

#include <filesystem>
#include <span>
#include <vector>

namespace dm2::fuzz {
namespace {

using context = cpu::context<float>;

/// What a run consists of.
struct run_state {
  model<test::small_config, context> net{1, context{1}};
  ema<test::small_config, context> average{net};
  optimizer<test::small_config, context> rule{optimizer_options{}};
};
run_state& state() {
  static run_state one;
  return one;
}

bool resume(std::span<std::byte const> bytes) {
  run_state& s = state();
  memory_file const file{bytes};
  (void)reads(file.path(), [&] {
    checkpoint_head const head = read_checkpoint_head(file.path());
    if (head.epoch < 0 || head.next_batch > std::size_t(detail::most_steps)) finding("a place that no run has");
  });
  (void)reads(file.path(), [&] { (void)verify_checkpoint(file.path()); });
  return reads(file.path(), [&] { (void)resume_training(file.path(), s.net, s.average, s.rule); });
}

}  // namespace

void write_checkpoint_seed(std::filesystem::path const& path) {
  run_state& s = state();
  save_training(path, s.net, s.average, s.rule, {{"epoch", 3}, {"next_batch", 7}}, {});
}

std::vector<target> resume_targets() { return {{"resume", resume}}; }

}  // namespace dm2::fuzz
