/// @file
/// The token-labeling cross entropy (Jiang et al. 2021, arXiv 2104.10858), from the teacher's label maps straight to
/// the gradients of the logits.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/operands.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/finite_guard.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/label_maps.cuh>
#include <dm2/cuda/tile/packet.cuh>
#include <dm2/cuda/token_label_loss/kernel.cuh>
#include <dm2/cuda/token_label_loss/target.cuh>

#include <algorithm>
#include <cstddef>
#include <type_traits>

namespace dm2::cuda {

/// What a call of token_label_loss takes beside its tensors.
struct token_loss_options {
  double scale = 1;  ///< of the gradients. In fp16 a patch's are below the smallest number unless this is some 10^4
  /// The patches' logits stand as the mixed tokens did: in the box each belongs to the sample's partner, and its target
  /// is the partner's. Else they have been mixed back. The two give the same loss, and this one no pass over the logits
  /// before it nor over their gradients after it.
  bool mixed = false;
  int cols = 0;          ///< patches across, which a box is on; with label maps theirs are taken
  finite_check check{};  ///< where a loss that is not finite is reported
};

namespace detail::token_label_loss {

/// The loss's scratch: blocks' sums, RoIAlign's weights, and targets that shared memory has no room for.
struct loss_scratch {
  axis_table axes;
  loss_part* parts;
  float* wide;

  loss_scratch(arena& a, std::size_t batch, int side, int rows, int cols, std::size_t blocks, std::size_t wide_floats)
      : axes{a, batch, side, rows, cols}, parts{a.take<loss_part>(blocks)}, wide{a.take<float>(wide_floats)} {}
};

/// How many blocks, and how many rows a warp of them takes: on every device the numbers that suit an H100's 132
/// multiprocessors, so that the losses' sums do not depend on its size.
struct loss_shape {
  unsigned blocks;
  int rows_per_warp;
  bool wide;  ///< targets lie in device memory

  template <class Tr>
  static loss_shape of(device_properties const& device, std::size_t batch, std::size_t rows) {
    constexpr std::size_t multiprocessors = 132;
    if constexpr (Tr::warps) {
      std::size_t const each = std::clamp<std::size_t>(rows / (8 * multiprocessors * loss_warps), 1, 4);
      return {unsigned(batch) + blocks_for(rows, loss_warps * int(each)), int(each), false};
    } else {
      return {unsigned(std::min(batch + rows, 2 * multiprocessors)), 1,
              Tr::bytes + loss_warps * sizeof(float) > std::size_t(device.shared_per_block)};
    }
  }
};

/// The operands of a loss, whatever its targets.
template <class T, int K>
struct loss_operands {
  rows<float const, K, space::device> cls;
  rows<T const, K, space::device> aux;
  rows<float, K, space::device> dcls;
  rows<T, K, space::device> daux;
  mix_box const* box;
  token_label_sums* sums;
  token_loss_options options;

  /// Throws shape_error unless they belong together; returns the patches of a sample.
  [[nodiscard]] std::size_t tokens() const {
    std::size_t const batch = cls.count, each = batch == 0 ? 0 : aux.count / batch;
    require_extent("token_label_loss.aux rows", aux.count, batch * each);
    require_extent("token_label_loss.dcls rows", dcls.count, batch);
    require_extent("token_label_loss.daux rows", daux.count, aux.count);
    if (each == 0) throw shape_error{"token_label_loss: no samples or no patches"};
    return each;
  }
};

template <class Tr, class Source>
void launch_token_loss(cudaStream_t stream, arguments<typename Tr::element, Source> const& call,
                       loss_shape const& shape) {
  launch_shape const how{shape.blocks, loss_threads, shape.wide ? 0 : Tr::bytes};
  if constexpr (Tr::warps) {
    prefer_shared("token_label_loss", token_loss_kernel<Tr, Source>);
    launch("token_label_loss", token_loss_kernel<Tr, Source>, how, stream, call);
  } else {
    launch("token_label_loss", wide_token_loss_kernel<Tr, Source>, how, stream, call);
  }
}

/// make(axis table) gives the source of targets; `side`, `grid_rows` and `cols` are the table's.
template <class T, int K, precision P, class Make>
void token_loss(context<P>& ctx, loss_operands<T, K> const& o, label_sample const* samples, int side, int grid_rows,
                int cols, bool target_aligned, Make const& make) {
  constexpr int most = 16 / int(sizeof(T)), n = row_fits_warp(K) && K % most == 0 ? most : 1;
  std::size_t const batch = o.cls.count, patches = o.aux.count;
  loss_shape const shape = loss_shape::of<traits<T, K, 1>>(ctx.device(), batch, patches);
  std::size_t const wide = shape.wide ? std::size_t{2} * K * shape.blocks : 0;
  if (!ctx.reserve(planned_bytes<loss_scratch>(batch, side, grid_rows, cols, std::size_t{shape.blocks}, wide))) return;
  arena_scope const scope{ctx.shared()};
  loss_scratch const s{ctx.shared(), batch, side, grid_rows, cols, std::size_t{shape.blocks}, wide};
  make_axis_table(ctx.stream(), samples, s.axes, int(batch));
  auto const source = make(s.axes);
  arguments<T, std::remove_const_t<decltype(source)>> const call{.cls = o.cls.data,
                                                                 .aux = o.aux.data,
                                                                 .dcls = o.dcls.data,
                                                                 .daux = o.daux.data,
                                                                 .source = source,
                                                                 .box = o.box,
                                                                 .mixed = o.options.mixed,
                                                                 .scale = float(o.options.scale),
                                                                 .batch = int(batch),
                                                                 .tokens = int(patches / batch),
                                                                 .cols = cols,
                                                                 .rows_per_warp = shape.rows_per_warp,
                                                                 .parts = s.parts,
                                                                 .wide = shape.wide ? s.wide : nullptr};
  if (n > 1 && packets_at<n>(o.aux.data) && packets_at<n>(o.daux.data) && target_aligned)
    launch_token_loss<traits<T, K, n>>(ctx.stream(), call, shape);
  else
    launch_token_loss<traits<T, K, 1>>(ctx.stream(), call, shape);
  launch("token_label_loss", sum_losses_kernel<loss_part>, {1, loss_threads}, ctx.stream(), s.parts, int(shape.blocks),
         double(batch), double(patches), o.sums, o.options.check);
}

}  // namespace detail::token_label_loss

/// The training loss: mean cross entropy of the class token, plus that of the patches; the targets are formed from the
/// label maps where they are used.
///
/// A patch's target is off + on softmax(RoIAlign of its bin), a class token's the same of the whole crop; a sample
/// without a map has the smoothed class. With lam = 1 - area(box) / tokens, the class token's target is lam of its own
/// and 1 - lam of its partner's, the batch reversed.
///
/// Shapes   cls, dcls [B, K]; aux, daux [B tokens, K], of the context's element or float; maps: of B samples, with
///          rows * cols = tokens; box: on the device, read when the loss is computed, null for none; sums: on the
///          device.
/// Writes   dcls, daux (=), the gradients of options.scale times the loss, which may be cls and aux; sums (=).
/// Saves    nothing. Beside the logits, which are read and written once up to 2048 classes, about 2.2 KB an image.
/// Throws   shape_error if the row counts disagree; nothing is written then.
template <precision P, int K, class M, class T>
void token_label_loss(context<P>& ctx, rows<float const, K, space::device> cls,
                      std::type_identity_t<rows<T const, K, space::device>> aux, label_maps<M> const& maps,
                      mix_box const* box, std::type_identity_t<rows<float, K, space::device>> dcls,
                      rows<T, K, space::device> daux, token_label_sums* sums, token_loss_options const& options = {}) {
  detail::token_label_loss::loss_operands<T, K> const o{
      .cls = cls, .aux = aux, .dcls = dcls, .daux = daux, .box = box, .sums = sums, .options = options};
  std::size_t const tokens = o.tokens();
  require_extent("token_label_loss.maps: patches", std::size_t(maps.rows) * std::size_t(maps.cols), tokens);
  label_smoothing const smoothing{maps.smoothing, K};
  detail::token_label_loss::token_loss(
      ctx, o, maps.samples, maps.side, maps.rows, maps.cols, true,
      [&](detail::token_label_loss::axis_table const& axes) {
        return detail::token_label_loss::map_rows<M>{maps, axes, float(smoothing.on), float(smoothing.off)};
      });
}

/// The same from sparse targets on the device.
///
/// Shapes   target: B (1 + tokens) rows, the class token's and the patches' of sample after sample; the classes of a
///          row are distinct and below K.
template <precision P, int K, class T>
void token_label_loss(context<P>& ctx, rows<float const, K, space::device> cls,
                      std::type_identity_t<rows<T const, K, space::device>> aux, sparse_rows<float> const& target,
                      mix_box const* box, std::type_identity_t<rows<float, K, space::device>> dcls,
                      rows<T, K, space::device> daux, token_label_sums* sums, token_loss_options const& options = {}) {
  detail::token_label_loss::loss_operands<T, K> const o{
      .cls = cls, .aux = aux, .dcls = dcls, .daux = daux, .box = box, .sums = sums, .options = options};
  std::size_t const tokens = o.tokens();
  require_extent("token_label_loss.target rows", target.count, cls.count * (1 + tokens));
  int const cols = options.cols > 0 ? options.cols : int(tokens);
  detail::token_label_loss::token_loss(ctx, o, nullptr, 0, 0, cols, true,
                                       [&](detail::token_label_loss::axis_table const&) {
                                         return detail::token_label_loss::sparse_source{target, int(1 + tokens)};
                                       });
}

/// The same from dense targets on the device.
///
/// Shapes   target [B (2 + tokens), K]: for each sample the smoothed ground truth (not used by this loss), the class
///          token's target, the patches'.
template <precision P, int K, class T>
void token_label_loss(context<P>& ctx, rows<float const, K, space::device> cls,
                      std::type_identity_t<rows<T const, K, space::device>> aux,
                      std::type_identity_t<rows<float const, K, space::device>> target, mix_box const* box,
                      std::type_identity_t<rows<float, K, space::device>> dcls, rows<T, K, space::device> daux,
                      token_label_sums* sums, token_loss_options const& options = {}) {
  detail::token_label_loss::loss_operands<T, K> const o{
      .cls = cls, .aux = aux, .dcls = dcls, .daux = daux, .box = box, .sums = sums, .options = options};
  std::size_t const tokens = o.tokens();
  require_extent("token_label_loss.target rows", target.count, cls.count * (2 + tokens));
  int const cols = options.cols > 0 ? options.cols : int(tokens);
  float const* const first = target.data == nullptr ? nullptr : target.data + K;
  detail::token_label_loss::token_loss(ctx, o, nullptr, 0, 0, cols, detail::packets_at<4>(first),
                                       [&](detail::token_label_loss::axis_table const&) {
                                         return detail::token_label_loss::dense_source{first, int(2 + tokens)};
                                       });
}

}  // namespace dm2::cuda
