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

/// The rows, at 224 x 224 pixels: costs count that size's planes.
template <stem_shape S>
class stem_train_kernels {
 public:
  stem_train_kernels(kernel_table& table, int batch) : table_{table}, batch_{batch} {}

  void run() {
    passes();
    kernels();
  }

 private:
  static_assert(S.height == 224 && S.width == 224 && S.hidden == 64 && S.patch == 16);
  using T = cuda::element<cuda::precision::bf16>;
  static constexpr char const* room = "stem_train";
  /// Multiply-adds of the projection for a picture, in millions.
  static constexpr double patches = 196e-6 * S.dim * 4096;

  /// Of planes of a convolution's size that a kernel moves, and of multiply-adds a picture in millions.
  [[nodiscard]] kernel_cost cost(double planes, double products) const {
    return {planes * batch_ * 112 * 112 * 64 * 2, 2e6 * products * batch_};
  }
  void passes() {
    rows<T, S.dim, space::device> const grid{s_.grid.data(), std::size_t(batch_) * S.tokens()};
    rows<T const, S.dim, space::device> const dgrid{s_.dgrid.data(), grid.count};
    table_.row(room, "forward", cost(6.38, 1042.8 + patches), s_.grid.data(), grid.size(),
               [&] { cuda::stem_forward_train(ctx_, picture_, p_, running_, grid, s_.saved); });
    table_.row(
        room, "backward", cost(19.38, 1967.6 + 2 * patches), grad_.proj.data, std::size_t(grad_.proj.size),
        [&] { cuda::stem_backward(ctx_, picture_, p_, s_.saved, dgrid, grad_, nullptr); }, kernel_result::adds_up);
  }
  /// Their results are the passes', which are checked.
  template <class F>
  void time(char const* what, double planes, double products, F const& work) {
    table_.row(room, what, cost(planes, products), s_.grid.data(), 0, work, kernel_result::is_finite);
  }
  void kernels() {
    using namespace dm2::cuda::detail;
    std::size_t const bytes = planned_bytes<stem_train::tensor_scratch<S, T>>(ctx_.device(), batch_) +
                              planned_bytes<stem_train::tensor_gradients<S, T>>(ctx_.device(), batch_);
    cuda::device_memory const memory{bytes};
    arena place{memory.data(), bytes};
    stem_train::tensor_scratch<S, T> const scratch{place, ctx_.device(), batch_};
    stem_train::tensor_gradients<S, T> const d{place, ctx_.device(), batch_};
    auto const reader = reader_of<stem::geometry<S>>(picture_);
    using reader_type = std::remove_const_t<decltype(reader)>;
    forward(stem_train::tensor_forward<S, T, reader_type>{ctx_.stream(), ctx_.device(), p_, s_.saved, scratch, batch_},
            reader);
    backward(stem_train::tensor_backward<S, T, reader_type>{ctx_.stream(), ctx_.device(), p_, s_.saved, d, batch_},
             reader, d);
  }
  template <class Pass, class Reader>
  void forward(Pass const& f, Reader const& reader) {
    using order = cuda::detail::stem_train::tile_order;
    time("forward: weights", 0, 0, [&] { f.arrange(); });
    time("forward: 7 x 7", 1.38, 118, [&] { f.first(reader, running_); });
    time("forward: 3 x 3, second", 2, 462.4, [&] { f.template inner<false>(1, order::upwards, running_); });
    time("forward: 3 x 3, third", 2, 462.4, [&] { f.template inner<true>(2, order::downwards, running_); });
    time("forward: projection", 1, patches, [&] { f.project(s_.grid.data()); });
  }
  template <class Pass, class Reader, class Gradients>
  void backward(Pass const& b, Reader const& reader, Gradients const& d) {
    T const* const dgrid = s_.dgrid.data();
    time("backward: weights", 0, 0, [&] { b.arrange(); });
    time("backward: projection: weights", 1, patches, [&] { b.project_weights(dgrid, grad_); });
    time("backward: projection: input", 2, patches, [&] { b.project_input(dgrid, grad_); });
    time("backward: 3 x 3, third: weights", 4, 462.4, [&] { b.template weights<2, true>(d.dz[0], grad_); });
    time("backward: 3 x 3, third: input", 3, 462.4, [&] { b.template input<2, true>(d.dz[0], d.dz[1], grad_); });
    time("backward: 3 x 3, second: weights", 4, 462.4, [&] { b.template weights<1, false>(d.dz[1], grad_); });
    time("backward: 3 x 3, second: input", 3, 462.4, [&] { b.template input<1, false>(d.dz[1], d.dz[0], grad_); });
    time("backward: 7 x 7: weights", 2.38, 118, [&] { b.first_weights(reader, grad_); });
  }

  kernel_table& table_;
  int batch_;
  stem_state<S> s_{batch_};
  cuda::context<> ctx_{table_.stream().get()};
  stem_parameters<S, float const, space::device> p_ = stem_state<S>::template view<float const>(s_.parameters.data());
  stem_parameters<S, float, space::device> grad_ = stem_state<S>::template view<float>(s_.gradients.data());
  stem_statistics<S, float, space::device> running_ = s_.running();
  float const* picture_ = s_.picture.data();
};

}  // namespace dm2::bench
