/// @file
/// What a kernel of the scan's backward reads and writes.
///
/// The interface between ssd_backward.cuh, which chooses the form, and the forms.
///
/// A form is a struct template of <mixer_shape M, class T> with static members:
///     possible                                  bool constant: kernels are built for these sizes and numbers
///     in_place                                  bool constant: dx, db and dc may be x, b and c
///     fits(operands, device_properties)         bool: it takes this call (length, alignment, shared memory)
///     scratch_bytes(sequences, length, device)  std::size_t: what launch needs, 0 for none
///     launch(operands, scratch, device, stream) enqueues; `scratch` (std::byte*) is at a multiple of 64 bytes
#pragma once

#include <dm2/core/shapes.hpp>

#include <cstdint>
#include <initializer_list>

namespace dm2::cuda::detail::ssd {

/// A mixer's sizes as constants that device code may read.
template <mixer_shape M>
struct backward_sizes {
  static constexpr int heads = M.heads, headdim = M.headdim, state = M.d_state, groups = M.groups;
  static constexpr int per_group = heads / groups, inner = heads * headdim, states = groups * state;
  static constexpr int taps = M.d_conv, convolved = M.conv_dim(), projected = M.projected();
};

/// Operands of the scan's backward over a batch of sequences. Token t of sequence s is row s * length + t of each
/// array; a stride is the distance of two rows in elements and at least their width. x, B and C may lie in one row, or
/// each by itself; so may their gradients. No gradient overlaps an input, unless the form allows it.
///
/// Kernels are templates of this type, since nvcc takes no mixer_shape as a kernel's own template argument.
///
/// With several sets of A and D (the two directions of a mixer, in one launch), sequence s reads set s / set_size.
template <mixer_shape M, class T>
struct backward_operands {
  using sizes = backward_sizes<M>;
  using element = T;

  T const* x;       ///< [B L, H P]
  T const* b;       ///< [B L, G N]
  T const* c;       ///< [B L, G N]
  T const* dy;      ///< [B L, H P], gradient of y = scan + D x
  float const* dt;  ///< [B L, H] without gaps, after softplus, >= 0
  float const* a;   ///< [sets, H], negative
  float const* d;   ///< [sets, H], the skip term

  T* dx;          ///< [B L, H P] (=), D dy included
  T* db;          ///< [B L, G N] (=), the sum over the group's heads, rounded once
  T* dc;          ///< [B L, G N] (=)
  float* ddt;     ///< [B L, H] without gaps (=), by dt after softplus
  float* da;      ///< [sequences, H] (=), each sequence's sum for A; the caller adds them up in order
  float* d_skip;  ///< [sequences, H] (=), each sequence's sum for D

  int x_stride, b_stride, c_stride, dy_stride;
  int dx_stride, db_stride, dc_stride;
  int sequences;  ///< B
  int length;     ///< L, tokens a sequence
  int set_size;   ///< sequences of a set; sequences where there is one set

  /// Whether every row of x, B, C, dy and their gradients starts at a multiple of 16 bytes.
  [[nodiscard]] bool aligned() const {
    std::uintptr_t bits = 0;
    for (void const* p : {static_cast<void const*>(x), static_cast<void const*>(b), static_cast<void const*>(c),
                          static_cast<void const*>(dy), static_cast<void const*>(dx), static_cast<void const*>(db),
                          static_cast<void const*>(dc)})
      bits |= reinterpret_cast<std::uintptr_t>(p);
    for (int stride : {x_stride, b_stride, c_stride, dy_stride, dx_stride, db_stride, dc_stride})
      bits |= std::uintptr_t(stride) * sizeof(T);
    return bits % 16 == 0;
  }
};

/// One set's way from a row of a mixer's projection to its scan: x, B and C are SiLU of a convolution, dt is softplus.
/// Columns are those of the projection.
struct scan_front {
  float const *taps, *bias;  ///< [convolved, taps] and [convolved]
  float const* dt_bias;      ///< [H]
  float const *a_log, *d;    ///< [H]; A = -exp(a_log)
  int x, b, c, dt;           ///< columns at which they start
  int convolved;             ///< column at which the convolution's channels start
  bool channels_reversed;    ///< whether channel or head i has the parameters of the i-th from behind
  bool tokens_reversed;      ///< whether token t is the t-th from the sequence's end
};

/// Operands of the scan's backward with what is in front of the scan: of two sets, which read the same rows of the
/// projection. b and c, which are db and dc, get B and C, and dt gets dt; x, a and d are not read, and
/// dx may be dy.
template <mixer_shape M, class T>
struct projected_operands : backward_operands<M, T> {
  T const* projection;  ///< [set_size L, projected]
  float* steps;         ///< dt
  scan_front front[2];
};

}  // namespace dm2::cuda::detail::ssd
