/// @file
/// Reads Huffman codes and numbers from a stream of 4-byte words.
/// Source: ITU-T T.81, F.2.2.
#pragma once

#include <dm2/cuda/check.cuh>
#include <dm2/data/decode/jpeg_record.hpp>

#include <cstdint>

namespace dm2::cuda::detail {

/// The codes of a picture's tables as a block's threads look them up.
struct code_tables {
  static constexpr int ahead = 9;  ///< bits that are looked up at once: 97 % of a photograph's codes at quality 96

  jpeg_huffman table[4];               ///< constant terms' two, then the others' two
  std::uint16_t entry[4][1 << ahead];  ///< by the next bits: 256 times the code's length plus its value, or 0
  std::uint8_t row_by_row[64];         ///< from a coefficient's place in the file to that in its block

  /// What `entry` says of the next bits of a table's codes.
  [[nodiscard]] static __device__ std::uint16_t look_up(jpeg_huffman const& t, std::int32_t next) {
    for (int length = 1; length <= ahead; ++length) {
      std::int32_t const code = next >> (ahead - length);
      if (code <= t.last[length]) return std::uint16_t(length << 8 | t.values[(code + t.offset[length]) & 255]);
    }
    return 0;
  }
};

/// The place, row by row, of a block's coefficient k, as the file counts them: along diagonals.
[[nodiscard]] __device__ inline int place_of(int k) {
  bool const late = k >= 36;  // in the half behind the longest diagonal, which is the other one turned round
  int const n = late ? 63 - k : k;
  int diagonal = 0, first = 0;
  while (first + diagonal + 1 <= n) first += ++diagonal;
  int const step = n - first;
  int const row = diagonal % 2 == 0 ? diagonal - step : step, place = 8 * row + diagonal - row;
  return late ? 63 - place : place;
}

/// The bits of one interval. Behind its end there are zeros, and `left` is negative.
class bit_reader {
 public:
  /// The bits of `bytes` bytes from `first` on.
  __device__ bit_reader(std::uint32_t const* first, std::uint32_t bytes)
      : next_{first}, end_{first + (bytes + 3) / 4}, left_{int(8 * bytes)} {
    load();
  }

  /// Bits that have not been read; below 0 where more were read than there are.
  [[nodiscard]] __device__ int left() const { return left_; }
  /// Makes sure of 32 bits for the calls that follow.
  __device__ void fill() {
    if (count_ > 32) return;
    bits_ |= std::uint64_t{word_} << (32 - count_);
    count_ += 32;
    load();
  }
  /// The value of the next code, -1 where it is none; up to 16 bits.
  [[nodiscard]] __device__ int code(code_tables const& codes, int number) {
    unsigned const entry = codes.entry[number][bits_ >> (64 - code_tables::ahead)];
    if (entry != 0) {
      drop(int(entry >> 8));
      return int(entry & 255);
    }
    jpeg_huffman const& t = codes.table[number];
    for (int length = code_tables::ahead + 1; length <= jpeg_huffman::longest; ++length) {
      std::int32_t const code = std::int32_t(bits_ >> (64 - length));
      if (code > t.last[length]) continue;
      drop(length);
      return t.values[(code + t.offset[length]) & 255];
    }
    return -1;
  }
  /// The number in the next 1 to 16 bits: the upper half of what they can say is positive.
  [[nodiscard]] __device__ int number(int bits) {
    int const v = int(bits_ >> (64 - bits)), half = 1 << (bits - 1);
    drop(bits);
    return v < half ? v - 2 * half + 1 : v;
  }

 private:
  /// The next word's bits, in the file's order. It is loaded a word before it is used.
  __device__ void load() {
    word_ = 0;
    if (next_ == end_) return;
    std::uint32_t const v = *next_++;
    word_ = v << 24 | (v << 8 & 0xFF0000u) | (v >> 8 & 0xFF00u) | v >> 24;
  }
  __device__ void drop(int n) {
    bits_ <<= n;
    count_ -= n;
    left_ -= n;
  }

  std::uint32_t const *next_, *end_;
  std::uint64_t bits_ = 0;  ///< the next ones, from the highest bit on
  std::uint32_t word_ = 0;  ///< what comes behind them
  int count_ = 0, left_;
};

}  // namespace dm2::cuda::detail
