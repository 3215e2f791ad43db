/// @file
/// The end of a training step on the device.
///
/// The gradient's norm, the optimizer, the average, and a step's result, which the host reads later.
#pragma once

#include <dm2/cuda/check.cuh>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/finite_guard.cuh>
#include <dm2/cuda/device/memory.cuh>
#include <dm2/cuda/device/stream.cuh>
#include <dm2/cuda/memory.cuh>
#include <dm2/cuda/optimizer_step.cuh>
#include <dm2/cuda/token_label_loss.cuh>
#include <dm2/cuda/training/network.cuh>
#include <dm2/cuda/training/rounds.cuh>
#include <dm2/cuda/training/update_lines.cuh>
#include <dm2/train/optimizer.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace dm2::cuda {

/// What a step came to.
struct step_outcome {
  std::vector<double> losses;  ///< of its micro-batches
  double gradient_norm = 0;    ///< before clipping
  bad_number bad{};            ///< what was not finite, in this step or an earlier one
  bool stop = false;           ///< a process was asked to stop, before this step's end or earlier
};

/// The optimizer's and the average's buffers of a training_network, and the results of its steps on their way to the
/// host: the results of one step are fetched while the next is computed.
template <config C, precision P>
class training_rule {
 public:
  /// Steps that may be under way.
  static constexpr std::size_t depth = 2;

  /// Takes all memory. `micro_batches`: the most of a step. `scale` is what the gradients are multiplied by.
  training_rule(training_network<C, P>& net, training_rounds<C, P>& rounds, optimizer_options const& options,
                int micro_batches, double scale)
      : net_{net},
        rounds_{rounds},
        options_{options},
        groups_{parameter_table<C>, options},
        grouped_{!groups_.uniform(options)},
        most_{std::size_t(micro_batches)},
        scale_{scale},
        first_{bytes},
        second_{options.kind == optimizer_kind::adamw ? bytes : 0},
        average_{bytes},
        lines_{lines_bytes},
        line_groups_{grouped_ ? extent / update_line::size : 0},
        squares_{rounds.alone() ? 0 : extent / update_line::size * sizeof(double)},
        status_{planned_bytes<status>(most_, groups_.groups().size())},
        pinned_{depth * slot_bytes()} {
    auto const lines = update_lines<C>(options);
    check(cudaMemcpy(lines_.data(), lines.data(), lines_bytes, cudaMemcpyHostToDevice), "optimizer: lines");
    auto const of = line_groups<C>(groups_, options);
    if (grouped_)
      check(cudaMemcpy(line_groups_.data(), of.data(), of.size(), cudaMemcpyHostToDevice), "optimizer: groups");
  }

  /// Momentum or first moment, second moment (null for Lion) and average on the device.
  [[nodiscard]] float* first() const { return reinterpret_cast<float*>(first_.data()); }
  /// @copydoc first
  [[nodiscard]] float* second() const { return reinterpret_cast<float*>(second_.data()); }
  /// @copydoc first
  [[nodiscard]] float* average() const { return reinterpret_cast<float*>(average_.data()); }

  /// Enqueues what step `number`, counted from 1, begins with. At most `depth` steps may be under way.
  void begin(std::int64_t number) {
    host_slot const h = slot(begun_ % depth);
    done_[begun_ % depth].synchronize();
    *h.scalars = step_scalars{0, 0, 0, 0, number};
    upload(h);
  }
  /// Where the loss of the micro-batch goes that runs now, and where it reports what is not finite.
  [[nodiscard]] token_label_sums* sums() const { return device().sums; }
  /// @copydoc sums
  [[nodiscard]] finite_check check_of() const { return {device().guard, &device().scalars->step, 0}; }
  /// Enqueues the end of a round of `count` micro-batches, before which the step had `done`. Throws process_error.
  /// `stop`: whether this process was asked to stop.
  void finish_round(int count, std::size_t done, bool stop = false) {
    status const s = device();
    rounds_.finish(count, done == 0, stop, s.sums, {s.losses + done, s.guard, s.stop});
  }

  /// Enqueues the optimizer's step, after which the gradients are zero, and the way of its results to the host. Throws
  /// process_error.
  void step(std::int64_t number, double lr, double average_decay) {
    std::size_t const at = begun_++ % depth;
    host_slot const h = slot(at);
    // The stream has read the slot's first scalars only when it comes by: these lie beside them.
    *h.last_scalars = make_step_scalars(options_, number, lr, average_decay);
    copy(net_.ctx(), h.last_scalars, 1, device().scalars);
    upload_rates(h, number, lr);
    if (!rounds_.alone() || !graph_) enqueue_step();  // kernels are loaded
    if (!rounds_.alone()) {
      // between its parts are messages
    } else if (!graph_) {
      graph_.emplace(net_.stream(), [&] { enqueue_step(); });
    } else {
      graph_->launch(net_.stream().get());
    }
    copy(net_.ctx(), device().losses, most_, h.losses);
    copy(net_.ctx(), device().measure, 1, h.measure);
    copy(net_.ctx(), device().guard, 1, h.guard);
    copy(net_.ctx(), device().stop, 1, h.stop);
    done_[at].record(net_.stream().get());
  }

  /// Whether the oldest step's results are there; with `wait`, when they are.
  [[nodiscard]] bool ready(bool wait) const {
    event const& e = done_[read_ % depth];
    if (wait) e.synchronize();
    return wait || e.done();
  }
  /// The oldest step's results; ready() was true.
  [[nodiscard]] step_outcome read(std::size_t micro_batches) {
    host_slot const h = slot(read_++ % depth);
    step_outcome out;
    for (std::size_t i = 0; i < micro_batches; ++i) out.losses.push_back(h.losses[i].loss);
    out.gradient_norm = options_.clip_norm > 0 ? h.measure->norm : 0;
    out.stop = *h.stop != 0;
    out.bad = h.guard->step == 0 ? bad_number::none : h.guard->what;
    return out;
  }

  /// Bytes on the device.
  [[nodiscard]] std::size_t bytes_held() const {
    return first_.size() + second_.size() + average_.size() + lines_.size() + line_groups_.size() + squares_.size() +
           status_.size();
  }

 private:
  static constexpr std::size_t extent = state_extent<C>, bytes = extent * sizeof(float);
  static constexpr std::size_t lines_bytes = extent / update_line::size * sizeof(std::uint16_t);

  /// A step's small things on the device.
  struct status {
    step_scalars* scalars;
    gradient_measure* measure;
    finite_guard* guard;
    token_label_sums *sums, *losses;
    int* stop;
    group_rates* rates;  ///< of each group

    status(arena& a, std::size_t most, std::size_t groups)
        : scalars{a.take<step_scalars>(1)},
          measure{a.take<gradient_measure>(1)},
          guard{a.take<finite_guard>(1)},
          sums{a.take<token_label_sums>(1)},
          losses{a.take<token_label_sums>(most)},
          stop{a.take<int>(1)},
          rates{a.take<group_rates>(groups)} {}
  };
  /// Their copies on the host.
  struct host_slot {
    step_scalars *scalars, *last_scalars;
    gradient_measure* measure;
    finite_guard* guard;
    token_label_sums* losses;
    int* stop;
    group_rates* rates;

    host_slot(arena& a, std::size_t most, std::size_t groups)
        : scalars{a.take<step_scalars>(1)},
          last_scalars{a.take<step_scalars>(1)},
          measure{a.take<gradient_measure>(1)},
          guard{a.take<finite_guard>(1)},
          losses{a.take<token_label_sums>(most)},
          stop{a.take<int>(1)},
          rates{a.take<group_rates>(groups)} {}
  };

  [[nodiscard]] status device() const {
    arena a{status_.data(), status_.size()};
    return {a, most_, groups_.groups().size()};
  }
  [[nodiscard]] std::size_t slot_bytes() const { return planned_bytes<host_slot>(most_, groups_.groups().size()); }
  [[nodiscard]] host_slot slot(std::size_t i) const {
    arena a{pinned_.data() + i * slot_bytes(), slot_bytes()};
    return {a, most_, groups_.groups().size()};
  }
  void upload(host_slot const& h) { copy(net_.ctx(), h.scalars, 1, device().scalars); }
  void upload_rates(host_slot const& h, std::int64_t number, double lr) {
    if (!grouped_) return;
    auto const groups = groups_.groups();
    for (std::size_t i = 0; i < groups.size(); ++i)
      h.rates[i] = make_group_rates(options_, number, lr, groups[i].scale, groups[i].decay);
    copy(net_.ctx(), h.rates, groups.size(), device().rates);
  }
  void enqueue_step() {
    status const s = device();
    state_slice const own = rounds_.own();
    auto const* const lines = reinterpret_cast<std::uint16_t const*>(lines_.data());
    auto const* const own_lines = lines + own.first / update_line::size;
    measure_options const o{options_.clip_norm, scale_, finite_check{s.guard, &s.scalars->step, 0}};
    if (rounds_.alone()) {
      measure_gradients(net_.ctx(), rounds_.sum(), lines, extent, o, s.measure);
    } else {
      double* const squares = reinterpret_cast<double*>(squares_.data());
      measure_line_squares(net_.ctx(), rounds_.sum(), own_lines, own.size(), squares + own.first / update_line::size);
      rounds_.share("gradient norm", squares, update_line::size);
      measure_from_lines(net_.ctx(), squares, lines, extent, o, s.measure);
    }
    update_buffers<element<P>> const buffers{
        .weights = net_.state() + own.first,
        .gradients = rounds_.sum(),
        .first = first() + own.first,
        .second = options_.kind == optimizer_kind::adamw ? second() + own.first : nullptr,
        .average = average() + own.first,
        .rounded = is_half<element<P>> ? net_.copies() + own.first : nullptr};
    grouped_lines groups;
    if (grouped_)
      groups = {reinterpret_cast<std::uint8_t const*>(line_groups_.data()) + own.first / update_line::size, s.rates};
    optimizer_step(net_.ctx(), options_, buffers, {own_lines, groups}, own.size(), s.scalars, s.measure, s.guard,
                   rounds_.sum_is_gradients());
    if (rounds_.alone()) return;
    rounds_.share("weights", net_.state());
    net_.round_copies();
  }

  training_network<C, P>& net_;
  training_rounds<C, P>& rounds_;
  optimizer_options options_;
  parameter_groups groups_;
  bool grouped_;  ///< whether lines have groups of their own
  std::size_t most_;
  double scale_;
  device_memory first_, second_, average_, lines_, line_groups_, squares_, status_;
  pinned_memory pinned_;
  std::array<event, depth> done_;
  std::optional<graph> graph_;
  std::size_t begun_ = 0, read_ = 0;
};

}  // namespace dm2::cuda
