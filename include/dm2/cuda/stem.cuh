/// @file
/// The convolutional stem for inference: pictures to patches or token rows.
///
/// Three kernels convolve (channels last, BatchNorm folded in, ReLU applied before the numbers leave the registers),
/// and the third writes its pixels patch after patch, so that the fourth is a product of plain matrices.
#pragma once

#include <dm2/core/error.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/properties.cuh>
#include <dm2/cuda/pictures.cuh>
#include <dm2/cuda/stem/conv1.cuh>
#include <dm2/cuda/stem/conv1_hopper.cuh>
#include <dm2/cuda/stem/conv3.cuh>
#include <dm2/cuda/stem/conv3_split.cuh>
#include <dm2/cuda/stem/general.cuh>
#include <dm2/cuda/stem/project.cuh>
#include <dm2/cuda/stem/project_hopper.cuh>
#include <dm2/cuda/stem/tiled.cuh>
#include <dm2/cuda/stem/weights.cuh>

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <type_traits>

namespace dm2::cuda {
namespace detail::stem {

/// Most bytes of a plane's pictures that go through the stem together: 256 of Tiny in 16 bits, 128 in float.
inline constexpr std::size_t plane_bytes = std::size_t{256} * 112 * 112 * 64 * 2;

/// Pictures of `batch` that go together.
template <class G, class T>
int slice_of(int batch) {
  constexpr std::size_t one = std::size_t(G::plane_pixels) * G::hidden * sizeof(T);
  return std::min(batch, int(std::max<std::size_t>(1, plane_bytes / one)));
}

/// Scratch: two planes that the convolutions write in turn, and the projection's parts.
template <stem_shape S, class T>
struct scratch {
  using G = geometry<S>;
  std::array<T*, 2> plane;  ///< [pictures, H / 2, W / 2, hidden]
  float* parts = nullptr;

  scratch(arena& a, device_properties const& device, int batch) {
    int const pictures = slice_of<G, T>(batch);
    for (T*& p : plane) p = a.take<T>(std::size_t(pictures) * G::plane_pixels * G::hidden);
    if constexpr (layouts<S, T>::tensor_projection) {
      std::size_t most = plan_projection<G::depth, S.dim>(device, pictures * G::tokens).parts;
      if (int const rest = batch % pictures; rest != 0)
        most = std::max(most, plan_projection<G::depth, S.dim>(device, rest * G::tokens).parts);
      parts = a.take<float>(most);
    }
  }
};

/// One slice of pictures through the stem. The device's shared memory decides between the kernels.
template <stem_shape S, precision P>
class pass {
  using T = element<P>;
  using G = geometry<S>;
  using layouts = stem::layouts<S, T>;

 public:
  pass(cudaStream_t stream, device_properties const& device, stem_weights<S, T> const& weights,
       scratch<S, T> const& scratch, int pictures, bool early)
      : stream_{stream}, device_{device}, w_{weights}, s_{scratch}, pictures_{pictures}, early_{early} {}

  template <class Reader, class Sink>
  void run(Reader const& picture, Sink const& sink) const {
    first(picture);
    inner<false>(s_.plane[0], 1, s_.plane[1]);
    inner<true>(s_.plane[1], 2, s_.plane[0]);
    project(sink);
  }

 private:
  /// Tiles of a plane, and whether they are enough for the kernels for a Hopper: each of their blocks first puts its
  /// weights in place. On an H100 a 3 x 3 layer of 256 pictures took 490 us for 630, of 8 pictures 35 for 25.
  [[nodiscard]] int tiles() const { return pictures_ * plane_tile<G>::across * plane_tile<G>::down; }
  [[nodiscard]] bool many() const { return tiles() >= 24 * device_.multiprocessors; }
  [[nodiscard]] bool fits(int bytes) const { return bytes <= device_.shared_per_block; }

  template <class Reader>
  void first(Reader const& picture) const {
    if constexpr (layouts::tensor_planes) {
      if (many() && launch_conv1_hopper<G>(stream_, device_, picture, w_.conv[0], w_.bias[0], s_.plane[0], pictures_))
        return;
      if (fits(conv1_block<G>::shared_bytes)) {
        launch_conv1<G>(stream_, device_, picture, w_.conv[0], w_.bias[0], s_.plane[0], pictures_);
        return;
      }
    }
    int const rows = pictures_ * G::plane_pixels;
    plane_sink<G, false, T> const sink{w_.bias[0], s_.plane[0]};
    if constexpr (layouts::float_tiles)
      launch_tiled<P, typename layouts::conv1>(stream_, picture_rows<G, Reader>{picture, rows}, w_.conv[0], sink, rows);
    else
      launch_general<typename layouts::conv1, S.hidden>(stream_, picture_source<G, T, Reader>{picture}, w_.conv[0],
                                                        sink, rows);
  }

  template <bool Patches>
  void inner(T const* in, std::size_t layer, T* out) const {
    T const* const weights = w_.conv[layer];
    float const* const bias = w_.bias[layer];
    if constexpr (layouts::tensor_planes) {
      auto const with = [&]<conv3_form F>() {
        if constexpr (conv3_block<G, F>::shared_bytes <= most_shared_bytes) {
          if (!fits(conv3_block<G, F>::shared_bytes)) return false;
          launch_conv3<G, F, Patches>(stream_, device_.multiprocessors, in, weights, bias, out, pictures_, early_);
          return true;
        }
        return false;
      };
      bool const few = tiles() <= device_.multiprocessors;
      if (many() && launch_conv3_hopper<G, Patches>(stream_, device_, in, weights, bias, out, pictures_)) return;
      if (!few && (with.template operator()<conv3_wide>() || with.template operator()<conv3_medium>())) return;
      if (with.template operator()<conv3_small>()) return;
    }
    int const rows = pictures_ * G::plane_pixels;
    plane_sink<G, Patches, T> const sink{bias, out};
    if constexpr (layouts::float_tiles)
      launch_tiled<P, typename layouts::conv3>(stream_, plane_rows<G>{in, rows}, weights, sink, rows);
    else
      launch_general<typename layouts::conv3, S.hidden>(stream_, plane_source<G, T>{in}, weights, sink, rows);
  }

  template <class Sink>
  void project(Sink const& sink) const {
    T const* const patches = s_.plane[0];
    int const rows = pictures_ * G::tokens;
    if constexpr (layouts::tensor_projection) {
      constexpr int K = G::depth, N = S.dim;
      T const* const weights = w_.proj;
      project_plan const plan = plan_projection<K, N>(device_, rows);
      // Parts of fewer rows keep more multiprocessors busy than its tiles of 192 would.
      if (plan.many && plan.splits == 1 &&
          launch_project_hopper<K, N>(stream_, device_, patches, weights, sink, rows, early_))
        return;
      auto const with = [&]<project_form F>() {
        if (!fits(project_block<K, N, F>::shared_bytes)) return false;
        launch_projection<K, N, F>(stream_, plan, patches, weights, sink, rows, s_.parts, {}, early_);
        return true;
      };
      if (plan.many ? with.template operator()<project_many<N>>() || with.template operator()<project_many_small<N>>()
                    : with.template operator()<project_few>())
        return;
    }
    if constexpr (layouts::float_tiles)
      launch_tiled<P, typename layouts::project>(stream_, float_rows{patches, G::depth, rows, G::depth}, w_.proj, sink,
                                                 rows);
    else
      launch_general<typename layouts::project, S.dim>(stream_, patch_source<G, T>{patches}, w_.proj, sink, rows);
  }

  cudaStream_t stream_;
  device_properties const& device_;
  stem_weights<S, T> const& w_;
  scratch<S, T> const& s_;
  int pictures_;
  bool early_;
};

/// All slices of `batch` pictures.
template <stem_shape S, precision P, class Reader, class Sink>
void run(context<P>& ctx, device_properties const& device, Reader const& picture,
         stem_weights<S, element<P>> const& weights, Sink const& sink, int batch) {
  using T = element<P>;
  using G = geometry<S>;
  if (batch == 0 || !ctx.reserve(planned_bytes<scratch<S, T>>(device, batch))) return;
  arena_scope const scope{ctx.shared()};
  scratch<S, T> const scratch{ctx.shared(), device, batch};
  int const slice = slice_of<G, T>(batch);
  for (int b = 0; b < batch; b += slice)
    pass<S, P>{ctx.stream(), device, weights, scratch, std::min(slice, batch - b), ctx.early()}.run(
        picture.skip(b), sink.skip(std::ptrdiff_t{b} * G::tokens));
}

}  // namespace detail::stem

/// conv 7x7 stride 2, then two conv 3x3, each followed by BatchNorm with the running statistics and ReLU, then a
/// convolution of patch / 2 with that stride.
///
/// Shapes   picture: float const* [B, C, H, W], normalised, or byte_pictures [B, H, W, C] of any alignment; grid
///          [B tokens, dim], row-major patches of picture after picture, at a multiple of 8 bytes.
/// Writes   grid (=), asynchronously. Scratch: two planes [H / 2, W / 2, hidden] a picture, each of at most
///          detail::stem::plane_bytes; more pictures go through in slices.
/// Throws   shape_error if grid's rows are not whole pictures; nothing is written then.
template <stem_shape S, precision P>
void stem_forward(context<P>& ctx, auto const& picture, stem_weights<S, element<P>> const& weights,
                  std::type_identity_t<rows<float, S.dim, space::device>> grid) {
  int const batch = require_whole("stem.grid", grid.count, "tokens", S.tokens());
  detail::stem::run<S>(ctx, ctx.device(), detail::reader_of<detail::stem::geometry<S>>(picture), weights,
                       detail::stem::grid_sink<S.dim>{weights.proj_bias, grid.data}, batch);
}

/// stem_forward and assemble_tokens in one: the projection writes token rows.
///
/// Shapes   picture as in stem_forward; cls [1, 1, dim]; pos [1, L, dim], L = tokens + 1; x [B L, dim], at a multiple
///          of 8 bytes; the class token is token (L - 1) / 2.
/// Writes   x (=), asynchronously. Scratch as stem_forward.
/// Throws   shape_error if x's rows are not whole pictures; nothing is written then.
template <stem_shape S, precision P>
void stem_tokens(context<P>& ctx, auto const& picture, stem_weights<S, element<P>> const& weights,
                 std::type_identity_t<block<float const, space::device, 1, 1, S.dim>> cls,
                 std::type_identity_t<block<float const, space::device, 1, S.tokens() + 1, S.dim>> pos,
                 std::type_identity_t<rows<float, S.dim, space::device>> x) {
  int const batch = require_whole("stem_tokens.x", x.count, "tokens and the class token", S.tokens() + 1);
  detail::stem::run<S>(ctx, ctx.device(), detail::reader_of<detail::stem::geometry<S>>(picture), weights,
                       detail::stem::token_sink<S.dim, S.tokens()>{weights.proj_bias, cls.data, pos.data, x.data},
                       batch);
}

}  // namespace dm2::cuda
