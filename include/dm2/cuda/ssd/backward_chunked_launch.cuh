/// @file
/// The scan's backward in chunks of 64 tokens: sequences of any length, in 16-bit numbers on the tensor cores.
///
/// With G = C B^T, c the sum of dt A from the chunk's start up to and with a token, E_ij = exp(c_i - c_j) for i >= j in
/// the chunk, W_ij = dy_i . x_j, and the state h that enters and the gradient dh of the state that leaves a chunk whose
/// decays sum to e:
///     U_j  = sum_{i >= j} G_ij E_ij dy_i + exp(e - c_j) dh B_j               dx_j = dt_j U_j + D dy_j,  dD = sum W_ii
///     dG   = sum over heads of E W dt_j
///     dC_i = (dG B)_i + sum over heads of exp(c_i) h dy_i
///     dB_j = (dG^T C)_j + sum over heads of dt_j exp(e - c_j) dh x_j
///     da_t = sum_{i >= t > j} G_ij E_ij W_ij dt_j + sum_{i >= t} exp(c_i) dy_i . (C_i h)
///            + sum_{j < t} dt_j exp(e - c_j) x_j . (dh B_j) + exp(e) <h, dh>
///     d dt = x . U + A da,  dA = sum dt da
///
/// Two kernels, and a sum over chunks:
///  1. backward_chunked_walk.cuh: a block has one unit, a head's columns, of one sequence. It walks the chunks
///     forward with h in float registers, or backward with dh, and leaves both for each chunk, rounded to 16 bits.
///  2. backward_chunked.cuh: a block has one chunk of one sequence and group, and goes through the group's
///     units with dC and dB in float registers, so that the sum over heads has a fixed order. Inside the chunk it
///     computes as the quadratic form does (backward_quadratic_launch.cuh): tiles of 16 tokens, decays in two factors below
///     the diagonal, da as sums over rectangles. Two teams of warps, first side by side, then the second with what the
///     first has left:
///        first:  W, dG and G E of the chunk's tiles; h dy_i, which goes into dC and, times C_i, into da; <h, dh>
///        second: dh B_j and dh x_j; then (G E)^T dy, dx, d dt and the sums for A and D
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/ssd/backward_chunked.cuh>
#include <dm2/cuda/ssd/backward_chunked_walk.cuh>
#include <dm2/cuda/ssd/backward_group.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <algorithm>
#include <cstddef>

namespace dm2::cuda::detail {

/// The form, as backward_operands.cuh describes one.
template <mixer_shape M, class T>
struct ssd_backward_chunked {
  using operands = ssd_backward_operands<M, T>;
  /// Kernels are built for 16-bit numbers, heads and states of a multiple of 16, up to 128 and 256.
  static constexpr bool possible =
      is_half<T> && M.headdim % 16 == 0 && M.d_state % 16 == 0 && M.headdim <= 128 && M.d_state <= 256;
  /// Sequences go in slices of at most about this much scratch: as many blocks as keep a device busy many times over.
  static constexpr std::size_t most_scratch = std::size_t{512} << 20;

  /// Pointers and rows at multiples of 16 bytes, and a block's shared memory: of Tiny or Small 112 KB, or 98 KB with
  /// one unit's operands at a time.
  static bool fits(operands const& p, device_properties const& device) {
    if constexpr (possible)
      return p.aligned() && layout{1}.bytes <= device.shared_per_block && walk::bytes <= device.shared_per_block;
    else
      return false;
  }
  static std::size_t scratch_bytes(int sequences, int length, device_properties const&) {
    return bytes_of(slice(sequences, length), length);
  }
  /// Enqueues the gradient. Only where fits(p, device).
  static void launch(operands const& p, std::byte* scratch, device_properties const& device, cudaStream_t stream) {
    if (p.sequences == 0) return;
    int const chunks = chunks_of(p.length), most = slice(p.sequences, p.length);
    arena memory{scratch, bytes_of(most, p.length)};
    scan::backward_chunk_scratch const s{memory, std::size_t(most) * std::size_t(chunks), state_bytes,
                                         std::size_t(M.heads)};
    for (int first = 0; first < p.sequences; first += most)
      launch_slice(p, s, first, std::min(most, p.sequences - first), chunks, device, stream);
  }

 private:
  using traits = scan::backward_chunk_traits<M, T>;
  using walk = scan::backward_walk_traits<traits>;
  using layout = scan::backward_chunk_layout<traits>;
  static constexpr unsigned units = unsigned(traits::units * M.groups);
  static constexpr std::size_t state_bytes = std::size_t(M.heads) * M.headdim * M.d_state * sizeof(T);

  static int chunks_of(int length) { return (length + scan::ssd_tile - 1) / scan::ssd_tile; }
  static std::size_t bytes_of(int sequences, int length) {
    return planned_bytes<scan::backward_chunk_scratch>(std::size_t(sequences) * std::size_t(chunks_of(length)),
                                                       state_bytes, std::size_t(M.heads));
  }
  /// Sequences of a slice: slices of one size.
  static int slice(int sequences, int length) {
    std::size_t const one = 2 * state_bytes * std::size_t(chunks_of(length));
    std::size_t const fit = std::clamp<std::size_t>(most_scratch / one, 1, 65535),
                      all = std::size_t(std::max(sequences, 1));
    std::size_t const slices = (all + fit - 1) / fit;
    return int((all + slices - 1) / slices);
  }
  /// Two units' operands at a time where that leaves a multiprocessor as many blocks.
  static layout plan(device_properties const& device) {
    auto const blocks = [&](int bytes) { return std::min(traits::resident, device.shared_per_sm / (bytes + 1024)); };
    layout const one{1}, two{2};
    return traits::units > 1 && blocks(two.bytes) >= std::max(1, blocks(one.bytes)) ? two : one;
  }
  static void launch_slice(operands const& p, scan::backward_chunk_scratch const& s, int first, int count, int chunks,
                           device_properties const& device, cudaStream_t stream) {
    if (chunks > 1) {
      auto const kernel = scan::ssd_backward_walk_kernel<walk>;
      prefer_shared("ssd_backward: states of chunks", kernel);
      detail::launch("ssd_backward: states of chunks", kernel,
                     {dim3(unsigned(count) * units, 2), walk::threads, std::size_t(walk::bytes)}, stream, p, s, first,
                     chunks);
    }
    layout const at = plan(device);
    auto const kernel = scan::ssd_backward_chunked_kernel<traits>;
    prefer_shared("ssd_backward: chunks", kernel);
    detail::launch("ssd_backward: chunks", kernel,
                   {dim3(unsigned(chunks * M.groups), unsigned(count)), traits::threads, std::size_t(at.bytes)}, stream,
                   p, at, s, first);
    detail::launch("ssd_backward: sums", chunk_sums_kernel<operands>,
                   {dim3(blocks_for(std::size_t(count) * M.heads, 128)), 128}, stream, p, s.da, s.d, first, count,
                   chunks);
  }
};

}  // namespace dm2::cuda::detail
