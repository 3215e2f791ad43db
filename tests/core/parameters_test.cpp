#include <dm2/core/parameters.hpp>

#include <doctest/doctest.h>

#include <array>
#include <type_traits>

using namespace dm2;

namespace {

struct sample_layer {
  enum id { weight, count, bias, scale };
  static constexpr std::array param_table{
      parameter_info{"weight", {5, 13}}, parameter_info{"count", {}, entry_kind::counter},
      parameter_info{"bias", {5}, entry_kind::statistic}, parameter_info{"scale", {}}};
};

}  // namespace

TEST_CASE("parameters: an entry takes a multiple of 64 elements, a counter none") {
  CHECK(parameter_info{"a", {}}.size() == 1);
  CHECK(parameter_info{"a", {}}.extent() == 64);
  CHECK(parameter_info{"a", {64}}.extent() == 64);
  CHECK(parameter_info{"a", {65}}.extent() == 128);
  CHECK(parameter_info{"a", {2, 3, 4, 5}}.size() == 120);
  CHECK(parameter_info{"a", {}, entry_kind::counter}.extent() == 0);
}

TEST_CASE("parameters: a layer's parameters lie one after another with their shapes as types") {
  static_assert(layer_extent<sample_layer> == 128 + 64 + 64);
  static_assert(parameter_offset<sample_layer, sample_layer::bias> == 128);
  static_assert(parameter_offset<sample_layer, sample_layer::scale> == 192);
  std::array<double, layer_extent<sample_layer>> data{};
  layer_view<sample_layer, double> const view{data.data()};
  auto const weight = get<sample_layer::weight>(view);
  auto const bias = get<sample_layer::bias>(view);
  auto const scale = get<sample_layer::scale>(view);
  CHECK(std::is_same_v<decltype(weight), block<double, space::host, 5, 13> const>);
  CHECK(std::is_same_v<decltype(bias), block<double, space::host, 5> const>);
  CHECK(std::is_same_v<decltype(scale), block<double, space::host> const>);
  CHECK(weight.data == data.data());
  CHECK(bias.data == data.data() + 128);
  CHECK(scale.data == data.data() + 192);
}

TEST_CASE("parameters: a view becomes read-only, and not the reverse") {
  using writable = layer_view<sample_layer, float>;
  using read_only = layer_view<sample_layer, float const>;
  CHECK(std::is_convertible_v<writable, read_only>);
  CHECK_FALSE(std::is_convertible_v<read_only, writable>);
  CHECK_FALSE(std::is_convertible_v<writable, layer_view<sample_layer, float, space::device>>);
}
