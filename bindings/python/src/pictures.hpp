/// @file
/// A picture from Python: a path, a file's bytes, or pixels.
#pragma once

#include <dm2/data/encoded_picture.hpp>
#include <dm2/data/picture.hpp>
#include <dm2/data/picture_bytes.hpp>
#include <dm2/data/transform.hpp>

#include "bound.hpp"

#include <nanobind/stl/optional.h>  // read_array in an optional is cast by it in every unit

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>

namespace dm2::python {

/// How messages call a picture that is given as bytes.
inline constexpr char const* bytes_name = "<bytes>";

/// Where a picture comes from. Made and destroyed with the interpreter's lock, read without it.
class picture_source {
 public:
  /// A str is a path, bytes are a JPEG or PNG file, an array is [height, width, 3] of bytes. Throws nb::type_error.
  explicit picture_source(nb::handle from) {
    if (nb::isinstance<nb::str>(from)) {
      path_ = nb::cast<std::string>(from);
    } else if (nb::isinstance<nb::bytes>(from)) {
      held_ = nb::borrow(from);
      auto const& file = static_cast<nb::bytes const&>(held_);
      encoded_ = std::as_bytes(std::span{static_cast<char const*>(file.data()), file.size()});
    } else if (!nb::try_cast(from, pixels_) || pixels_->ndim() != 3 || pixels_->shape(2) != 3) {
      throw nb::type_error("a picture is a path, a file's bytes, or an array [height, width, 3] of bytes");
    }
  }

  /// f of the picture, decoded (dm2::picture&&) or not yet (encoded_picture&).
  template <class F>
  auto visit(F const& f) const {
    if (pixels_) {
      picture p{int(pixels_->shape(0)), int(pixels_->shape(1))};
      std::copy_n(pixels_->data(), p.pixels.size(), p.pixels.data());
      return f(std::move(p));
    }
    if (!path_.empty()) {
      picture_bytes const file{path_};
      encoded_picture p{file.bytes(), file.name()};
      return f(p);
    }
    encoded_picture p{encoded_, bytes_name};
    return f(p);
  }

  /// The picture after the evaluation transform.
  [[nodiscard]] picture evaluated(image_extent crop, image_extent resize) const {
    return visit([&](auto&& p) { return evaluation_transform(p, crop, resize); });
  }

 private:
  std::string path_;
  nb::object held_;
  std::span<std::byte const> encoded_;
  std::optional<read_array<std::uint8_t>> pixels_;
};

}  // namespace dm2::python
