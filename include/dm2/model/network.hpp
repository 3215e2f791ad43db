/// @file
/// The whole network over any backend: pictures to logits, training forward, backward.
///
/// The operations are the backend's, found in the context's namespace by argument-dependent lookup.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/model/config.hpp>
#include <dm2/model/layers.hpp>
#include <dm2/model/parameter_table.hpp>
#include <dm2/model/trunk.hpp>

#include <cstddef>

namespace dm2::detail {

template <config C, class T, space S>
stem_parameters<sizes<C>::stem, T, S> stem_operands(network_view<C, T, S> net) {
  using layer = stem_layer<C>;
  auto const p = net.stem();
  return {get<layer::conv1>(p),
          {get<layer::conv2>(p), get<layer::conv3>(p)},
          {get<layer::bn1_weight>(p), get<layer::bn2_weight>(p), get<layer::bn3_weight>(p)},
          {get<layer::bn1_bias>(p), get<layer::bn2_bias>(p), get<layer::bn3_bias>(p)},
          get<layer::proj>(p),
          get<layer::proj_bias>(p)};
}

template <config C, class T, space S>
stem_statistics<sizes<C>::stem, T, S> stem_running(network_view<C, T, S> net) {
  using layer = stem_layer<C>;
  auto const p = net.stem();
  return {{get<layer::bn1_mean>(p), get<layer::bn2_mean>(p), get<layer::bn3_mean>(p)},
          {get<layer::bn1_var>(p), get<layer::bn2_var>(p), get<layer::bn3_var>(p)}};
}

template <config C, class T, space S>
head_parameters<T, C.classes, C.dim, S> head_operands(network_view<C, T, S> net) {
  using layer = head_layer<C>;
  auto const p = net.head();
  return {{get<layer::weight>(p), get<layer::bias>(p)}, {get<layer::aux_weight>(p), get<layer::aux_bias>(p)}};
}

/// Activations of an evaluation.
template <config C, class T>
struct evaluation_plan {
  T* grid;  ///< [batch * tokens, dim]
  trunk_activations<C, T> trunk;

  evaluation_plan(arena& a, int batch)
      : grid{a.take<T>(std::size_t(batch) * sizes<C>::tokens * C.dim)}, trunk{a, batch, false} {}
};

/// Activations and gradients of a training pass.
template <config C, class Context>
struct training_plan {
  using T = typename Context::scalar;
  using E = typename Context::element;
  E* grid;  ///< [batch * tokens, dim], and its gradient
  typename Context::template stem_saved<sizes<C>::stem> stem;
  trunk_activations<C, T, E> trunk;
  trunk_gradients<C, T, E> gradient;
  E* dfeatures;  ///< [batch * length, dim]
  T* cls;        ///< logits [batch, classes]
  E* aux;        ///< logits [batch * tokens, classes]
  T* dcls;       ///< their gradients, in the same memory as the logits
  E* daux;

  training_plan(arena& a, int batch)
      : grid{a.take<E>(std::size_t(batch) * sizes<C>::tokens * C.dim)},
        stem{a, batch},
        trunk{a, batch, true, Context::keeps_mixer_factors},
        gradient{a, trunk.count},
        dfeatures{a.take<E>(trunk.count * C.dim)},
        cls{a.take<T>(std::size_t(batch) * C.classes)},
        aux{a.take<E>(std::size_t(batch) * sizes<C>::tokens * C.classes)},
        dcls{cls},
        daux{aux} {}
};

/// `frozen`, where it is 0 to depth + 1. Throws std::invalid_argument where it is not.
template <config C>
int checked_frozen(int frozen) {
  require_option(frozen >= 0 && frozen <= C.depth + 1, "training_pass: frozen", frozen, "0 to depth + 1");
  return frozen;
}

/// Runs the stem's `operations`, which come before and after all of the trunk's: where the backend can lend, their
/// scratch lies where the trunk's cores have theirs.
template <class Context, class Trunk, class F>
void with_cores_lent(Context& ctx, Trunk const& trunk, F const& operations) {
  if constexpr (requires { ctx.lend(trunk.cores, trunk.core_bytes, operations); })
    ctx.lend(trunk.cores, trunk.core_bytes, operations);
  else
    operations();
}

/// pictures [batch, channels, height, width] to features [batch * length, dim], left in plan.trunk.features.
template <config C, class Context, class T, space S>
void forward_features(Context& ctx, network_view<C, T const, S> net, T const* pictures,
                      evaluation_plan<C, T> const& plan) {
  using tokens = token_layer<C>;
  std::size_t const patches = plan.trunk.count / sizes<C>::length * sizes<C>::tokens;
  rows<T, C.dim, S> const grid{plan.grid, patches};
  stem_forward(ctx, pictures, stem_operands(net), stem_running(net), grid);
  assemble_tokens(ctx, grid, get<tokens::cls_token>(net.tokens()), get<tokens::pos_embed>(net.tokens()),
                  plan.trunk.template point<S>(0).residual);
  trunk_forward(ctx, net, plan.trunk);
}

/// features to logits [batch, classes]: head(class token) + max over patches of aux_head / 2.
template <config C, class Context, class T, space S>
void forward_heads(Context& ctx, network_view<C, T const, S> net, evaluation_plan<C, T> const& plan,
                   rows<T, C.classes, S> logits) {
  rows<T, C.dim, S> const features{plan.trunk.features, logits.count * sizes<C>::length};
  evaluation_heads(ctx, features, head_operands(net), logits, sizes<C>::length);
}

/// Training forward: plan.cls and plan.aux receive the logits, the patches' mixed back to their own samples unless
/// the backend's loss does without. The batch
/// is the plan's; BatchNorm uses the batch's statistics and moves the running ones in `net`, or, where the stem is
/// among the `frozen` layers, uses the running ones and moves nothing. `box` is what the backend's mix_tokens takes.
template <config C, class Context, class T, space S, class Pictures, class Box>
void forward_train(Context& ctx, network_view<C, T, S> net, Pictures const& pictures, Box const& box,
                   training_plan<C, Context> const& plan, int frozen = 0) {
  using tokens = token_layer<C>;
  using E = typename Context::element;
  network_view<C, T const, S> const weights{net};
  std::size_t const batch = plan.trunk.count / sizes<C>::length, patches = batch * sizes<C>::tokens;
  constexpr int height = sizes<C>::stem.grid_height(), width = sizes<C>::stem.grid_width();
  rows<E, C.dim, S> const grid{plan.grid, patches};
  with_cores_lent(ctx, plan.trunk, [&] {
    if (frozen == 0)
      stem_forward_train(ctx, pictures, stem_operands(weights), stem_running(net), grid, plan.stem);
    else
      stem_forward_frozen(ctx, pictures, stem_operands(weights), stem_running(net), grid, plan.stem);
  });
  mix_tokens(ctx, grid, height, width, box);
  assemble_tokens(ctx, grid, get<tokens::cls_token>(weights.tokens()), get<tokens::pos_embed>(weights.tokens()),
                  plan.trunk.template point<S>(0).residual);
  trunk_forward(ctx, weights, plan.trunk);
  rows<E, C.classes, S> const aux{plan.aux, patches};
  training_heads(ctx, rows<E, C.dim, S>{plan.trunk.features, plan.trunk.count}, operand(ctx, head_operands(weights)),
                 rows<T, C.classes, S>{plan.cls, batch}, aux, sizes<C>::length);
  if constexpr (!Context::loss_takes_mixed) mix_tokens(ctx, aux, height, width, box);
}

/// Backward from plan.dcls and plan.daux (the gradients of what forward_train left in cls and aux). Adds to grad;
/// dpictures [batch, channels, height, width] may be null, and is not written where a layer is frozen. So many layers
/// from the stem on are `frozen` (tuning_options): the pass ends above them.
template <config C, class Context, class T, space S, class Pictures, class Box>
void backward(Context& ctx, network_view<C, T const, S> net, Pictures const& pictures, Box const& box,
              training_plan<C, Context> const& plan, network_view<C, T, S> grad, T* dpictures, int frozen = 0) {
  using tokens = token_layer<C>;
  using E = typename Context::element;
  std::size_t const batch = plan.trunk.count / sizes<C>::length, patches = batch * sizes<C>::tokens;
  constexpr int height = sizes<C>::stem.grid_height(), width = sizes<C>::stem.grid_width();
  rows<T, C.classes, S> const dcls{plan.dcls, batch};
  rows<E, C.classes, S> const daux{plan.daux, patches};
  rows<E, C.dim, S> const features{plan.trunk.features, plan.trunk.count}, dfeatures{plan.dfeatures, plan.trunk.count};
  if constexpr (!Context::loss_takes_mixed) mix_tokens(ctx, daux, height, width, box);
  training_heads_backward(ctx, features, operand(ctx, head_operands(net)), dcls, daux, dfeatures, head_operands(grad),
                          sizes<C>::length);
  if (frozen > C.depth) return;
  trunk_backward(ctx, net, plan.trunk, rows<E const, C.dim, S>{dfeatures}, plan.gradient, grad, first_block<C>(frozen));
  if (frozen > 0) return;
  rows<E, C.dim, S> const dgrid{plan.grid, patches};
  assemble_tokens_backward(ctx, rows<T, C.dim, S>{plan.gradient.residual, plan.trunk.count}, dgrid,
                           get<tokens::cls_token>(grad.tokens()), get<tokens::pos_embed>(grad.tokens()));
  mix_tokens(ctx, dgrid, height, width, box);
  with_cores_lent(ctx, plan.trunk, [&] {
    stem_backward(ctx, pictures, stem_operands(net), plan.stem, dgrid, stem_operands(grad), dpictures);
  });
}

}  // namespace dm2::detail
