/// @file
/// Rows of the trunk's operations: cores, project_add_norm, the scan, and the small ones.
#pragma once

#include <dm2/cuda/attention_core.cuh>
#include <dm2/cuda/attention_core_backward.cuh>
#include <dm2/cuda/fold_output_projection.cuh>
#include <dm2/cuda/gated_activation.cuh>
#include <dm2/cuda/linear.cuh>
#include <dm2/cuda/mixer_core.cuh>
#include <dm2/cuda/mixer_core_backward.cuh>
#include <dm2/cuda/project_add_norm.cuh>
#include <dm2/cuda/project_add_norm_backward.cuh>
#include <dm2/cuda/rms_norm.cuh>
#include <dm2/cuda/ssd.cuh>
#include <dm2/cuda/ssd_backward.cuh>
#include <dm2/model/blocks.hpp>

#include "cuda/kernels/table.cuh"
#include "support/bytes.hpp"
#include "support/flops.hpp"

#include <bit>
#include <cstddef>
#include <string>

namespace dm2::bench {

/// The operations between the tokens and the last norm, at the widths of C.
template <config C>
class block_kernels {
 public:
  block_kernels(kernel_table& table, int batch) : table_{table}, batch_{batch} {}

  void run() {
    core<dm2::detail::mixer_block<C>>("mixer_core", 0, mixer_core_flops(sizes<C>::mixer, length));
    core<dm2::detail::attention_block<C>>("attention_core", std::countr_zero(C.attn_layers.bits),
                                          attention_core_flops(sizes<C>::attention, length));
    project_add_norm();
    scan(batch_, sizes<C>::length);
    scan(std::max(batch_ / 4, 1), 3137);
    fold();
    norm();
    projection();
    activation();
  }

 private:
  static constexpr auto P = cuda::precision::bf16;
  using T = cuda::element<P>;
  static constexpr int D = C.dim;
  static constexpr double length = sizes<C>::length;
  template <class U, int N>
  using matrix = rows<U, N, space::device>;

  [[nodiscard]] std::size_t count() const { return std::size_t(batch_) * sizes<C>::length; }

  template <class Block>
  void core(char const* room, int layer, double flops) {
    if (!table_.wants(room)) return;
    kernel_parameters<C> p{table_.stream()};
    std::size_t const n = count();
    random_array<T> const x{n * Block::wide}, dg{n * Block::inner}, g{n * Block::inner}, dx{n * Block::wide};
    random_array<float> const factors{n * Block::factors + 1, 0.1f, 1};
    matrix<T const, Block::wide> const in{x.data(), n};
    matrix<T const, Block::inner> const left{g.data(), n};
    double const wide = 2. * double(n) * Block::wide, inner = 2. * double(n) * Block::inner;
    table_.row(room, "forward", {wide + inner, batch_ * flops}, g.data(), n * Block::inner, [&] {
      Block::core(p.ctx, p.net(), layer, in, matrix<T, Block::inner>{g.data(), n}, factors.data());
    });
    table_.row(room, "backward", {2 * wide + inner, 2 * batch_ * flops}, dx.data(), n * Block::wide, [&] {
      Block::core_backward(p.ctx, p.net(), layer, in, left, factors.data(), matrix<T const, Block::inner>{dg.data(), n},
                           matrix<T, Block::wide>{dx.data(), n}, p.grad());
    });
  }

  void project_add_norm() {
    if (!table_.wants("project_add_norm")) return;
    norm_rows const rows{table_, count()};
    rows.forward();
    rows.backward();
  }

  /// Rows of project_add_norm from one mixer to the next, of the first norm and of the last.
  struct norm_rows {
    using Block = dm2::detail::mixer_block<C>;
    static constexpr int K = Block::inner, N = Block::wide;
    static constexpr char const* room = "project_add_norm";
    kernel_table& table;
    std::size_t n;
    kernel_parameters<C> p{table.stream()};
    random_array<T> g{n * K}, dy{n * N}, dend{n * D}, merged{std::size_t(D) * K}, y{n * N}, end{n * D}, dg{n * K};
    random_array<float> before{n * D}, after{n * D}, rstd{n, 0.1f, 1}, dresidual{n * D}, sums{std::size_t(D) * K};
    double count = double(n), own = product_flops(count, D, K), next = product_flops(count, N, D);
    norm_point<float, D, space::device> point{{after.data(), n}, rstd.data()};
    core_projection<float const, D, K, space::device, T const, T const> from{
        {g.data(), n}, Block::out(p.ctx, p.net(), 0, merged.data())};
    core_projection<float, D, K, space::device, T> dfrom{{dg.data(), n},
                                                         Block::out_gradient(p.ctx, p.grad(), 0, sums.data())};
    norm_projection<float const, N, D, space::device, T const> in = operand(p.ctx, Block::in(p.net(), 1));
    norm_projection<float, N, D, space::device> din = Block::in(p.grad(), 1);
    block<float const, space::device, D> norm = get<final_layer<C>::norm>(p.net().final());
    block<float, space::device, D> dnorm = get<final_layer<C>::norm>(p.grad().final());
    matrix<float, D> gradient{dresidual.data(), n};
    cuda::context<P>& ctx = p.ctx;

    norm_rows(kernel_table& t, std::size_t rows) : table{t}, n{rows} {}

    void forward() const {
      matrix<float const, D> const residual{before.data(), n};
      table.row(room, "first norm, forward", {count * (4 * D + 2 * N), next}, y.data(), n * N, [&] {
        norm_project(ctx, point, in, C.eps, matrix<T, N>{y.data(), n});
      });
      table.row(room, "forward", {count * (2 * (K + N) + 8 * D), own + next}, y.data(), n * N, [&] {
        project_add_norm_project(ctx, from.core, from.out, residual, point, in, C.eps, matrix<T, N>{y.data(), n});
      });
      table.row(room, "last norm, forward", {count * (2 * (K + D) + 8 * D), own}, end.data(), n * D, [&] {
        cuda::project_add_norm(ctx, from.core, from.out, residual, point, norm, C.eps, matrix<T, D>{end.data(), n});
      });
    }
    void backward() const {
      matrix<T const, N> const dnext{dy.data(), n};
      table.row(
          room, "first norm, backward", {count * (2 * N + 12 * D), 2 * next}, dresidual.data(), n * D,
          [&] { norm_project_backward(ctx, point, in, dnext, gradient, din); }, kernel_result::is_finite);
      table.row(
          room, "backward", {count * (4 * K + 2 * N + 12 * D), 2 * (own + next)}, dg.data(), n * K,
          [&] { project_add_norm_project_backward(ctx, from, point, in, dnext, gradient, dfrom, din); },
          kernel_result::is_finite);
      table.row(room, "last norm, backward", {count * (4 * K + 2 * D + 8 * D), 2 * own}, dg.data(), n * K, [&] {
        cuda::project_add_norm_backward(ctx, from, point, norm, matrix<T const, D>{dend.data(), n}, gradient, dfrom,
                                        dnorm);
      });
    }
  };

  /// The scan alone: one direction.
  void scan(int sequences, int tokens) {
    if (!table_.wants("ssd")) return;
    constexpr mixer_shape M = sizes<C>::mixer;
    constexpr int inner = M.d_inner(), state = M.groups * M.d_state;
    cuda::context<> ctx{table_.stream().get()};
    std::size_t const n = std::size_t(sequences) * std::size_t(tokens), heads = M.heads;
    random_array<T> const x{n * inner}, b{n * state, 0.1f}, c{n * state, 0.1f}, y{n * inner}, dy{n * inner};
    random_array<T> const dx{n * inner}, db{n * state}, dc{n * state};
    random_array<float> const dt{n * heads, 0.005f, 0.05f}, a{heads, 0.1f, -1.f}, d{heads};
    random_array<float> const ddt{n * heads}, da{heads}, dd{heads};
    auto const wide = [&](auto const& p) { return matrix<T, inner>{p.data(), n}; };
    auto const narrow = [&](auto const& p) { return matrix<T, state>{p.data(), n}; };
    auto const steps = [&](auto const& p) { return matrix<float, M.heads>{p.data(), n}; };
    auto const each = [&](auto const& p) { return block<float, space::device, M.heads>{p.data()}; };
    cuda::ssd_input<M, T> const in{wide(x), steps(dt), each(a), narrow(b), narrow(c), each(d), tokens};
    cuda::ssd_gradient<M, T> const grad{wide(dx), steps(ddt), each(da), narrow(db), narrow(dc), each(dd)};
    std::string const name = ", B " + std::to_string(sequences) + ", L " + std::to_string(tokens);
    double const bytes = scan_bytes(M, double(n)), flops = sequences * chunked_scan_flops(M, tokens);
    table_.row("ssd", "forward" + name, {bytes, flops}, y.data(), n * inner, [&] { cuda::ssd(ctx, in, wide(y)); });
    table_.row("ssd", "backward" + name, {2 * bytes, 2 * flops}, dx.data(), n * inner,
               [&] { cuda::ssd_backward(ctx, in, wide(dy), grad); });
  }

  void fold() {
    char const* const room = "fold_output_projection";
    if (!table_.wants(room)) return;
    using layer = mixer_layer<C>;
    constexpr int I = sizes<C>::d_inner;
    constexpr std::size_t size = std::size_t{2} * D * I;
    kernel_parameters<C> p{table_.stream()};
    random_array<T> const merged{size};
    random_array<float> const dmerged{size};
    auto const w = p.net().mixer(0);
    auto const dw = p.grad().mixer(0);
    table_.row(room, "forward", {6. * size}, merged.data(), size, [&] {
      fold_output_projection<C.variant>(p.ctx, get<layer::out_proj>(w), get<layer::out_proj_b>(w),
                                        block<T, space::device, D, 2 * I>{merged.data()});
    });
    table_.row(
        room, "backward", {12. * size}, get<layer::out_proj>(dw).data, size / 2,
        [&] {
          fold_output_projection_backward<C.variant>(p.ctx, block<float, space::device, D, 2 * I>{dmerged.data()},
                                                     get<layer::out_proj>(dw), get<layer::out_proj_b>(dw));
        },
        kernel_result::adds_up);
  }

  void norm() {
    char const* const room = "rms_norm";
    if (!table_.wants(room)) return;
    kernel_parameters<C> p{table_.stream()};
    std::size_t const n = count();
    random_array<float> const x{n * D}, rstd{n}, dx{n * D};
    random_array<T> const y{n * D}, dy{n * D};
    matrix<float const, D> const in{x.data(), n};
    auto const w = get<final_layer<C>::norm>(p.net().final());
    auto const dw = get<final_layer<C>::norm>(p.grad().final());
    table_.row(room, "forward", {6. * double(n) * D}, y.data(), n * D, [&] {
      rms_norm(p.ctx, in, w, C.eps, matrix<T, D>{y.data(), n}, rstd.data());
    });
    table_.row(
        room, "backward", {14. * double(n) * D}, dx.data(), n * D,
        [&] {
          rms_norm_backward(p.ctx, in, w, rstd.data(), matrix<T const, D>{dy.data(), n}, matrix<float, D>{dx.data(), n},
                            dw);
        },
        kernel_result::adds_up);
  }

  /// The mixer's input projection as a product of its own; dw is added to.
  void projection() {
    char const* const room = "linear";
    if (!table_.wants(room)) return;
    constexpr int N = sizes<C>::projected;
    kernel_parameters<C> p{table_.stream()};
    std::size_t const n = count();
    random_array<T> const x{n * D}, y{n * N}, dy{n * N}, dx{n * D};
    auto const in = operand(p.ctx, dm2::detail::mixer_block<C>::in(p.net(), 0)).in;
    auto const din = dm2::detail::mixer_block<C>::in(p.grad(), 0).in;
    double const bytes = 2. * double(n) * (D + N), flops = product_flops(double(n), N, D);
    matrix<T const, D> const operand{x.data(), n};
    table_.row(room, "forward", {bytes, flops}, y.data(), n * N, [&] {
      linear(p.ctx, operand, in.weight, in.bias, matrix<T, N>{y.data(), n});
    });
    table_.row(room, "backward", {2 * bytes, 2 * flops}, dx.data(), n * D, [&] {
      linear_backward(p.ctx, operand, in.weight, matrix<T const, N>{dy.data(), n}, matrix<T, D>{dx.data(), n},
                      din.weight, din.bias);
    });
  }

  /// Of an MLP four times as wide as the residual stream; Tiny and Small have none.
  void activation() {
    char const* const room = "gated_activation";
    if (!table_.wants(room)) return;
    constexpr int I = 4 * D;
    cuda::context<> ctx{table_.stream().get()};
    std::size_t const n = count();
    random_array<T> const x{n * 2 * I}, y{n * I}, dy{n * I}, dx{n * 2 * I};
    matrix<T const, 2 * I> const in{x.data(), n};
    table_.row(room, "forward", {6. * double(n) * I}, y.data(), n * I, [&] {
      gated_activation(ctx, in, matrix<T, I>{y.data(), n});
    });
    table_.row(room, "backward", {10. * double(n) * I}, dx.data(), n * 2 * I, [&] {
      gated_activation_backward(ctx, in, matrix<T const, I>{dy.data(), n}, matrix<T, 2 * I>{dx.data(), n});
    });
  }

  kernel_table& table_;
  int batch_;
};

}  // namespace dm2::bench
