/// @file
/// PNG files of every colour type and depth, against the definition of each.
#include <dm2/data/decode.hpp>
#if defined(DM2_WITH_STB) || !defined(DM2_WITH_PNG)
#include <dm2/data/decode/stb.hpp>
#define DM2_TEST_STB 1
#endif

#include <doctest/doctest.h>

#include "data/golden_images.hpp"

#ifndef DM2_WITH_PNG

TEST_CASE("decode_png: absent without libpng; decode_image reads PNG all the same") {
  CHECK(dm2::read_image(dm2::test::golden_image("rgb.png")) == dm2::test::golden_picture("rgb.png/rgb"));
}

#else

#include <functional>
#include <random>
#include <string>

#include "data/make_png.hpp"

using namespace dm2;
using namespace dm2::test;

namespace {

/// Random packed rows of one PNG kind, and what its samples are.
struct sample_grid {
  int height, width, channels, depth;
  std::size_t stride;
  std::vector<std::uint8_t> rows;

  sample_grid(int h, int w, int c, int d)
      : height{h}, width{w}, channels{c}, depth{d}, stride{static_cast<std::size_t>((w * c * d + 7) / 8)} {
    std::mt19937 random{static_cast<unsigned>(w * 100 + d)};
    rows.resize(stride * static_cast<std::size_t>(h));
    for (auto& b : rows) b = static_cast<std::uint8_t>(random());
  }

  [[nodiscard]] unsigned at(int y, int x, int c) const {
    std::size_t const bit = static_cast<std::size_t>((x * channels + c) * depth);
    std::uint8_t const* const p = rows.data() + static_cast<std::size_t>(y) * stride + bit / 8;
    if (depth == 16) return static_cast<unsigned>(p[0] << 8 | p[1]);
    return (unsigned{p[0]} >> (8 - bit % 8 - static_cast<unsigned>(depth))) & ((1u << depth) - 1);
  }
};

/// The RGB byte c of the pixel at (y, x), as it should be.
using meaning = std::function<unsigned(sample_grid const&, int y, int x, int c)>;

picture expected(sample_grid const& g, meaning const& value) {
  picture p{g.height, g.width};
  for (int y = 0; y < g.height; ++y)
    for (int x = 0; x < g.width; ++x)
      for (int c = 0; c < 3; ++c) p.row(y)[3 * x + c] = static_cast<std::uint8_t>(value(g, y, x, c));
  return p;
}

/// Checks both layouts and every decoder; 1 x 1 has empty interlace passes, 33 x 19 partly filled bytes.
void check_kind(int channels, png_recipe recipe, meaning const& value) {
  for (auto const& [h, w] : {std::pair{19, 33}, {1, 1}, {40, 8}}) {
    sample_grid const g{h, w, channels, recipe.depth};
    picture const want = expected(g, value);
    for (bool const interlaced : {false, true}) {
      CAPTURE(recipe.depth);
      CAPTURE(recipe.colour);
      CAPTURE(interlaced);
      recipe.interlaced = interlaced;
      auto const file = make_png(g.rows, h, w, g.stride, recipe);
      CHECK(decode_png(file, "kind.png") == want);
#ifdef DM2_TEST_STB
      CHECK(decode_stb(file, "kind.png") == want);
#endif
    }
  }
}

}  // namespace

TEST_CASE("decode_png: grey of 1 to 8 bits is spread over 0 to 255, transparent or not") {
  for (int const depth : {1, 2, 4, 8})
    for (bool const transparent : {false, true})
      check_kind(1, {.depth = depth, .colour = PNG_COLOR_TYPE_GRAY, .transparent_colour = transparent},
                 [=](sample_grid const& g, int y, int x, int) { return g.at(y, x, 0) * 255 / ((1u << depth) - 1); });
}

TEST_CASE("decode_png: 16-bit grey is clamped to 255, as Pillow converts it") {
  for (bool const transparent : {false, true})
    check_kind(1, {.depth = 16, .colour = PNG_COLOR_TYPE_GRAY, .transparent_colour = transparent},
               [](sample_grid const& g, int y, int x, int) { return std::min(255u, g.at(y, x, 0)); });
  std::uint8_t const dark[4] = {0, 77, 0, 255};
  auto const file = make_png(dark, 1, 2, 4, {.depth = 16, .colour = PNG_COLOR_TYPE_GRAY});
  CHECK(decode_png(file, "dark.png").pixels == std::vector<std::uint8_t>{77, 77, 77, 255, 255, 255});
}

TEST_CASE("decode_png: 16-bit colour and grey with alpha keep the high byte") {
  auto const high = [](sample_grid const& g, int y, int x, int c) {
    return g.at(y, x, g.channels < 3 ? 0 : c) >> (g.depth - 8);
  };
  for (int const depth : {8, 16}) {
    check_kind(3, {.depth = depth, .colour = PNG_COLOR_TYPE_RGB}, high);
    check_kind(3, {.depth = depth, .colour = PNG_COLOR_TYPE_RGB, .transparent_colour = true}, high);
    check_kind(2, {.depth = depth, .colour = PNG_COLOR_TYPE_GRAY_ALPHA}, high);
    check_kind(4, {.depth = depth, .colour = PNG_COLOR_TYPE_RGB_ALPHA}, high);
  }
}

TEST_CASE("decode_png: palettes of every depth, with and without alpha") {
  for (int const depth : {1, 2, 4, 8})
    for (bool const transparent : {false, true}) {
      png_recipe r{.depth = depth, .colour = PNG_COLOR_TYPE_PALETTE};
      for (unsigned i = 0; i < 1u << depth; ++i)
        r.palette.push_back(
            {static_cast<png_byte>(7 * i), static_cast<png_byte>(255 - i), static_cast<png_byte>(i * i)});
      if (transparent) r.palette_alpha = {0, 128};
      check_kind(1, r, [=](sample_grid const& g, int y, int x, int c) {
        png_color const& p = r.palette[g.at(y, x, 0)];
        return unsigned{c == 0 ? p.red : c == 1 ? p.green : p.blue};
      });
    }
}

TEST_CASE("decode_png: a wrong checksum in the data or the palette is refused") {
  auto const file = file_bytes(golden_image("palette.png"));
  std::string const text{reinterpret_cast<char const*>(file.data()), file.size()};
  for (std::string const chunk : {"IHDR", "PLTE", "IDAT"}) {
    CAPTURE(chunk);
    auto broken = file;
    std::size_t const type = text.find(chunk);
    REQUIRE(type != std::string::npos);
    std::size_t length = 0;
    for (std::size_t i = type - 4; i < type; ++i) length = length << 8 | std::to_integer<std::size_t>(file[i]);
    broken[type + 4 + length] ^= std::byte{1};
    CHECK_THROWS_AS((void)decode_png(broken, "sum.png"), file_error);
  }
}

TEST_CASE("decode_png: the end chunk may be missing") {
  auto const file = file_bytes(golden_image("rgb.png"));
  CHECK(decode_png(std::span{file}.first(file.size() - 12), "no_end.png") == golden_picture("rgb.png/rgb"));
}

TEST_CASE("decode_png: a flat picture, which compresses best, is not taken for a bomb") {
  for (int const depth : {1, 8}) {
    std::size_t const stride = static_cast<std::size_t>(4096 * depth / 8);
    std::vector<std::uint8_t> const rows(4096 * stride);
    auto const file = make_png(rows, 4096, 4096, stride, {.depth = depth, .colour = PNG_COLOR_TYPE_GRAY});
    CHECK(decode_png(file, "flat.png") == picture{4096, 4096});
  }
}

#endif
