/// @file
/// Decoding against the golden pictures, by the build's own decoders and by stb_image.
#include <dm2/data/decode.hpp>
#if defined(DM2_WITH_STB) || !defined(DM2_WITH_JPEG) || !defined(DM2_WITH_PNG)
#include <dm2/data/decode/stb.hpp>
#define DM2_TEST_STB 1
#endif
#include <dm2/data/transform.hpp>

#include <doctest/doctest.h>

#include <string>

#include "data/golden_images.hpp"

using namespace dm2;
using namespace dm2::test;

namespace {

bool is_jpeg(std::string const& name) { return name.ends_with(".jpg"); }

/// Byte for byte, except for JPEG in a build without libjpeg.
void check_golden(picture const& got, picture const& want, [[maybe_unused]] bool lossy) {
#ifndef DM2_WITH_JPEG
  if (lossy) {
    distance const d = difference(got, want);
    CHECK(d.largest <= 3);
    CHECK(d.mean <= 0.5);
    return;
  }
#endif
  CHECK(got == want);
}

}  // namespace

TEST_CASE("read_image: every golden file decodes to Pillow's bytes") {
  for (std::string const name : golden_pictures) {
    CAPTURE(name);
    check_golden(read_image(golden_image(name)), golden_picture(name + "/rgb"), is_jpeg(name));
  }
}

TEST_CASE("evaluation_transform: every golden file gives torchvision's bytes") {
  for (std::string const name : golden_pictures) {
    CAPTURE(name);
    check_golden(evaluation_transform(read_image(golden_image(name))), golden_picture(name + "/eval_224"),
                 is_jpeg(name));
  }
}

TEST_CASE("evaluation_transform: Pillow's decoded bytes give torchvision's bytes") {
  for (std::string const name : golden_pictures) {
    CAPTURE(name);
    CHECK(evaluation_transform(golden_picture(name + "/rgb")) == golden_picture(name + "/eval_224"));
  }
}

TEST_CASE("resized_crop: the golden crops are Pillow's, with both filters") {
  picture const photo = golden_picture("photo.jpg/rgb");
  for (int i = 0; i < 4; ++i) {
    CAPTURE(i);
    std::string const key = "photo.jpg/crop" + std::to_string(i);
    std::vector<std::int64_t> shape;
    auto const b = golden_tensor<int>(key + "_box", shape);
    REQUIRE(b.size() == 4);
    pixel_box const box{b[0], b[1], b[2], b[3]};
    CHECK(resized_crop(photo, box, 224, 224, resize_filter::bilinear) == golden_picture(key + "_bilinear"));
    CHECK(resized_crop(photo, box, 224, 224, resize_filter::bicubic) == golden_picture(key + "_bicubic"));
  }
}

TEST_CASE("read_image: the content decides, not the name") {
  scratch_folder const folder;
  std::filesystem::copy_file(golden_image("rgb.png"), folder.path() / "really_png.jpg");
  std::filesystem::copy_file(golden_image("gray.jpg"), folder.path() / "no_extension");
  CHECK(read_image(folder.path() / "really_png.jpg") == golden_picture("rgb.png/rgb"));
  check_golden(read_image(folder.path() / "no_extension"), golden_picture("gray.jpg/rgb"), true);
}

#ifdef DM2_TEST_STB
TEST_CASE("decode_stb: PNG is equal, JPEG within 3 levels and 0.5 on average") {
  for (std::string const name : golden_pictures) {
    CAPTURE(name);
    picture const got = decode_stb(file_bytes(golden_image(name)), name);
    picture const want = golden_picture(name + "/rgb");
    distance const d = difference(got, want);
    CHECK(d.largest <= (is_jpeg(name) ? 3 : 0));
    CHECK(d.mean <= (is_jpeg(name) ? 0.5 : 0));
  }
}
#endif
