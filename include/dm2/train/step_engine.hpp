/// @file
/// How the training loop's steps are computed: micro-batches, optimizer, average. A backend with memory of its own
/// specialises it.
#pragma once

#include <dm2/comm/communicator.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/data/batch.hpp>
#include <dm2/model/training_pass.hpp>
#include <dm2/train/ema.hpp>
#include <dm2/train/gradient_sum.hpp>
#include <dm2/train/optimizer.hpp>
#include <dm2/train/running_statistics.hpp>
#include <dm2/train/sparse_target.hpp>
#include <dm2/train/state_slices.hpp>
#include <dm2/train/steps.hpp>
#include <dm2/train/token_label_target.hpp>

#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

namespace dm2 {

/// The steps of a run, on the host: each is done when its call returns.
///
/// Several processes compute a step together: a round of micro-batches at a time, of which process r has the round's
/// number r. Losses, statistics and gradients are added in the order of the micro-batches, so that the bytes of a run
/// do not depend on the number of processes. Each process moves its slice of the state, and gives it to the others.
///
/// Model, optimizer and average are the caller's and outlive the engine. A backend that keeps copies of them elsewhere
/// brings theirs up to date in pull(), and takes over theirs in push().
template <config C, class Context>
class step_engine {
 public:
  /// The type of weights and gradients.
  using scalar = typename Context::scalar;

  /// Takes all its memory.
  step_engine(model<C, Context>& net, optimizer<C, Context>& rule, ema<C, Context>& average, step_options options,
              communicator& processes = one_process())
      : net_{net},
        optimizer_{rule},
        average_{average},
        options_{options},
        processes_{processes},
        frozen_stem_{rule.options().tuning.frozen > 0},
        pass_{net, options.batch, rule.options().tuning.frozen},
        targets_{C.classes, options.smoothing},
        sum_{processes, cut_state<C>(processes.size()), options.accumulate} {}
  step_engine(step_engine const&) = delete;
  step_engine& operator=(step_engine const&) = delete;

  /// Computes the gradients of `scale` times the batch's loss: this process's part of a round.
  ///
  /// Shapes   b.size is the options' batch; box lies in the patch grid.
  /// Throws   shape_error if a size disagrees or a class is out of range.
  void micro_batch(batch const& b, mix_box box, double scale) {
    detail::require_batch(b, options_.batch, C.image);
    if (b.is_raw())
      throw std::logic_error{"dm2::step_engine: the host takes finished pictures, the loader leaves raw ones"};
    auto const begin = std::chrono::steady_clock::now();
    compute(b, box, scale);
    computing_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

  /// Adds up a round of `count` micro-batches, of which this process has computed its own, where it has one. `first` is
  /// the place of the first. `stop`: whether this process was asked to stop; the step's result says it of them all.
  ///
  /// Throws   non_finite, on every process, if a loss or a gradient is not; a backend whose work goes on behind the
  /// call
  ///          throws it from a later one. process_error.
  void finish_round(int count, step_place first, bool stop = false) {
    report_[2] = stop ? 1 : 0;
    std::vector<double> all(report_.size() * std::size_t(processes_.size()));
    processes_.gather("losses", std::span<double const>{report_}, std::span{all});
    auto const of = [&](int r) { return std::span{all}.subspan(std::size_t(r) * report_.size(), report_.size()); };
    for (int r = 0; r < count; ++r)
      if (of(r)[1] != 0) {
        step_place at = first;
        at.batch += std::size_t(r);
        throw non_finite{of(r)[1] == double(finding::loss) ? "loss" : "gradient", at, r};
      }
    for (int r = 0; r < processes_.size(); ++r) result_.stop = result_.stop || of(r)[2] != 0;
    if (result_.losses.empty()) sum_.begin();
    for (int r = 0; r < count; ++r) {
      result_.losses.push_back(of(r)[0]);
      if (!frozen_stem_) statistics_.move(net_.state(), of(r).subspan(3));
    }
    // the forward has counted this process's own
    for (std::int64_t& n : net_.counters())
      if (!frozen_stem_) n += count - (processes_.rank() < count ? 1 : 0);
    sum_.add_round(pass_.gradients(), count);
  }

  /// Ends a step: the optimizer moves the weights, the average follows. Throws std::logic_error without a micro-batch,
  /// process_error.
  void finish_step(double rate) {
    if (result_.losses.empty()) throw std::logic_error{"dm2::step_engine: a step without a micro-batch"};
    result_.gradient_norm = optimizer_.step(net_, sum_.sum(), rate, sum_.own(), processes_);
    average_.step(net_, sum_.own());
    sum_.share("weights", net_.state());
    done_ = std::exchange(result_, {});
  }

  /// The result of the oldest finished step that has not been asked for, where it is known; with `wait`, waits until it
  /// is. Nothing where there is none.
  [[nodiscard]] std::optional<step_result> next_result(bool wait) {
    static_cast<void>(wait);
    return std::exchange(done_, std::nullopt);
  }

  /// Brings the caller's model, optimizer and average up to date, on every process. Throws process_error.
  void pull() {
    sum_.share("momentum", optimizer_.momentum());
    sum_.share("second moment", optimizer_.second_moment());
    sum_.share("average", average_.state());
  }
  /// Takes over the caller's model, optimizer and average.
  void push() {}
  /// The pictures of the latest micro-batch.
  [[nodiscard]] std::span<scalar const> pictures() const { return pictures_; }
  /// Gradients of the latest micro-batch, on the host.
  [[nodiscard]] std::span<scalar const> gradients() { return pass_.gradients(); }

  /// Seconds that the micro-batches took so far.
  [[nodiscard]] double seconds_computing() const { return computing_; }

 private:
  void compute(batch const& b, mix_box box, double scale) {
    pass_.clear_gradients();
    pictures_.assign(b.pictures.begin(), b.pictures.end());
    fill_targets(b);
    if (!frozen_stem_) statistics_.begin(net_.state());
    pass_.forward(pictures_, box);
    if (!frozen_stem_) statistics_.end(net_.state(), std::span{report_}.subspan(3));
    report_[0] = pass_.loss(targets_.rows(), scale);
    report_[1] = double(std::isfinite(report_[0]) ? finding::none : finding::loss);
    if (report_[1] != 0) return;
    pass_.backward();
    if (!std::isfinite(sum_of_squares(net_.ctx(), gradients().data(), gradients().size())))
      report_[1] = double(finding::gradient);
  }
  void fill_targets(batch const& b) {
    constexpr int height = sizes<C>::stem.grid_height(), width = sizes<C>::stem.grid_width();
    targets_.clear();
    for (int i = 0; i < b.size; ++i) {
      int const label = b.labels[std::size_t(i)];
      if (b.maps.empty())
        targets_.add(label, sizes<C>::tokens);
      else
        targets_.add(b.map_at(i), b.crops[std::size_t(i)], label, height, width, options_.crops);
    }
  }

  /// What a micro-batch's numbers are.
  enum class finding : unsigned char { none, loss, gradient };

  model<C, Context>& net_;
  optimizer<C, Context>& optimizer_;
  ema<C, Context>& average_;
  step_options options_;
  communicator& processes_;
  bool frozen_stem_;  ///< then BatchNorm's statistics and counts stay as they are
  training_pass<C, Context> pass_;
  sparse_targets<scalar> targets_;
  std::vector<scalar> pictures_;
  gradient_sum<scalar> sum_;
  running_statistics<C, scalar> statistics_;
  std::vector<double> report_ = std::vector<double>(3 + statistic_count<C>);  ///< loss, finding, stop, statistics
  step_result result_;
  std::optional<step_result> done_;
  double computing_ = 0;
};

}  // namespace dm2
