/// @file
/// The forms in which pictures come to the stem.
#pragma once

#include <dm2/cuda/element.cuh>

#include <cstddef>
#include <cstdint>

namespace dm2::cuda {

/// Pictures as a decoder leaves them: bytes on the device, normalised when the stem first reads them.
template <int C = 3>
struct byte_pictures {
  std::uint8_t const* data;  ///< [B, H, W, C]
  float scale[C];            ///< of each channel: a byte v stands for v scale + shift
  float shift[C];            ///< of each channel

  /// (v / 255 - mean) / deviation.
  [[nodiscard]] static constexpr byte_pictures normalised(std::uint8_t const* data, float const (&mean)[C],
                                                          float const (&deviation)[C]) {
    byte_pictures p{data, {}, {}};
    for (int c = 0; c < C; ++c) {
      p.scale[c] = 1.f / (255.f * deviation[c]);
      p.shift[c] = -mean[c] / deviation[c];
    }
    return p;
  }
};

namespace detail {

/// Reads byte_pictures of a stem of geometry G.
template <class G>
struct byte_reader {
  static constexpr int lines = 1, pixel_bytes = G::channels;  ///< of a row of a picture; of a line
  static constexpr bool zeros_stay = false;                   ///< whether copied zeros stand for zero
  byte_pictures<G::channels> from;

  [[nodiscard]] byte_reader skip(std::ptrdiff_t pictures) const {
    byte_reader r = *this;
    if (r.from.data != nullptr) r.from.data += pictures * G::height * G::width * G::channels;
    return r;
  }
  [[nodiscard]] __device__ float operator()(std::ptrdiff_t b, int y, int x, int c) const {
    return normalised(__ldg(static_cast<std::uint8_t const*>(line(b, y, 0)) + x * G::channels + c), c);
  }
  /// Whether lines can be copied 16 bytes at a time.
  [[nodiscard]] bool lines_are_aligned() const {
    return G::width * pixel_bytes % 16 == 0 && reinterpret_cast<std::uintptr_t>(from.data) % 16 == 0;
  }
  [[nodiscard]] __device__ void const* line(std::ptrdiff_t b, int y, int) const {
    return from.data + (b * G::height + y) * G::width * G::channels;
  }
  /// Two neighbouring pixels of copied lines, the first one at `at`.
  __device__ void read_pair(unsigned char const* at, int, float (&v)[2][4]) const {
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int c = 0; c < G::channels; ++c) v[i][c] = normalised(at[i * G::channels + c], c);
  }

 private:
  [[nodiscard]] __device__ float normalised(std::uint8_t v, int c) const {
    return fmaf(float(v), from.scale[c], from.shift[c]);
  }
};

/// Reads normalised floats [B, C, H, W].
template <class G>
struct planar_reader {
  static constexpr int lines = G::channels, pixel_bytes = 4;  ///< of a row of a picture; of a line
  static constexpr bool zeros_stay = true;                    ///< whether copied zeros stand for zero
  float const* data;

  [[nodiscard]] planar_reader skip(std::ptrdiff_t pictures) const {
    return {data == nullptr ? data : data + pictures * G::channels * G::height * G::width};
  }
  [[nodiscard]] __device__ float const* address(std::ptrdiff_t b, int y, int x, int c) const {
    return data + ((b * G::channels + c) * G::height + y) * G::width + x;
  }
  [[nodiscard]] __device__ float operator()(std::ptrdiff_t b, int y, int x, int c) const {
    return __ldg(address(b, y, x, c));
  }
  /// Whether lines can be copied 16 bytes at a time.
  [[nodiscard]] bool lines_are_aligned() const {
    return G::width % 4 == 0 && reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
  }
  [[nodiscard]] __device__ void const* line(std::ptrdiff_t b, int y, int c) const { return address(b, y, 0, c); }
  /// Two neighbouring pixels of copied lines, the first one at `at`, lines `apart` bytes from one to the next.
  __device__ void read_pair(unsigned char const* at, int apart, float (&v)[2][4]) const {
#pragma unroll
    for (int c = 0; c < G::channels; ++c) {
      float2 const both = *reinterpret_cast<float2 const*>(at + c * apart);
      v[0][c] = both.x, v[1][c] = both.y;
    }
  }
};

/// The readers of the two forms of pictures.
template <class G>
planar_reader<G> reader_of(float const* picture) {
  return {picture};
}
template <class G>
byte_reader<G> reader_of(byte_pictures<G::channels> const& picture) {
  return {picture};
}

}  // namespace detail
}  // namespace dm2::cuda
