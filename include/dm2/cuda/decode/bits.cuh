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

  /// What a table says of the next 32 bits, looking at codes of `shortest` to `longest` bits: 256 times the code's
  /// length plus its value, or 0 where they begin with none of these.
  [[nodiscard]] static __device__ unsigned search(jpeg_huffman const& t, std::uint32_t bits, int shortest,
                                                  int longest) {
    for (int length = shortest; length <= longest; ++length) {
      std::int32_t const code = std::int32_t(bits >> (32 - length));
      if (code <= t.last[length]) return unsigned(length) << 8 | t.values[(code + t.offset[length]) & 255];
    }
    return 0;
  }
  /// The same of codes of any length of table `number`.
  [[nodiscard]] __device__ unsigned find(int number, std::uint32_t bits) const {
    unsigned const known = entry[number][bits >> (32 - ahead)];
    return known != 0 ? known : search(table[number], bits, ahead + 1, jpeg_huffman::longest);
  }
};

/// The bits of one interval. Behind its end there are zeros, and `left` is negative.
///
/// Each number waits for the one before it, so what counts is how long that takes: two words of bits are at hand, and a
/// place among them. The word behind them is on its way, and nothing waits for it before it is needed, some five
/// numbers later.
class bit_reader {
 public:
  /// The bits of `bytes` bytes from `first` on.
  __device__ bit_reader(std::uint32_t const* first, std::uint32_t bytes)
      : next_{first}, words_{int((bytes + 3) / 4)}, bits_{int(8 * bytes)} {
    for (int i = 0; i < 3; ++i) take_word();
  }

  /// Bits that have not been read; below 0 where more were read than there are.
  [[nodiscard]] __device__ int left() const { return bits_ - at_; }
  /// The next code of table `number`, as code_tables::find tells it. `v`: the number behind it, in as many bits as the
  /// code's value modulo 16 says; the upper half of what they can say is positive, and no bits are 0.
  [[nodiscard]] __device__ unsigned next(code_tables const& codes, int number, int& v) {
    std::uint32_t const bits = __funnelshift_l(second_, first_, unsigned(at_));
    unsigned const found = codes.find(number, bits);
    int const length = int(found >> 8), size = int(found & 15);
    std::uint32_t const behind = bits << length;
    v = int(behind >> 1 >> (31 - size)) + (std::int32_t(behind) < 0 ? 0 : 1 - (1 << size));
    pass(length + size);
    return found;
  }

 private:
  /// Goes on by 0 to 31 bits.
  __device__ void pass(int n) {
    int const before = at_;
    at_ += n;
    if (((at_ ^ before) & 32) != 0) take_word();
  }
  /// The word that was on its way joins the bits at hand, in the file's order.
  __device__ void take_word() {
    first_ = second_;
    second_ = __byte_perm(coming_, 0, 0x0123);
    coming_ = 0;
    if (words_ > 0) --words_, coming_ = *next_++;
  }

  std::uint32_t const* next_;
  std::uint32_t first_ = 0, second_ = 0, coming_ = 0;
  int words_, bits_, at_ = 0;  ///< words behind those, bits of all, and those that have been read
};

}  // namespace dm2::cuda::detail
