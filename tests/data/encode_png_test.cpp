/// @file
/// Writing PNG: what is written reads back, whole or not at all.
#include <dm2/core/error.hpp>
#include <dm2/data/decode.hpp>
#include <dm2/data/encode_png.hpp>

#include <doctest/doctest.h>

#include <filesystem>
#include <iterator>

#include "data/golden_images.hpp"

using namespace dm2;
using namespace dm2::test;

TEST_CASE("encode_png: decoding gives the picture back") {
  for (auto const& [h, w] : {std::pair{1, 1}, {1, 300}, {300, 1}, {37, 53}, {224, 224}}) {
    picture const p = gradient(h, w);
    CHECK(decode_image(encode_png(p), "memory.png") == p);
  }
  CHECK_THROWS_AS((void)encode_png(picture{}), shape_error);
}

TEST_CASE("write_png: replaces a file and leaves nothing else behind") {
  scratch_folder const folder;
  auto const path = folder.path() / "out.png";
  write_png(path, gradient(20, 30));
  write_png(path, gradient(31, 17));
  CHECK(read_image(path) == gradient(31, 17));
  CHECK(std::distance(std::filesystem::directory_iterator{folder.path()}, {}) == 1);
}

TEST_CASE("write_png: a path that cannot be written is named, and what stood there stays") {
  scratch_folder const folder;
  auto const path = folder.path() / "no such folder" / "out.png";
  try {
    write_png(path, gradient(4, 4));
    FAIL("expected file_error");
  } catch (file_error const& e) {
    CHECK(e.path() == path);
  }
  write_png(folder.path() / "keep.png", gradient(4, 4));
  CHECK_THROWS_AS(write_png(folder.path() / "keep.png", picture{}), shape_error);
  CHECK(read_image(folder.path() / "keep.png") == gradient(4, 4));
}
