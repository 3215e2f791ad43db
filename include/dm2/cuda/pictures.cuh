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
  byte_pictures<G::channels> from;

  [[nodiscard]] byte_reader skip(std::ptrdiff_t pictures) const {
    byte_reader r = *this;
    if (r.from.data != nullptr) r.from.data += pictures * G::height * G::width * G::channels;
    return r;
  }
  [[nodiscard]] __device__ float operator()(std::ptrdiff_t b, int y, int x, int c) const {
    std::uint8_t const v = __ldg(from.data + ((b * G::height + y) * G::width + x) * G::channels + c);
    return fmaf(float(v), from.scale[c], from.shift[c]);
  }
};

/// Reads normalised floats [B, C, H, W].
template <class G>
struct planar_reader {
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
