// dm2.data's compiled part: decoding, and the transforms of evaluation and training.
#include "pictures.hpp"

#include <dm2/core/random.hpp>
#include <dm2/data/augment/rand_augment_text.hpp>
#include <dm2/data/dataset.hpp>
#include <dm2/data/sample_transform.hpp>

#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace dm2::python {

namespace {

using extents = std::pair<int, int>;
using range = std::pair<double, double>;

nb::ndarray<nb::numpy, std::uint8_t> pixels_of(picture const& p) {
  made_array<std::uint8_t> out{p.pixels.size()};
  std::copy(p.pixels.begin(), p.pixels.end(), out.data());
  return out.give({std::size_t(p.height), std::size_t(p.width), 3});
}

/// A random change of a picture that depends on (seed, epoch, index) and on nothing else.
class training_change {
 public:
  training_change(extents size, std::uint64_t seed, std::string const& operations, double flip, range scale,
                  range ratio, double erase, range erase_area, range erase_ratio)
      : size_{size.first, size.second}, seed_{seed}, transform_{} {
    augmentation a;
    a.flip = flip;
    a.erase = erase;
    std::tie(a.area_min, a.area_max) = scale;
    std::tie(a.ratio_min, a.ratio_max) = ratio;
    std::tie(a.erase_area_min, a.erase_area_max) = erase_area;
    std::tie(a.erase_ratio_min, a.erase_ratio_max) = erase_ratio;
    if (operations == "none")
      a.operations = 0;
    else
      a = parse_rand_augment(operations, a);
    transform_ = training_sample_transform(size_, a);
  }

  [[nodiscard]] auto apply(nb::handle from, std::uint64_t index, std::uint32_t epoch) const {
    picture_source const source{from};
    std::size_t const height = std::size_t(size_.height), width = std::size_t(size_.width);
    made_array<float> out{3 * height * width};
    crop_fraction crop{};
    {
      nb::gil_scoped_release const released;
      random_stream stream{seed_, epoch, index};
      std::span const to{out.data(), out.count};
      crop = source.visit([&](auto&& p) {
        if constexpr (std::is_lvalue_reference_v<decltype(p)>)
          return transform_(p, nullptr, stream, to);
        else
          return transform_(std::move(p), nullptr, stream, to);
      });
    }
    return std::pair{out.give({3, height, width}), std::tuple{crop.top, crop.left, crop.height, crop.width}};
  }

 private:
  image_extent size_;
  std::uint64_t seed_;
  sample_transform transform_;
};

auto decode(nb::handle from) {
  picture_source const source{from};
  picture p;
  {
    nb::gil_scoped_release const released;
    p = source.visit([](auto&& given) {
      if constexpr (std::is_lvalue_reference_v<decltype(given)>)
        return given.whole();
      else
        return std::move(given);
    });
  }
  return pixels_of(p);
}

auto evaluation_pixels(nb::handle from, extents crop, extents resize) {
  picture_source const source{from};
  picture p;
  {
    nb::gil_scoped_release const released;
    p = source.evaluated({crop.first, crop.second}, {resize.first, resize.second});
  }
  return pixels_of(p);
}

auto normalised(read_array<std::uint8_t> const& pixels) {
  if (pixels.ndim() != 3 || pixels.shape(2) != 3) throw nb::type_error("expected an array [height, width, 3] of bytes");
  made_array<float> out{pixels.size()};
  {
    nb::gil_scoped_release const released;
    normalise(std::span{pixels.data(), pixels.size()}, std::span{out.data(), out.count});
  }
  return out.give({3, pixels.shape(0), pixels.shape(1)});
}

/// Class names, paths and class numbers of a folder of class folders.
auto list_folder(std::string const& root, bool natural) {
  dataset const set{root, {.order = natural ? class_order::natural : class_order::plain}};
  std::vector<std::pair<std::string, int>> samples;
  samples.reserve(set.size());
  for (std::size_t i = 0; i < set.size(); ++i) samples.emplace_back(set.image(i).string(), set.label(i));
  auto const names = set.class_names();
  return std::pair{std::vector<std::string>{names.begin(), names.end()}, samples};
}

}  // namespace

void add_pictures(nb::module_& m) {
  m.def("decode", decode, nb::arg("picture"), "Pixels [height, width, 3] of a JPEG or PNG: Pillow's, byte for byte.");
  m.def("evaluation_pixels", evaluation_pixels, nb::arg("picture"), nb::arg("crop"), nb::arg("resize"),
        "The pixels that evaluation shows the model: torchvision's CenterCrop(Resize(picture)).");
  m.def("normalised", normalised, nb::arg("pixels"),
        "[3, height, width] with ImageNet's mean and deviation taken out.");
  m.def("list_folder", list_folder, nb::arg("root"), nb::arg("natural"),
        "Class names, and (path, class) of each picture of ROOT/CLASS/...");
  nb::class_<training_change>(m, "TrainingChange")
      .def(nb::init<extents, std::uint64_t, std::string const&, double, range, range, double, range, range>(),
           nb::arg("size"), nb::arg("seed"), nb::arg("auto_augment"), nb::arg("hflip"), nb::arg("scale"),
           nb::arg("ratio"), nb::arg("reprob"), nb::arg("re_area"), nb::arg("re_ratio"))
      .def("apply", &training_change::apply, nb::arg("picture"), nb::arg("index"), nb::arg("epoch"),
           "The changed picture [3, height, width], and its crop as fractions: top, left, height, width.");
}

}  // namespace dm2::python
