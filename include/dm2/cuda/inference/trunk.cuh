/// @file
/// The network's forward pass on the GPU: pictures to tokens, the trunk, the heads.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/attention_core.cuh>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/gated_activation.cuh>
#include <dm2/cuda/heads.cuh>
#include <dm2/cuda/inference/weights.cuh>
#include <dm2/cuda/mixer_core.cuh>
#include <dm2/cuda/project_add_norm.cuh>
#include <dm2/cuda/stem.cuh>
#include <dm2/model/blocks.hpp>
#include <dm2/model/config.hpp>

#include <algorithm>
#include <cstddef>
#include <type_traits>
#include <utility>

namespace dm2::cuda::detail {

/// Activations of an evaluation of `batch` pictures.
template <config C, precision P>
struct inference_plan {
  using T = element<P>;
  std::size_t count;  ///< rows: batch * length
  float* residual;    ///< [count, dim]
  mixer_core::scratch<T, sizes<C>::mixer> core;
  T* wide;                 ///< [count, widest_input], what a core reads
  T* inner;                ///< [count, widest_output], what it writes
  T* features;             ///< [count, dim]
  T* convolved = nullptr;  ///< scratch of mixer_core::launch_few

  inference_plan(arena& a, int batch)
      : count{std::size_t(batch) * sizes<C>::length},
        residual{a.take<float>(count * C.dim)},
        core{a, count, sizes<C>::length},
        wide{a.take<T>(count * dm2::detail::widest_input<C>)},
        inner{a.take<T>(count * dm2::detail::widest_output<C>)},
        features{a.take<T>(count * C.dim)} {
    if constexpr (mixer_core::few_possible<T,
                                           sizes<C>::mixer>)  // for larger batches too: a plan holds every smaller one
      convolved = a.take<T>(mixer_core::few_numbers<sizes<C>::mixer>(
          std::size_t(std::min(batch, mixer_core::few_most)) * sizes<C>::length));
  }
};

/// The trunk over one set of weights and one plan: as a whole, or step by step.
template <config C, precision P>
class inference_trunk {
  using mixer = dm2::detail::mixer_block<C>;
  static constexpr mixer_shape shape = sizes<C>::mixer;
  using core_traits = mixer_core::traits<element<P>, shape>;
  template <class Block>
  static constexpr bool is_mixer = std::is_same_v<Block, mixer>;

 public:
  using T = element<P>;

  inference_trunk(context<P>& ctx, inference_weights<C, P> const& weights, inference_plan<C, P> const& plan)
      : ctx_{ctx}, weights_{weights}, plan_{plan}, net_{weights.view()} {
    weights.use(ctx_);
  }

  /// From the tokens in plan.residual to plan.features.
  void run() {
    constexpr int last = dm2::detail::block_count<C> - 1;
    dm2::detail::with_block<C>(0, [&]<class First>() { begin<First>(); });
    for (int k = 0; k <= last; ++k)
      dm2::detail::with_block<C>(k, [&]<class Block>() {
        int const layer = dm2::detail::block_layer<C>(k);
        bool const scaled = core<Block>(layer);
        if (k == last) return finish<Block>(layer, scaled);
        dm2::detail::with_block<C>(k + 1, [&]<class Next>() {
          project_add_norm_project<Block, Next>(layer, dm2::detail::block_layer<C>(k + 1), scaled);
        });
      });
  }

  /// The first norm and input projection.
  template <class First>
  void begin() {
    auto const in = input<First>(0);
    if (few_into_mixer<0, 0, First>(
            arguments(nullptr, nullptr, in.norm.data, in.in.weight.data, in.in.bias.data, plan_.wide), 0))
      return;
    norm_project(ctx_, point(), in, C.eps, wide<First>());
  }

  /// One block's core. True if what it wrote still lacks its norm's factor.
  template <class Block>
  bool core(int layer) {
    if constexpr (is_mixer<Block>) {
      auto p = mixer::core_parameters(net_, layer);
      if constexpr (mixer_core::few_possible<T, shape>) {
        if (few_sequences()) {
          bool const convolves = !std::exchange(convolved_, false);
          if (ctx_.reserve(0)) mixer_core::launch_few<shape>(ctx_, few_arguments(layer), convolves);
          return true;
        }
      }
      if constexpr (core_traits::possible) {
        if (mixer_core::fits<T, shape>(ctx_.device(), sizes<C>::length)) {
          p.forward.norm = p.backward.norm = {};  // the output projection has their weights
          int const sequences = int(plan_.count) / sizes<C>::length;
          auto const states = mixer_core::state_packets<T, shape>(ctx_.device(), sequences, sizes<C>::length);
          if (!ctx_.reserve(states * sizeof(uint4) + arena::alignment)) return true;
          arena_scope const scope{ctx_.shared()};
          auto scratch = plan_.core;
          scratch.states = ctx_.shared().template take<uint4>(states);
          return !mixer_core::launch_tensor<P, shape>(ctx_, plan_.wide, p, plan_.inner, scratch, sequences,
                                                      sizes<C>::length, !scales_after(layer));
        }
      }
      p.forward.norm = p.backward.norm = block<float const, space::device, sizes<C>::d_inner>{weights_.ones};
      cuda::mixer_core<shape>(ctx_, wide<Block>(), p, inner<Block>(), sizes<C>::length);
    } else {
      Block::core(ctx_, net_, layer, wide<Block>(), inner<Block>());
    }
    return false;
  }

  /// Whether the kernel behind a layer's mixer applies the factor of its norm.
  [[nodiscard]] bool scales_after(int layer) const {
    int const next = (C.mlp_dim == 0 ? layer : 2 * layer) + 1;
    if (next == dm2::detail::block_count<C>) return scales_behind_mixer<0>();
    bool scales = false;
    dm2::detail::with_block<C>(next, [&]<class Next>() { scales = scales_behind_mixer<Next::wide>(); });
    return scales;
  }
  template <int Wide>
  [[nodiscard]] bool scales_behind_mixer() const {
    constexpr int K = mixer::inner, U = core_traits::units;
    if constexpr (shape.groups == 1)  // they have one factor for all channels of a direction
      return project_add_norm::take_squares<T, C.dim, K, Wide, U>(ctx_.device(), plan_.count);
    else
      return false;
  }

  /// From a core's output to the next one's input.
  template <class Block, class Next>
  void project_add_norm_project(int layer, int next, bool scaled) {
    auto const out = output<Block>(layer);
    auto const in = input<Next>(next);
    auto p = arguments(out.weight.data, out.bias.data, in.norm.data, in.in.weight.data, in.in.bias.data, plan_.wide);
    if constexpr (is_mixer<Block>) {
      if (scaled) {
        p.squares = plan_.core.squares;
        if (few_into_mixer<Block::inner, core_traits::units, Next>(p, next) || run_scaled<Next::wide>(p)) return;
      }
    } else {
      if (few_into_mixer<Block::inner, 0, Next>(p, next)) return;
    }
    cuda::project_add_norm_project(ctx_, inner<Block>(), out, residual(), point(), in, C.eps, wide<Next>());
  }

  /// From the last core's output to the features.
  template <class Block>
  void finish(int layer, bool scaled) {
    auto const out = output<Block>(layer);
    auto const norm = get<final_layer<C>::norm>(net_.final());
    if constexpr (is_mixer<Block>) {
      if (scaled) {
        auto p = arguments(out.weight.data, nullptr, norm.data, nullptr, nullptr, plan_.features);
        p.squares = plan_.core.squares;
        if (run_scaled<0>(p)) return;
      }
    }
    cuda::project_add_norm(ctx_, inner<Block>(), out, residual(), point(), norm, C.eps,
                           rows<T, C.dim, space::device>{plan_.features, plan_.count});
  }

 private:
  [[nodiscard]] rows<float, C.dim, space::device> residual() const { return {plan_.residual, plan_.count}; }
  [[nodiscard]] norm_point<float, C.dim, space::device> point() const { return {residual(), nullptr}; }
  template <class Block>
  [[nodiscard]] rows<T, Block::wide, space::device> wide() const {
    return {plan_.wide, plan_.count};
  }
  template <class Block>
  [[nodiscard]] rows<T, Block::inner, space::device> inner() const {
    return {plan_.inner, plan_.count};
  }
  template <class Block>
  [[nodiscard]] norm_projection<float const, Block::wide, C.dim, space::device, T const> input(int layer) const {
    return dm2::cuda::operand(ctx_, Block::in(net_, layer));
  }
  template <class Block>
  [[nodiscard]] linear_parameters<float const, C.dim, Block::inner, space::device, T const> output(int layer) {
    if constexpr (is_mixer<Block>)
      return {block<T const, space::device, C.dim, Block::inner>{weights_.merged[std::size_t(layer)]}, {}};
    else
      return Block::out(ctx_, net_, layer, static_cast<T*>(nullptr));
  }

  /// project_add_norm's, but for the sums of squares; null where there is no such product.
  [[nodiscard]] project_add_norm::arguments<T> arguments(T const* out, float const* out_bias, float const* norm,
                                                         T const* in, float const* in_bias, T* y) const {
    return {.g = plan_.inner,
            .out = out,
            .out_bias = out_bias,
            .before = plan_.residual,
            .after = plan_.residual,
            .norm = norm,
            .in = in,
            .in_bias = in_bias,
            .y = y,
            .count = int(plan_.count),
            .eps = float(C.eps)};
  }

  /// Whether mixer_core::launch_few is the way to do these sequences.
  [[nodiscard]] bool few_sequences() const {
    return mixer_core::few_fits<T, shape>(ctx_.device(), int(plan_.count) / sizes<C>::length, sizes<C>::length);
  }
  [[nodiscard]] mixer_core::few_arguments<T> few_arguments(int layer) const {
    return mixer_core::few_arguments_of(plan_.wide, mixer::core_parameters(net_, layer), plan_.convolved, plan_.inner,
                                        plan_.core.squares, int(plan_.count) / sizes<C>::length, sizes<C>::length);
  }
  /// From a core of K channels (0: from the tokens), whose halves the squares of U units scale, to the input of layer
  /// `next`, convolved as well, where that is a mixer that takes few sequences; else false.
  template <int K, int U, class Next>
  bool few_into_mixer(project_add_norm::arguments<T> const& p, int next) {
    if constexpr (is_mixer<Next> && few_input_possible<K, U>) {
      if (!few_sequences() ||
          project_add_norm::few_row_tiles<T, C.dim, K, Next::wide, U>(ctx_.device(), plan_.count) != 1 ||
          !project_add_norm::few_aligned(p))
        return false;
      convolved_ = true;
      if (!ctx_.reserve(0)) return true;
      if constexpr (K != 0) project_add_norm::launch_few_add<C.dim, K, U, 1>(ctx_, p);
      mixer_core::launch_few_input<C.dim, shape>(ctx_, p, few_arguments(next));
      return true;
    }
    return false;
  }
  template <int K, int U>
  static constexpr bool few_input_possible = mixer_core::few_possible<T, shape>&&
      mixer_core::few_input_traits<T, C.dim, shape>::possible&& project_add_norm::few_possible<T, C.dim, K, 0, U, 1>;

  /// One kernel behind a mixer that left its norm's factor out; where there is none for these sizes, applies the
  /// factor and returns false.
  template <int Wide>
  bool run_scaled(project_add_norm::arguments<T> const& p) {
    constexpr int K = mixer::inner, U = core_traits::units;
    if constexpr (shape.groups == 1) {
      if (project_add_norm::try_kernels<C.dim, K, Wide, U>(ctx_, p)) return true;
    }
    if constexpr (core_traits::possible) {
      if (ctx_.reserve(0))
        mixer_core::scale_by_squares<P, shape>(ctx_, plan_.inner, plan_.core.squares, nullptr, nullptr,
                                               int(plan_.count));
    }
    return false;
  }

  context<P>& ctx_;
  inference_weights<C, P> const& weights_;
  inference_plan<C, P> const& plan_;
  network_view<C, float const, space::device> net_;
  bool convolved_ = false;  ///< plan_.convolved is that of the next core
};

/// Pictures to features [batch * length, dim], left in plan.features. `pictures` is what stem_tokens takes.
template <config C, precision P, class Pictures>
void inference_features(context<P>& ctx, inference_weights<C, P> const& weights, Pictures const& pictures,
                        inference_plan<C, P> const& plan) {
  using tokens = token_layer<C>;
  auto const p = weights.view().tokens();
  stem_tokens(ctx, pictures, weights.stem, get<tokens::cls_token>(p), get<tokens::pos_embed>(p),
              rows<float, C.dim, space::device>{plan.residual, plan.count});
  inference_trunk<C, P>{ctx, weights, plan}.run();
}

/// Features to logits [batch, classes]: head(class token) + max over patches of aux_head / 2.
template <config C, precision P>
void inference_heads(context<P>& ctx, inference_weights<C, P> const& weights, inference_plan<C, P> const& plan,
                     rows<float, C.classes, space::device> logits) {
  weights.use(ctx);
  evaluation_heads(ctx, rows<element<P>, C.dim, space::device>{plan.features, plan.count},
                   operand(ctx, dm2::detail::head_operands(weights.view())), logits, sizes<C>::length);
}

}  // namespace dm2::cuda::detail
