/// @file
/// Entropy-coded data to coefficients: a thread an interval.
/// Source: ITU-T T.81, F.2.2.
#pragma once

#include <dm2/cuda/decode/bits.cuh>
#include <dm2/cuda/decode/records.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda::detail {

/// How intervals are spread over threads. The threads of a warp go through their codes one after the other where these
/// differ in kind, so few of them work, and more warps hide each other's waiting. Several pictures share a block: a
/// batch of 256 takes 64 multiprocessors, and leaves the others to kernels that need a whole one, as large products do.
struct interval_threads {
  static constexpr int threads = 128;                         ///< of a picture
  static constexpr int each_warp = 8;                         ///< threads of a warp that have an interval
  static constexpr int intervals = threads / 32 * each_warp;  ///< of a picture at a time
  static constexpr int pictures = 4;                          ///< of a block
};

/// Largest constant term that is a picture's: a quarter of what 16 bits hold, eight times what encoders write.
inline constexpr int most_constant = 8191;

/// Decodes a block's coefficients by tables `dc` and `ac`; false where the data are no block's. `to`, which is zero,
/// may be null: they are not kept.
[[nodiscard]] __device__ inline bool decode_block(bit_reader& in, code_tables const& codes, int dc, int ac,
                                                  int& constant, std::int16_t* to) {
  int v = 0;
  if (in.next(codes, dc, v) == 0) return false;
  constant += v;
  if (constant > most_constant || constant < -most_constant) return false;
  if (to != nullptr) to[0] = std::int16_t(constant);
  bool sound = true;  // no way out before the end: threads that do not part need not be brought together again
  for (int k = 1; k < 64; ++k) {
    unsigned const found = in.next(codes, ac, v), zeros = found >> 4 & 15, bits = found & 15;
    bool const rest = bits == 0 && zeros != 15;  // it is zero
    k += rest ? 64 : int(zeros);
    bool const inside = k < 64;
    sound = sound && found != 0 && (bits == 0 || inside);
    if (bits != 0 && inside && to != nullptr) to[k] = std::int16_t(v);
  }
  return sound && in.left() >= 0;
}

/// Decodes a component's blocks of one MCU. `to`: the first one's place, or null; `row`: numbers from one row of blocks
/// to the next.
[[nodiscard]] __device__ inline bool decode_component(bit_reader& in, code_tables const& codes, jpeg_component const& c,
                                                      int& constant, std::int16_t* to, std::size_t row) {
  int const down = c.down, across = c.across, dc = c.dc, ac = 2 + c.ac;  // what is stored might be these, for all that
                                                                         // the compiler knows: it would load them again
  for (int y = 0; y < down; ++y)
    for (int x = 0; x < across; ++x) {
      std::int16_t* const block = to == nullptr ? nullptr : to + row * std::size_t(y) + 64 * x;
      if (!decode_block(in, codes, dc, ac, constant, block)) return false;
    }
  return true;
}

/// Decodes interval `number` of a picture up to the rows that are read; false where its data are damaged. `constant`:
/// room for each component's latest constant term.
[[nodiscard]] __device__ inline bool decode_interval(decode_call const& call, decode_record const& p,
                                                     code_tables const& codes, int number, int* constant) {
  jpeg_record const& jpeg = p.jpeg;
  jpeg_rows const rows = p.rows;
  int const across = jpeg.mcus_across(), components = jpeg.components, first = number * jpeg.interval;
  int const end = dm2::detail::least(first + jpeg.interval, across * rows.read);
  if (first >= end) return true;
  std::uint32_t const* const streams = call.streams + p.streams;
  bit_reader in{streams + streams[2 * number], streams[2 * number + 1]};
  for (int c = 0; c < 3; ++c) constant[c] = 0;
  int row = first / across, column = first % across;
  for (int mcu = first; mcu < end; ++mcu) {
    bool const kept = row >= rows.first && row < rows.end;
    for (int c = 0; c < components; ++c) {
      jpeg_component const& part = jpeg.part[c];
      std::size_t const wide = 64 * std::size_t(across) * std::size_t(part.across),
                        at =
                            wide * std::size_t((row - rows.first) * part.down) + 64 * std::size_t(column * part.across);
      std::int16_t* const to = kept ? call.coefficients + p.samples[c] + at : nullptr;
      if (!decode_component(in, codes, part, constant[c], to, wide)) return false;
    }
    if (++column == across) column = 0, ++row;
  }
  return true;
}

/// Copies a picture's tables, by its threads.
__device__ inline void copy_tables(code_tables& to, jpeg_record const& jpeg, int thread) {
  constexpr int words = int(sizeof(jpeg_huffman) / 4);
  static_assert(sizeof(jpeg_huffman) % 4 == 0 && alignof(jpeg_huffman) == 4);
  for (int n = 0; n < 4; ++n) {
    auto const* const from = reinterpret_cast<std::uint32_t const*>(n < 2 ? jpeg.dc + n : jpeg.ac + (n - 2));
    auto* const table = reinterpret_cast<std::uint32_t*>(to.table + n);
    for (int i = thread; i < words; i += interval_threads::threads) table[i] = from[i];
  }
}
/// Fills in what follows from them.
__device__ inline void enter_codes(code_tables& to, int thread) {
  constexpr int entries = 1 << code_tables::ahead;
  for (int i = thread; i < 4 * entries; i += interval_threads::threads)
    to.entry[i / entries][i % entries] = std::uint16_t(code_tables::search(
        to.table[i / entries], std::uint32_t(i % entries) << (32 - code_tables::ahead), 1, code_tables::ahead));
}

/// The coefficients of the block.x-th pictures; block.y takes every gridDim.y-th stretch of their intervals.
/// Two blocks a multiprocessor leave 64 registers, which is what it takes.
template <class Call>
__global__ void __launch_bounds__(interval_threads::threads* interval_threads::pictures, 2)
    decode_intervals_kernel(Call call) {
  using shape = interval_threads;
  __shared__ code_tables codes[shape::pictures];
  __shared__ int constants[shape::pictures][shape::intervals][3];
  int const own = int(threadIdx.x) / shape::threads, thread = int(threadIdx.x) % shape::threads;
  int const number = int(blockIdx.x) * shape::pictures + own;
  decode_record const& p = call.pictures[dm2::detail::least(number, call.count - 1)];
  int const first = int(blockIdx.y) * shape::intervals, intervals = number < call.count ? p.jpeg.intervals : 0;
  if (first < intervals) copy_tables(codes[own], p.jpeg, thread);
  __syncthreads();
  if (first < intervals) enter_codes(codes[own], thread);
  __syncthreads();
  if (thread % 32 >= shape::each_warp) return;
  int const place = thread / 32 * shape::each_warp + thread % 32;
  for (int i = first + place; i < intervals; i += int(gridDim.y) * shape::intervals)
    if (!decode_interval(call, p, codes[own], i, constants[own][place])) call.damaged[number] = 1;
}

}  // namespace dm2::cuda::detail
