/// @file
/// JPEGs for the decoder's tests, what the device makes of them, and what libjpeg does.
#pragma once

#include <dm2/cuda/decode.cuh>
#include <dm2/data/encoded_picture.hpp>

#include "data/make_jpeg.hpp"

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace dm2::test::jpeg_decoding {

/// What became of a picture.
enum class outcome { same, other, damaged, refused, hosts };

/// A file, and the part of it that is asked for; height 0: the whole.
struct wanted {
  std::vector<std::byte> file;
  pixel_box part{};
};

/// A file's header and streams; nothing where the host has to decode it.
struct prepared {
  jpeg_record jpeg;
  std::vector<std::byte> streams;
};
inline std::optional<prepared> prepare(std::span<std::byte const> file) {
  try {
    encoded_picture const from{file, "test.jpg"};
    auto const given = from.for_device();
    if (!given) return std::nullopt;
    prepared out{given->header, std::vector<std::byte>(detail::streams_extent(given->header, given->data.size()))};
    std::size_t const used = detail::write_streams(out.jpeg, given->data, out.streams.data());
    if (used == 0) return std::nullopt;
    out.streams.resize(used);
    return out;
  } catch (file_error const&) {
    return std::nullopt;
  }
}

/// libjpeg's pixels; nothing where it refuses the file.
inline std::optional<picture> by_libjpeg(std::span<std::byte const> file, pixel_box part) {
  try {
    encoded_picture from{file, "test.jpg"};
    return part.height == 0 ? from.whole() : from.part(part);
  } catch (file_error const&) {
    return std::nullopt;
  }
}

/// A decoder with its stream, whose memory is used again.
class decoded_on_device {
  using jpeg_request = cuda::jpeg_request;

 public:
  /// Decodes a batch, and compares each picture with libjpeg's.
  std::vector<outcome> operator()(std::vector<wanted> const& all) {
    std::vector<outcome> out(all.size(), outcome::hosts);
    std::vector<std::optional<prepared>> ready;
    std::vector<jpeg_request> requests;
    std::vector<std::size_t> owner;
    std::vector<std::byte> data;
    std::size_t pixels = 0;
    ready.reserve(all.size());
    for (wanted const& w : all) ready.push_back(prepare(w.file));
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (!ready[i]) continue;
      jpeg_record const& jpeg = ready[i]->jpeg;
      pixel_box const part = all[i].part.height == 0 ? pixel_box{0, 0, jpeg.height, jpeg.width} : all[i].part;
      requests.push_back({&jpeg, data.size(), part, pixels});
      owner.push_back(i);
      data.insert(data.end(), ready[i]->streams.begin(), ready[i]->streams.end());
      pixels += 3 * std::size_t(part.height) * std::size_t(part.width) + guard;
    }
    if (requests.empty()) return out;
    auto const got = decode(requests, data, pixels);
    for (std::size_t k = 0; k < requests.size(); ++k)
      out[owner[k]] = judge(requests[k], all[owner[k]], got, damaged_[k]);
    return out;
  }

  /// The outcome of one picture.
  outcome one(std::vector<std::byte> file, pixel_box part = {}) {
    return (*this)(std::vector<wanted>{{std::move(file), part}})[0];
  }

 private:
  static constexpr std::size_t guard = 5;  ///< bytes between pictures that nothing may touch

  std::vector<std::uint8_t> decode(std::vector<jpeg_request> const& requests, std::vector<std::byte> const& data,
                                   std::size_t pixels) {
    cuda::device_memory const from{data.size()}, to{pixels};
    cuda::check(cudaMemcpy(from.data(), data.data(), data.size(), cudaMemcpyHostToDevice), "data");
    cuda::check(cudaMemset(to.data(), 0xA7, pixels), "poison");
    cuda::check(cudaDeviceSynchronize(), "poison");
    decode_.enqueue(requests, from.data(), reinterpret_cast<std::uint8_t*>(to.data()), stream_.get());
    damaged_.assign(requests.size(), false);
    for (int const i : decode_.wait()) damaged_[std::size_t(i)] = true;
    std::vector<std::uint8_t> got(pixels);
    cuda::check(cudaMemcpy(got.data(), to.data(), pixels, cudaMemcpyDeviceToHost), "pixels");
    return got;
  }
  static outcome judge(jpeg_request const& r, wanted const& asked, std::vector<std::uint8_t> const& got, bool damaged) {
    std::size_t const bytes = 3 * std::size_t(r.part.height) * std::size_t(r.part.width);
    for (std::size_t i = 0; i < guard; ++i) CHECK(got[r.pixels + bytes + i] == 0xA7);
    if (damaged) return outcome::damaged;
    auto const want = by_libjpeg(asked.file, asked.part);
    if (!want) return outcome::refused;
    return std::memcmp(want->pixels.data(), got.data() + r.pixels, bytes) == 0 ? outcome::same : outcome::other;
  }

  cuda::jpeg_decoder decode_;
  cuda::stream stream_;
  std::vector<bool> damaged_;
};

/// A picture of waves and edges with noise of so many levels.
inline picture drawn(int height, int width, int noise, std::mt19937& random) {
  picture p{height, width};
  int const slope = int(random() % 7), edge = 1 + int(random() % 40);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      for (int c = 0; c < 3; ++c) {
        int const wave = (x * (slope + c) + y * (9 - slope)) % 256, block = ((x + y * (c + 1)) / edge) % 2 * 90;
        int const v = wave / 2 + block + (noise == 0 ? 0 : int(random() % unsigned(noise)));
        p.row(y)[3 * x + c] = std::uint8_t(v > 255 ? 255 : v);
      }
  return p;
}

/// The file of a recipe; grey of the picture's first channel where the recipe has one component.
inline std::vector<std::byte> file_of(picture const& p, jpeg_recipe const& r) {
  if (r.components == 3) return make_jpeg(p.pixels, p.height, p.width, r);
  std::vector<std::uint8_t> grey;
  grey.reserve(p.pixels.size() / 3);
  for (std::size_t i = 0; i < p.pixels.size(); i += 3) grey.push_back(p.pixels[i]);
  return make_jpeg(grey, p.height, p.width, r);
}

/// Grey, 4:4:4, 4:2:2, 4:2:0.
inline jpeg_recipe layout(int number) {
  jpeg_recipe r;
  if (number == 0) r.components = 1, r.given = r.stored = JCS_GRAYSCALE;
  r.horizontal = number >= 2 ? 2 : 1;
  r.vertical = number == 3 ? 2 : 1;
  return r;
}

}  // namespace dm2::test::jpeg_decoding
