/// @file
/// The scan's backward in float, in chunks of 64 tokens: any shape, any length, any precision.
///
/// With G = C B^T, E_ij = exp(c_i - c_j) (i >= j in the chunk, c the sum of dt A from the chunk's start),
/// W_ij = dy_i . x_j, and the state h that enters and the gradient dh that leaves a chunk whose decays sum to e:
///     U_j  = sum_{i >= j} G_ij E_ij dy_i + exp(e - c_j) dh B_j               dx_j = dt_j U_j + D dy_j,  dD = sum dy . x
///     dG   = sum over heads of E W dt_j                                      dC += dG B,  dB += dG^T C
///     dC_i += exp(c_i) h dy_i,  dB_j += dt_j exp(e - c_j) dh x_j             dh <- exp(e) dh + sum_i exp(c_i) C_i dy_i^T
///     da_t = sum_{i >= t > j} G_ij E_ij W_ij dt_j + sum_{i >= t} exp(c_i) dy_i . (C_i h)
///            + sum_{j < t} dt_j exp(e - c_j) x_j . (dh B_j) + exp(e) <h, dh>
///     d dt = x . U + A da,  dA = sum dt da
/// Every exponent is at most 0. The sums for da are over rectangles, without cancellation: row sums minus column sums
/// would lose the digits that 16-bit operands have (12 % of dA, against 0.07 %).
///
/// All chunks of all heads run at once; only the states pass from chunk to chunk. Four kernels, and one more for the
/// states of sequences of more than one chunk.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/device/launch.cuh>
#include <dm2/cuda/ssd/backward_general.cuh>
#include <dm2/cuda/ssd/backward_group.cuh>
#include <dm2/cuda/ssd/backward_states.cuh>
#include <dm2/cuda/tile/packet.cuh>

#include <algorithm>
#include <cstddef>

namespace dm2::cuda::detail {

/// A form of the scan's backward (backward_operands.cuh).
template <mixer_shape M, class T>
struct ssd_backward_general {
  using operands = ssd_backward_operands<M, T>;
  static constexpr bool possible = true;
  static constexpr std::size_t state = std::size_t(M.d_state) * M.headdim;
  /// Sequences go in slices of about this much scratch: enough for thousands of blocks at once.
  static constexpr std::size_t most_scratch = std::size_t{256} << 20;

  static bool fits(operands const&, device_properties const&) { return true; }

  static std::size_t scratch_bytes(int sequences, int length, device_properties const&) {
    return planned_bytes<ssd_backward_chunks>(places(slice(sequences, length), length), state);
  }

  static void launch(operands const& p, std::byte* scratch, device_properties const&, cudaStream_t stream) {
    int const chunks = chunks_of(p.length), most = slice(p.sequences, p.length);
    arena memory{scratch, planned_bytes<ssd_backward_chunks>(places(most, p.length), state)};
    ssd_backward_chunks const s{memory, places(most, p.length), state};
    for (int first = 0; first < p.sequences; first += most)
      launch_slice(p, s, first, std::min(most, p.sequences - first), chunks, stream);
  }

 private:
  static int chunks_of(int length) { return (length + backward_chunk - 1) / backward_chunk; }
  static std::size_t places(int sequences, int length) {
    return std::size_t(sequences) * std::size_t(chunks_of(length)) * M.heads;
  }
  static int slice(int sequences, int length) {
    std::size_t const one = places(1, length) * (2 * state + backward_chunk * backward_chunk) * sizeof(float);
    std::size_t const fit = std::clamp<std::size_t>(most_scratch / one, 1, 65535);
    return int(std::min<std::size_t>(fit, std::size_t(std::max(sequences, 1))));
  }
  static void launch_slice(operands const& p, ssd_backward_chunks const& s, int first, int count, int chunks,
                           cudaStream_t stream) {
    constexpr unsigned tiles = unsigned((M.d_state + block_side - 1) / block_side) * M.groups;
    unsigned const x = unsigned(count) * unsigned(chunks);
    if (chunks > 1) {
      detail::launch("ssd_backward: what chunks add", chunk_states_kernel<operands>,
                     {dim3(x, M.heads, 2), block_threads}, stream, p, s, first, chunks);
      detail::launch("ssd_backward: states", pass_states_kernel<operands>,
                     {dim3(blocks_for(state, 128), M.heads, unsigned(count)), 128}, stream, s, chunks);
    }
    detail::launch("ssd_backward: heads", chunk_head_kernel<operands>, {dim3(x, M.heads), block_threads}, stream, p, s,
                   first, chunks);
    detail::launch("ssd_backward: groups", chunk_group_kernel<operands>, {dim3(x, tiles, 2), block_threads}, stream, p,
                   s, first, chunks);
    detail::launch("ssd_backward: sums", chunk_sums_kernel<operands>,
                   {dim3(blocks_for(std::size_t(count) * M.heads, 128)), 128}, stream, p, s.da, s.d, first, count,
                   chunks);
  }
};

}  // namespace dm2::cuda::detail
