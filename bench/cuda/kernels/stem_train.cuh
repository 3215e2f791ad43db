/// @file
/// Rows of the stem in training on tensor cores: both passes, and each of their kernels alone.
#pragma once

#include <dm2/cuda/stem_train.cuh>

#include "cuda/kernels/table.cuh"

#include <cstddef>
#include <string>
#include <type_traits>

namespace dm2::bench {

/// A stem with random parameters, and what its passes read and write.
template <stem_shape S>
struct stem_state {
  using T = cuda::element<cuda::precision::bf16>;
  static constexpr std::size_t numbers = std::size_t(S.hidden) * S.channels * 49 + 18 * S.hidden * S.hidden +
                                         6 * S.hidden + std::size_t(S.dim) * S.hidden * S.patch * S.patch / 4 + S.dim;
  random_array<float> parameters{numbers, 0.1f}, gradients{numbers}, statistics{6 * S.hidden, 0.1f, 1}, picture;
  random_array<T> grid, dgrid;
  cuda::device_memory memory;
  arena place;
  cuda::stem_saved<S, T> saved;

  explicit stem_state(int batch)
      : picture{std::size_t(batch) * S.channels * S.height * S.width},
        grid{std::size_t(batch) * S.tokens() * S.dim},
        dgrid{std::size_t(batch) * S.tokens() * S.dim, 1e-3f},
        memory{planned_bytes<cuda::stem_saved<S, T>>(batch)},
        place{memory.data(), memory.size()},
        saved{place, batch} {}

  template <class U>
  static stem_parameters<S, U, space::device> view(float* at) {
    stem_parameters<S, U, space::device> p;
    auto const take = [&at](auto& b) {
      b.data = at;
      at += b.size;
    };
    take(p.conv1);
    for (auto& b : p.conv) take(b);
    for (auto& b : p.bn_weight) take(b);
    for (auto& b : p.bn_bias) take(b);
    take(p.proj);
    take(p.proj_bias);
    return p;
  }
  [[nodiscard]] stem_statistics<S, float, space::device> running() const {
    stem_statistics<S, float, space::device> r;
    for (std::size_t i = 0; i < 3; ++i)
      r.mean[i].data = statistics.data() + i * S.hidden, r.var[i].data = statistics.data() + (3 + i) * S.hidden;
    return r;
  }
};

/// Times at 224 x 224 pixels: costs count that size's planes.
template <stem_shape S>
void stem_train_kernels(kernel_table& table, int batch) {
  using namespace dm2::cuda::detail;
  using T = cuda::element<cuda::precision::bf16>;
  static_assert(S.height == 224 && S.width == 224 && S.hidden == 64 && S.patch == 16);
  constexpr int Dim = S.dim;
  if (!table.wants("stem_train")) return;
  stem_state<S> s{batch};
  cuda::stream const& stream = table.stream();
  cuda::context<> ctx{stream.get()};
  auto const p = stem_state<S>::template view<float const>(s.parameters.data());
  auto const grad = stem_state<S>::template view<float>(s.gradients.data());
  auto const running = s.running();
  float const* const picture = s.picture.data();
  rows<T, Dim, space::device> const grid{s.grid.data(), std::size_t(batch) * S.tokens()};
  rows<T const, Dim, space::device> const dgrid{s.dgrid.data(), grid.count};
  // Planes of a convolution's size that a kernel moves, and multiply-adds a picture in millions.
  auto const cost = [&](double planes, double products) {
    return kernel_cost{planes * batch * 112 * 112 * 64 * 2, 2e6 * products * batch};
  };
  double const patches = 196e-6 * Dim * 4096;
  table.row("stem_train", "forward", cost(6.38, 1042.8 + patches), s.grid.data(), grid.size(),
            [&] { cuda::stem_forward_train(ctx, picture, p, running, grid, s.saved); });
  table.row(
      "stem_train", "backward", cost(19.38, 1967.6 + 2 * patches), grad.proj.data, std::size_t(grad.proj.size),
      [&] { cuda::stem_backward(ctx, picture, p, s.saved, dgrid, grad, nullptr); }, kernel_result::adds_up);

  std::size_t const bytes = planned_bytes<stem_train::tensor_scratch<S, T>>(ctx.device(), batch) +
                            planned_bytes<stem_train::tensor_gradients<S, T>>(ctx.device(), batch);
  cuda::device_memory const memory{bytes};
  arena place{memory.data(), bytes};
  stem_train::tensor_scratch<S, T> const scratch{place, ctx.device(), batch};
  stem_train::tensor_gradients<S, T> const d{place, ctx.device(), batch};
  auto const reader = reader_of<stem::geometry<S>>(picture);
  using reader_type = std::remove_const_t<decltype(reader)>;
  stem_train::tensor_forward<S, T, reader_type> const f{stream.get(), ctx.device(), p, s.saved, scratch, batch};
  stem_train::tensor_backward<S, T, reader_type> const b{stream.get(), ctx.device(), p, s.saved, d, batch};
  // Their results are the passes', which are checked above.
  auto const time = [&](char const* what, double planes, double products, auto const& work) {
    table.row("stem_train", what, cost(planes, products), s.grid.data(), 0, work, kernel_result::is_finite);
  };
  time("forward: weights", 0, 0, [&] { f.arrange(); });
  time("forward: 7 x 7", 1.38, 118, [&] { f.first(reader, running); });
  time("forward: 3 x 3, second", 2, 462.4,
       [&] { f.template inner<false>(1, stem_train::tile_order::upwards, running); });
  time("forward: 3 x 3, third", 2, 462.4,
       [&] { f.template inner<true>(2, stem_train::tile_order::downwards, running); });
  time("forward: projection", 1, patches, [&] { f.project(s.grid.data()); });
  time("backward: weights", 0, 0, [&] { b.arrange(); });
  time("backward: projection: weights", 1, patches, [&] { b.project_weights(dgrid.data, grad); });
  time("backward: projection: input", 2, patches, [&] { b.project_input(dgrid.data, grad); });
  time("backward: 3 x 3, third: weights", 4, 462.4, [&] { b.template weights<2, true>(d.dz[0], grad); });
  time("backward: 3 x 3, third: input", 3, 462.4, [&] { b.template input<2, true>(d.dz[0], d.dz[1], grad); });
  time("backward: 3 x 3, second: weights", 4, 462.4, [&] { b.template weights<1, false>(d.dz[1], grad); });
  time("backward: 3 x 3, second: input", 3, 462.4, [&] { b.template input<1, false>(d.dz[1], d.dz[0], grad); });
  time("backward: 7 x 7: weights", 2.38, 118, [&] { b.first_weights(reader, grad); });
}

}  // namespace dm2::bench
