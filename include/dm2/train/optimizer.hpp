/// @file
/// Lion and AdamW over a model's flat buffers.
#pragma once

#include <dm2/comm/communicator.hpp>
#include <dm2/core/error.hpp>
#include <dm2/core/optimizer_options.hpp>
#include <dm2/core/parameters.hpp>
#include <dm2/model/model.hpp>
#include <dm2/model/parameter_table.hpp>
#include <dm2/train/parameter_groups.hpp>
#include <dm2/train/state_slices.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dm2 {

/// Throws std::invalid_argument naming the option with which the rules divide by zero, or move away from the minimum.
inline void require_optimizer_options(optimizer_options const& o) {
  auto const require_beta = [](char const* what, double beta) {
    detail::require_option(beta >= 0 && beta < 1, what, beta, "at least 0 and below 1");
  };
  require_beta("optimizer: beta1", o.beta1);
  require_beta("optimizer: beta2", o.beta2);
  auto const require_number = [](char const* what, double number) {
    detail::require_option(number >= 0 && number < HUGE_VAL, what, number, "a number of at least 0");
  };
  require_number("optimizer: weight_decay", o.weight_decay);
  require_number("optimizer: clip_norm", o.clip_norm);
  if (o.kind == optimizer_kind::adamw)  // a parameter without a gradient is moved by 0 / eps
    detail::require_option(o.eps > 0 && o.eps < HUGE_VAL, "optimizer: eps", o.eps, "a number above 0");
}

/// Moves a model's parameters by their gradients. Holds the momenta in buffers that are laid out as the model's state.
template <config C, class Context>
class optimizer {
 public:
  /// The type of parameters, gradients and momenta.
  using scalar = typename Context::scalar;

  /// Takes the buffers, all zero. Throws std::invalid_argument as require_optimizer_options and parameter_groups do.
  explicit optimizer(optimizer_options const& options = {})
      : options_{(require_optimizer_options(options), options)},
        groups_{parameter_table<C>, options_},
        runs_{groups_.runs([&](parameter_entry const& e) {
          return options.shared_pairs && (detail::opens_pair(e.name) || detail::closes_pair(e.name));
        })},
        first_{state_extent<C> * sizeof(scalar)},
        second_{options.kind == optimizer_kind::adamw ? state_extent<C> * sizeof(scalar) : 0} {}

  /// The same, with the types from a model: `dm2::optimizer rule{net, {.weight_decay = 0.1}}`.
  explicit optimizer(model<C, Context> const& net, optimizer_options const& options = {}) : optimizer{options} {
    static_cast<void>(net);
  }

  /// One step with the gradients [state_extent], which are scaled in place where they are clipped. What is frozen
  /// (tuning_options) has no part in it: neither weights nor momenta are touched, and the norm is the others'.
  ///
  /// Returns  the gradients' norm over the trained parameters, before clipping, where clipping is on; else 0.
  /// Throws   shape_error if the size is another, std::invalid_argument for a rate below 0 or none at all,
  ///          std::logic_error if the optimizer or the model was moved from; nothing is changed then.
  double step(model<C, Context>& net, std::span<scalar> gradients, double lr) {
    return step(net, gradients, lr, whole_state<C>, one_process());
  }
  /// The same of one slice, with its gradients [own.size()]: every process of `processes` calls it with its own, and
  /// gets the same norm. The other slices of weights and momenta stay as they are. Throws process_error, too.
  double step(model<C, Context>& net, std::span<scalar> gradients, double lr, state_slice own,
              communicator& processes) {
    require_extent("optimizer.step.gradients", gradients.size(), own.size());
    detail::require_option(lr >= 0 && lr < HUGE_VAL, "optimizer.step: lr", lr, "a number of at least 0");
    detail::require_memory(first_.size() != 0, "dm2::optimizer");
    static_cast<void>(net.state());
    double const norm = options_.clip_norm > 0 ? clip(net.state_ctx(), gradients, own, processes) : 0;
    ++steps_;
    auto const move = [&](detail::update_run const& run) {
      std::size_t const first = std::max(run.offset, own.first), end = std::min(run.offset + run.size, own.end);
      if (first < end)
        update(net.state_ctx(), net.state().data() + first, gradients.data() + (first - own.first),
               {first, end - first, run.group}, lr);
    };
    for (detail::update_run const& run : runs_) move(run);
    if (options_.shared_pairs) move_pairs(net, own, move);
    return norm;
  }

  /// Lion's momentum, or AdamW's first moment.
  [[nodiscard]] std::span<scalar> momentum() { return view(first_); }
  /// AdamW's second moment; empty for Lion.
  [[nodiscard]] std::span<scalar> second_moment() { return view(second_); }
  /// Steps taken.
  [[nodiscard]] std::int64_t steps() const { return steps_; }
  /// Sets the steps taken, when a run is resumed; AdamW's bias correction depends on them.
  void set_steps(std::int64_t steps) { steps_ = steps; }
  /// The options as given.
  [[nodiscard]] optimizer_options const& options() const { return options_; }
  /// What is moved with which rate and decay.
  [[nodiscard]] parameter_groups const& groups() const { return groups_; }

 private:
  using state_context = typename model<C, Context>::state_context;
  using buffer = typename state_context::buffer;

  static std::span<scalar> view(buffer& b) { return {reinterpret_cast<scalar*>(b.data()), b.size() / sizeof(scalar)}; }

  /// Squares are added tensor by tensor, in the table's order: a tensor is in one slice, so that the sum does not
  /// depend on how many slices there are.
  double clip(state_context& ctx, std::span<scalar> gradients, state_slice own, communicator& processes) {
    auto const& table = parameter_table<C>;
    std::vector<double> squares(table.size());
    for (std::size_t i = 0; i < table.size(); ++i)
      if (groups_.moves(i) && own.holds(table[i]))
        squares[i] = sum_of_squares(ctx, gradients.data() + (table[i].offset - own.first), table[i].size);
    std::vector<double> all(squares.size() * std::size_t(processes.size()));
    processes.gather("gradient norm", std::span<double const>{squares}, std::span{all});
    double square = 0;
    for (std::size_t i = 0; i < table.size(); ++i)
      for (std::size_t at = i; at < all.size(); at += table.size()) square += all[at];  // all but the owner's are 0
    double const norm = std::sqrt(square), factor = options_.clip_norm / (norm + 1e-6);
    if (factor < 1) scale(ctx, gradients.data(), gradients.size(), factor);
    return norm;
  }

  void update(state_context& ctx, scalar* p, scalar const* g, detail::update_run const& at, double lr) {
    parameter_group const& group = groups_.groups()[at.group];
    optimizer_options const own = detail::with_decay(options_, group.decay);
    optimizer_run<scalar> run{p, g, momentum().data() + at.offset, nullptr, at.size};
    if (options_.kind == optimizer_kind::lion) return lion_step(ctx, run, own, lr * group.scale);
    run.second = second_moment().data() + at.offset;
    adamw_step(ctx, run, own, lr * group.scale, steps_);
  }

  template <class Move>
  void move_pairs(model<C, Context>& net, state_slice own, Move const& move) {
    for (std::size_t i = 0; i + 1 < parameter_table<C>.size(); ++i) {
      parameter_entry const &a = parameter_table<C>[i], &b = parameter_table<C>[i + 1];
      if (!detail::opens_pair(a.name) || !own.holds(a) || !groups_.moves(i)) continue;
      auto const share = [&](parameter_entry const& from, parameter_entry const& to) {
        copy(net.state_ctx(), net.state().data() + from.offset, from.size, net.state().data() + to.offset);
      };
      move({a.offset, a.size, groups_.of(i)});
      share(a, b);
      move({b.offset, b.size, groups_.of(i + 1)});
      share(b, a);
    }
  }

  optimizer_options options_;
  parameter_groups groups_;
  std::vector<detail::update_run> runs_;
  buffer first_, second_;
  std::int64_t steps_ = 0;
};

}  // namespace dm2
