/// @file
/// Rows of what stands before and behind the trunk: stem, tokens, heads, loss, optimizer.
#pragma once

#include <dm2/cuda/heads.cuh>
#include <dm2/cuda/optimizer_step.cuh>
#include <dm2/cuda/pictures.cuh>
#include <dm2/cuda/stem.cuh>
#include <dm2/cuda/token_label_loss.cuh>
#include <dm2/cuda/tokens.cuh>
#include <dm2/cuda/training/input.cuh>
#include <dm2/cuda/training/update_lines.cuh>
#include <dm2/model/network.hpp>

#include "cuda/kernels/table.cuh"
#include "cuda/training_case.cuh"
#include "support/bytes.hpp"
#include "support/flops.hpp"

#include <cstddef>
#include <cstdint>

namespace dm2::bench {

/// The operations before and behind the trunk, at the sizes of C.
template <config C>
class end_kernels {
 public:
  end_kernels(kernel_table& table, int batch) : table_{table}, batch_{batch} {}

  void run() {
    stem();
    tokens();
    heads();
    loss();
    optimizer();
  }

 private:
  static constexpr auto P = cuda::precision::bf16;
  using T = cuda::element<P>;
  static constexpr int D = C.dim, K = C.classes, L = sizes<C>::length;
  static constexpr stem_shape S = sizes<C>::stem;
  template <class U, int N>
  using matrix = rows<U, N, space::device>;

  [[nodiscard]] std::size_t pictures() const { return std::size_t(batch_); }
  [[nodiscard]] std::size_t count() const { return pictures() * L; }
  [[nodiscard]] std::size_t patches() const { return pictures() * S.tokens(); }

  /// From bytes to tokens, as an evaluation has it.
  void stem() {
    if (!table_.wants("stem")) return;
    using weights_type = cuda::stem_weights<S, T>;
    constexpr float mean[3]{0.485f, 0.456f, 0.406f}, deviation[3]{0.229f, 0.224f, 0.225f};
    kernel_parameters<C> p{table_.stream()};
    random_array<std::uint8_t> const bytes{pictures() * sizes<C>::pixels};
    random_array<float> const x{count() * D};
    cuda::device_memory const memory{planned_bytes<weights_type>()};
    arena place{memory.data(), memory.size()};
    weights_type const weights{place};
    prepare_stem(p.ctx, dm2::detail::stem_operands(p.net()), dm2::detail::stem_running(p.net()), weights);
    auto const input = cuda::byte_pictures<C.channels>::normalised(bytes.data(), mean, deviation);
    auto const t = p.net().tokens();
    table_.row("stem", "pictures to tokens", {evaluation_bytes<C>{double(batch_)}.stem(), batch_ * stem_flops(S)},
               x.data(), count() * D, [&] {
                 cuda::stem_tokens(p.ctx, input, weights, get<token_layer<C>::cls_token>(t),
                                   get<token_layer<C>::pos_embed>(t), matrix<float, D>{x.data(), count()});
               });
  }

  void tokens() {
    if (!table_.wants("tokens")) return;
    kernel_parameters<C> p{table_.stream()};
    std::size_t const n = patches();
    random_array<T> const grid{n * D}, dgrid{n * D};
    random_array<float> const x{count() * D}, dx{count() * D};
    using layer = token_layer<C>;
    auto const t = p.net().tokens();
    auto const dt = p.grad().tokens();
    double const bytes = 6. * double(n) * D;
    table_.row("tokens", "assemble_tokens", {bytes}, x.data(), count() * D, [&] {
      assemble_tokens(p.ctx, matrix<T, D>{grid.data(), n}, get<layer::cls_token>(t), get<layer::pos_embed>(t),
                      matrix<float, D>{x.data(), count()});
    });
    table_.row("tokens", "assemble_tokens, backward", {bytes}, dgrid.data(), n * D, [&] {
      assemble_tokens_backward(p.ctx, matrix<float const, D>{dx.data(), count()}, matrix<T, D>{dgrid.data(), n},
                               get<layer::cls_token>(dt), get<layer::pos_embed>(dt));
    });
    mix_box const box{2, 9, 3, 8};
    table_.row(
        "tokens", "mix_tokens, a box of 35 patches", {4. * box.area() * batch_ * D}, grid.data(), n * D,
        [&] {
          mix_tokens(p.ctx, matrix<T, D>{grid.data(), n}, S.grid_height(), S.grid_width(), box);
        },
        kernel_result::is_finite);
  }

  void heads() {
    if (!table_.wants("heads")) return;
    kernel_parameters<C> p{table_.stream()};
    std::size_t const n = count(), m = patches();
    random_array<T> const features{n * D}, dfeatures{n * D}, aux{m * K}, daux{m * K, 1e-3f};
    random_array<float> const logits{pictures() * K}, dcls{pictures() * K, 1e-3f};
    auto const weights = operand(p.ctx, dm2::detail::head_operands(p.net()));
    auto const grad = dm2::detail::head_operands(p.grad());
    matrix<T const, D> const in{features.data(), n};
    matrix<float, K> const cls{logits.data(), pictures()};
    double const flops = batch_ * head_flops<C>(), trained = 2. * double(n) * D + 2. * double(m) * K;
    table_.row("heads", "evaluation", {evaluation_bytes<C>{double(batch_)}.heads(), flops}, logits.data(),
               pictures() * K, [&] { evaluation_heads(p.ctx, in, weights, cls, L); });
    table_.row("heads", "training, forward", {trained, flops}, aux.data(), m * K, [&] {
      training_heads(p.ctx, in, weights, cls, matrix<T, K>{aux.data(), m}, L);
    });
    table_.row("heads", "training, backward", {trained + 2. * double(n) * D, 2 * flops}, dfeatures.data(), n * D, [&] {
      training_heads_backward(p.ctx, in, weights, matrix<float, K>{dcls.data(), pictures()},
                              matrix<T, K>{daux.data(), m}, matrix<T, D>{dfeatures.data(), n}, grad, L);
    });
  }

  /// From label maps of 18 x 18 points, with a box.
  void loss() {
    char const* const room = "token_label_loss";
    if (!table_.wants(room)) return;
    cuda::context<P> ctx{table_.stream().get()};
    std::size_t const m = patches();
    random_array<float> const cls{pictures() * K}, dcls{pictures() * K};
    random_array<T> const aux{m * K}, daux{m * K};
    cuda::device_memory const sums{sizeof(cuda::token_label_sums)};
    cuda::training_input in{
        batch_, std::size_t(sizes<C>::pixels), {S.grid_height(), S.grid_width(), 0.1, crop_convention::published}};
    in.fill(random_batch<C>(batch_), {2, 9, 3, 8});
    in.upload(table_.stream().get());
    table_.row(room, "from label maps, with gradients", {4. * double(m) * K + 8. * double(pictures()) * K}, daux.data(),
               m * K, [&] {
                 token_label_loss(ctx, matrix<float const, K>{cls.data(), pictures()},
                                  matrix<T const, K>{aux.data(), m}, in.maps(), in.box(),
                                  matrix<float, K>{dcls.data(), pictures()}, matrix<T, K>{daux.data(), m},
                                  reinterpret_cast<cuda::token_label_sums*>(sums.data()), {.mixed = true});
               });
  }

  /// Lion, average, rounded copy, clearing: 34 bytes a number. The gradients are zeros after the first step.
  void optimizer() {
    char const* const room = "optimizer_step";
    if (!table_.wants(room)) return;
    constexpr std::size_t n = state_extent<C>;
    cuda::context<P> ctx{table_.stream().get()};
    random_array<float> const weights{n}, gradients{n}, momentum{n}, average{n};
    random_array<T> const copies{n};
    auto const host_lines = cuda::update_lines<C>(optimizer_options{});
    auto const host_scalars = cuda::make_step_scalars({}, 1, 1e-4, 0.9999);
    cuda::device_memory const lines_memory{host_lines.size() * sizeof(host_lines[0])};
    cuda::device_memory const scalars{sizeof host_scalars}, measure{sizeof(cuda::gradient_measure)};
    cuda::check(cudaMemcpy(lines_memory.data(), host_lines.data(), lines_memory.size(), cudaMemcpyHostToDevice),
                "lines");
    cuda::check(cudaMemcpy(scalars.data(), &host_scalars, sizeof host_scalars, cudaMemcpyHostToDevice), "scalars");
    auto const* const lines = reinterpret_cast<std::uint16_t const*>(lines_memory.data());
    auto* const norm = reinterpret_cast<cuda::gradient_measure*>(measure.data());
    cuda::update_buffers<T> const buffers{.weights = weights.data(),
                                          .gradients = gradients.data(),
                                          .first = momentum.data(),
                                          .second = nullptr,
                                          .average = average.data(),
                                          .rounded = copies.data()};
    table_.row(room, "gradient's norm", {4. * n}, &norm->norm, 1,
               [&] { cuda::measure_gradients(ctx, gradients.data(), lines, n, {.limit = 1}, norm); });
    table_.row(
        room, "Lion, average, rounded copy, clearing", {34. * n}, copies.data(), n,
        [&] {
          cuda::optimizer_step(ctx, optimizer_options{}, buffers, {lines, {}}, n,
                               reinterpret_cast<cuda::step_scalars const*>(scalars.data()), nullptr, nullptr, true);
        },
        kernel_result::is_finite);
  }

  kernel_table& table_;
  int batch_;
};

}  // namespace dm2::bench
