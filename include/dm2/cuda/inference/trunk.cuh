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
#include <dm2/model/trunk.hpp>

#include <cstddef>
#include <type_traits>

namespace dm2::cuda::detail {

/// Activations of an evaluation of `batch` pictures.
template <config C, precision P>
struct inference_plan {
  using T = element<P>;
  std::size_t count;  ///< rows: batch * length
  float* residual;    ///< [count, dim]
  mixer_core::evaluation<P, sizes<C>::mixer> mixers;
  T* wide;      ///< [count, widest_input], what a core reads
  T* inner;     ///< [count, widest_output], what it writes
  T* features;  ///< [count, dim]

  inference_plan(arena& a, int batch)
      : count{std::size_t(batch) * sizes<C>::length},
        residual{a.take<float>(count * C.dim)},
        mixers{a, batch, sizes<C>::length},
        wide{a.take<T>(count * dm2::detail::widest_input<C>)},
        inner{a.take<T>(count * dm2::detail::widest_output<C>)},
        features{a.take<T>(count * C.dim)} {}
};

/// The trunk's steps over one set of weights and one plan, in the order of walk_trunk(). A mixer's core may leave its
/// norm to the step behind it.
template <config C, precision P>
class inference_steps {
  using mixer = dm2::detail::mixer_block<C>;
  using cores = mixer_core::evaluation<P, sizes<C>::mixer>;
  template <class Block>
  static constexpr bool is_mixer = std::is_same_v<Block, mixer>;
  template <class Block>
  static constexpr int units = is_mixer<Block> ? cores::units : 0;

 public:
  using T = element<P>;

  inference_steps(context<P>& ctx, inference_weights<C, P> const& weights, inference_plan<C, P> const& plan)
      : ctx_{ctx}, weights_{weights}, plan_{plan}, mixers_{plan.mixers}, net_{weights.view()} {
    weights.use(ctx_);
  }

  /// The first norm and input projection.
  template <class First>
  void first() {
    auto const in = input<First>(0);
    if constexpr (is_mixer<First>)
      if (mixers_.template project_into<C.dim, 0, 0>(
              ctx_, project_add_norm::norm_arguments<T>(point(), in, C.eps, wide<First>()), parameters(0), plan_.inner))
        return;
    norm_project(ctx_, point(), in, C.eps, wide<First>());
  }

  /// The core of block k.
  template <class Block>
  void core(int k) {
    if constexpr (is_mixer<Block>)
      squares_ = mixers_.run(ctx_, wide<Block>(), parameters(k), inner<Block>(), next_takes_squares(k), weights_.ones);
    else
      Block::core(ctx_, net_, dm2::detail::block_layer<C>(k), wide<Block>(), inner<Block>());
  }

  /// From the output of block k's core to the next one's input.
  template <class Block, class Next>
  void join(int k) {
    auto const out = output<Block>(k);
    auto const in = input<Next>(k + 1);
    if constexpr (is_mixer<Next>) {
      auto p = project_add_norm::with_addition<T, C.dim, Block::inner>(
          project_add_norm::norm_arguments<T>(point(), in, C.eps, wide<Next>()), inner<Block>(), out, residual());
      p.squares = left<Block>().parts;
      if (mixers_.template project_into<C.dim, Block::inner, units<Block>>(ctx_, p, parameters(k + 1), plan_.inner))
        return;
    }
    project_add_norm_project(ctx_, inner<Block>(), out, residual(), point(), in, C.eps, wide<Next>(), left<Block>());
  }

  /// From the output of block k's core, the last one, to the features.
  template <class Block>
  void last(int k) {
    cuda::project_add_norm(ctx_, inner<Block>(), output<Block>(k), residual(), point(),
                           get<final_layer<C>::norm>(net_.final()), C.eps,
                           rows<T, C.dim, space::device>{plan_.features, plan_.count}, left<Block>());
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
  [[nodiscard]] norm_projection<float const, Block::wide, C.dim, space::device, T const> input(int k) const {
    return dm2::cuda::operand(ctx_, Block::in(net_, dm2::detail::block_layer<C>(k)));
  }
  template <class Block>
  [[nodiscard]] linear_parameters<float const, C.dim, Block::inner, space::device, T const> output(int k) {
    int const layer = dm2::detail::block_layer<C>(k);
    if constexpr (is_mixer<Block>)
      return {block<T const, space::device, C.dim, Block::inner>{weights_.merged[std::size_t(layer)]}, {}};
    else
      return Block::out(ctx_, net_, layer, static_cast<T*>(nullptr));
  }
  [[nodiscard]] auto parameters(int k) const { return mixer::core_parameters(net_, dm2::detail::block_layer<C>(k)); }
  /// The squares that the last core left.
  template <class Block>
  [[nodiscard]] row_squares<units<Block>> left() const {
    if constexpr (is_mixer<Block>)
      return squares_;
    else
      return {};
  }
  /// Whether what follows block k, a mixer, applies the factor of its norm.
  [[nodiscard]] bool next_takes_squares(int k) const {
    if constexpr (cores::units == 0) return false;
    if (k + 1 == dm2::detail::block_count<C>) return takes_squares_into<0>();
    bool takes = false;
    dm2::detail::with_block<C>(k + 1, [&]<class Next>() { takes = takes_squares_into<Next::wide>(); });
    return takes;
  }
  template <int Wide>
  [[nodiscard]] bool takes_squares_into() const {
    return takes_squares<C.dim, mixer::inner, Wide, cores::units>(ctx_, plan_.count);
  }

  context<P>& ctx_;
  inference_weights<C, P> const& weights_;
  inference_plan<C, P> const& plan_;
  cores mixers_;
  network_view<C, float const, space::device> net_;
  row_squares<cores::units> squares_;
};

/// Pictures to features [batch * length, dim], left in plan.features. `pictures` is what stem_tokens takes.
template <config C, precision P, class Pictures>
void inference_features(context<P>& ctx, inference_weights<C, P> const& weights, Pictures const& pictures,
                        inference_plan<C, P> const& plan) {
  using tokens = token_layer<C>;
  auto const p = weights.view().tokens();
  stem_tokens(ctx, pictures, weights.stem, get<tokens::cls_token>(p), get<tokens::pos_embed>(p),
              rows<float, C.dim, space::device>{plan.residual, plan.count});
  dm2::detail::walk_trunk<C>(inference_steps<C, P>{ctx, weights, plan});
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
