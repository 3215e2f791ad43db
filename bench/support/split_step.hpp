/// @file
/// A training step with a clock between its parts. As the trainer takes it: from label maps to averaged weights.
#pragma once

#include "support/numbers.hpp"
#include "support/random_model.hpp"
#include "support/relative_error.hpp"

#include <dm2/model/training_pass.hpp>
#include <dm2/train/ema.hpp>
#include <dm2/train/optimizer.hpp>
#include <dm2/train/sparse_target.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <memory>
#include <vector>

namespace dm2::bench {

/// The parts of a step, in their order; the counters are sorted by name.
enum part : std::size_t {
  targets,
  stem,
  trunk,
  heads,
  loss,
  heads_back,
  trunk_back,
  stem_back,
  update,
  average,
  parts
};
inline constexpr std::array<char const*, parts> part_names{"a_targets", "b_stem",       "c_trunk",      "d_heads",
                                                           "e_loss",    "f_heads_back", "g_trunk_back", "h_stem_back",
                                                           "i_update",  "j_average"};

/// The calls of a step one by one, with a clock between them.
template <config C>
class split_step {
  using context = cpu::context<float>;
  using tokens = dm2::token_layer<C>;
  template <int Width>
  using matrix = rows<float, Width>;
  static constexpr int height = sizes<C>::stem.grid_height(), width = sizes<C>::stem.grid_width();
  static constexpr int side = 14;  ///< cells of the label map
  static constexpr mix_box box{0, height / 2, 1, width - 1};

 public:
  split_step(int batch, int threads, optimizer_options rule)
      : net_{1, context{threads}},
        count_{std::size_t(batch)},
        pictures_{normal<float>(count_ * net_.pixels, 2)},
        map_{random_map()},
        memory_{planned_bytes<dm2::detail::training_plan<C, dm2::cpu::context<float>>>(batch)},
        arena_{memory_.data(), memory_.size()},
        plan_{arena_, batch},
        gradients_{state_extent<C>},
        optimizer_{rule},
        average_{net_} {
    fill_random<C>(net_.state().data());
  }

  void operator()() {
    mark_ = clock::now();
    clear(net_.ctx(), gradients_.data(), gradients_.size());
    make_targets();
    forward();
    backward();
    bool const finite = std::isfinite(sum_of_squares(net_.ctx(), gradients_.data(), gradients_.size()));
    if (finite) optimizer_.step(net_, {gradients_.data(), gradients_.size()}, 1e-7);
    done(update);
    average_.step(net_);
    done(average);
  }

  /// Against training_pass, which makes the same calls: 0 where loss and gradients have the same bits.
  double error() {
    auto const other = std::make_unique<model<C, context>>(1, context{net_.ctx().threads()});
    std::copy(net_.state().begin(), net_.state().end(), other->state().begin());
    make_targets();
    forward();
    backward();
    training_pass<C, context> pass{*other, int(count_)};
    pass.forward(pictures_.span(), box);
    double const want = pass.loss(targets_.rows());
    pass.backward();
    double const off = relative_error(gradients_.span(), pass.gradients());
    return loss_ == want ? off : 1;
  }

  /// Forgets the times so far.
  void restart() { seconds_.fill(0); }
  void report(benchmark::State& state) const {
    double all = 0;
    for (double s : seconds_) all += s;
    for (std::size_t p = 0; p < parts; ++p) state.counters[part_names[p]] = seconds_[p] / all;
    state.counters["pictures/s"] = benchmark::Counter(double(count_), benchmark::Counter::kIsIterationInvariantRate);
  }

 private:
  using clock = std::chrono::steady_clock;

  /// Scores up to 20 for random classes.
  static std::vector<float> random_map() {
    constexpr std::size_t half = std::size_t(label_map<float>::top) * side * side;
    auto const score = uniform<float>(half, 3, 0, 20), index = uniform<float>(half, 4, 0, float(C.classes));
    std::vector<float> out(score.span().begin(), score.span().end());
    for (float v : index.span()) out.push_back(std::min(std::floor(v), float(C.classes - 1)));
    return out;
  }
  void done(part p) {
    auto const now = clock::now();
    seconds_[p] += std::chrono::duration<double>(now - mark_).count();
    mark_ = now;
  }

  void make_targets() {
    targets_.clear();
    for (std::size_t i = 0; i < count_; ++i)
      targets_.add(label_map<float>{map_, side, side}, crop_fraction{0.1, 0.2, 0.6, 0.7}, int(i) % C.classes, height,
                   width, crop_convention::published);
    done(targets);
  }
  void forward() {
    auto& ctx = net_.ctx();
    auto const all = net_.view();
    network_view<C, float const> const weights{all};
    matrix<C.dim> const grid{plan_.grid, count_ * sizes<C>::tokens};
    stem_forward_train(ctx, pictures_.data(), dm2::detail::stem_operands(weights), dm2::detail::stem_running(all), grid,
                       plan_.stem);
    done(stem);
    mix_tokens(ctx, grid, height, width, box);
    assemble_tokens(ctx, grid, get<tokens::cls_token>(weights.tokens()), get<tokens::pos_embed>(weights.tokens()),
                    matrix<C.dim>{plan_.trunk.residual[0], plan_.trunk.count});
    dm2::detail::trunk_forward(ctx, weights, plan_.trunk);
    done(trunk);
    training_heads(ctx, matrix<C.dim>{plan_.trunk.features, plan_.trunk.count}, dm2::detail::head_operands(weights),
                   cls(), aux(), sizes<C>::length);
    mix_tokens(ctx, aux(), height, width, box);
    done(heads);
  }
  void backward() {
    auto& ctx = net_.ctx();
    network_view<C, float const> const weights{net_.view()};
    network_view<C, float> const grad{gradients_.data()};
    loss_ = token_label_loss(ctx, rows<float const, C.classes>{cls()}, aux(), targets_.rows(), box, cls(), aux(), 1);
    done(loss);
    matrix<C.dim> const dfeatures{plan_.dfeatures, plan_.trunk.count};
    mix_tokens(ctx, aux(), height, width, box);
    training_heads_backward(ctx, matrix<C.dim>{plan_.trunk.features, plan_.trunk.count},
                            dm2::detail::head_operands(weights), cls(), aux(), dfeatures,
                            dm2::detail::head_operands(grad), sizes<C>::length);
    done(heads_back);
    dm2::detail::trunk_backward(ctx, weights, plan_.trunk, rows<float const, C.dim>{dfeatures}, plan_.gradient, grad);
    matrix<C.dim> const dgrid{plan_.grid, count_ * sizes<C>::tokens};
    assemble_tokens_backward(ctx, matrix<C.dim>{plan_.gradient.residual, plan_.trunk.count}, dgrid,
                             get<tokens::cls_token>(grad.tokens()), get<tokens::pos_embed>(grad.tokens()));
    mix_tokens(ctx, dgrid, height, width, box);
    done(trunk_back);
    stem_backward(ctx, pictures_.data(), dm2::detail::stem_operands(weights), plan_.stem, dgrid,
                  dm2::detail::stem_operands(grad), static_cast<float*>(nullptr));
    done(stem_back);
  }
  [[nodiscard]] matrix<C.classes> cls() const { return {plan_.cls, count_}; }
  [[nodiscard]] matrix<C.classes> aux() const { return {plan_.aux, count_ * sizes<C>::tokens}; }

  model<C, context> net_;
  std::size_t count_;
  buffer<float> pictures_;
  std::vector<float> map_;
  host_memory memory_;
  arena arena_;
  dm2::detail::training_plan<C, dm2::cpu::context<float>> plan_;
  buffer<float> gradients_;
  optimizer<C, context> optimizer_;
  ema<C, context> average_;
  sparse_targets<float> targets_{C.classes};
  double loss_ = 0;
  clock::time_point mark_{};
  std::array<double, parts> seconds_{};
};

}  // namespace dm2::bench
