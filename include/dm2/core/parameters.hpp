/// @file
/// Parameter tables: names, shapes and places of a layer's parameters in one flat buffer.
#pragma once

#include <dm2/core/view.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string_view>
#include <utility>

namespace dm2 {

/// The kinds of entries of a state.
enum class entry_kind : std::uint8_t {
  parameter,  ///< trained: gradient, momentum and average exist
  unused,     ///< a parameter that nothing reads and no gradient reaches: saved and averaged, never moved
  statistic,  ///< BatchNorm's running mean or variance: saved and averaged, not trained
  counter     ///< BatchNorm's 64-bit step count: saved, kept beside the flat buffer
};

/// What a parameter is to rules that treat some otherwise than others: weight decay, above all.
enum class parameter_role : std::uint8_t {
  weight,     ///< of a projection or a convolution
  norm,       ///< what a norm multiplies by
  bias,       ///< what is added, by BatchNorm too
  embedding,  ///< class token and position embedding
  head,       ///< a classifier's weight
  scan        ///< of the recurrence, one number a head: A_log, D, dt_bias
};

namespace detail {

/// The role of the parameter of that name, whatever layer stands before it. Statistics count as what they are beside.
constexpr parameter_role role_of(std::string_view name) {
  auto const ends = [&](auto... end) { return (name.ends_with(end) || ...); };
  if (ends("cls_token", "pos_embed")) return parameter_role::embedding;
  if (ends(".A_log", ".A_log_b", ".D", ".D_b", ".dt_bias", ".dt_bias_b")) return parameter_role::scan;
  if (ends(".bias")) return parameter_role::bias;
  if (ends("head.weight")) return parameter_role::head;
  std::size_t const last = name.rfind('.');
  std::string_view const owner = last == name.npos ? name : name.substr(0, last);  // "mixer.norm_b", "patch_embed.bn1"
  std::size_t const dot = owner.rfind('.');
  std::string_view const kind = dot == owner.npos ? owner : owner.substr(dot + 1);
  return kind.starts_with("norm") || kind.starts_with("bn") ? parameter_role::norm : parameter_role::weight;
}

}  // namespace detail

/// One row of a layer's table. The name is relative to the layer, as in the published state dict.
struct parameter_info {
  std::string_view name;                         ///< relative to the layer, for example "mixer.in_proj.weight"
  std::array<int, 4> shape{1, 1, 1, 1};          ///< the first `rank` extents count, the others are 1
  int rank = 0;                                  ///< 0 for a scalar
  entry_kind kind = entry_kind::parameter;       ///< decides how training treats it
  parameter_role role = parameter_role::weight;  ///< told by the name

  constexpr parameter_info() = default;
  /// A row of that name and shape; at most four extents.
  constexpr parameter_info(std::string_view n, std::initializer_list<int> extents, entry_kind k = entry_kind::parameter)
      : name{n}, rank{int(extents.size())}, kind{k}, role{detail::role_of(n)} {
    std::size_t i = 0;
    for (int e : extents) shape[i++] = e;
  }

  /// Elements; 1 for a scalar.
  [[nodiscard]] constexpr std::size_t size() const {
    std::size_t n = 1;
    for (int e : shape) n *= std::size_t(e);
    return n;
  }
  /// Elements taken in the flat buffer: a multiple of 64, so that every tensor starts on a cache line in any
  /// precision. Counters take none.
  [[nodiscard]] constexpr std::size_t extent() const {
    return kind == entry_kind::counter ? 0 : (size() + 63) / 64 * 64;
  }
};

/// One entry of a whole model: as parameter_info, with its full name and its place.
struct parameter_entry {
  std::string_view name;  ///< as in the published state dict, for example "layers.3.mixer.in_proj.weight"
  std::array<int, 4> shape{1, 1, 1, 1};  ///< the first `rank` extents count, the others are 1
  int rank = 0;                          ///< 0 for a scalar
  std::size_t offset = 0;  ///< elements from the start of the flat buffer; for a counter, its index among the counters
  std::size_t size = 0;    ///< elements
  entry_kind kind = entry_kind::parameter;       ///< decides how training treats it
  parameter_role role = parameter_role::weight;  ///< what rules ask for
  /// 0: the stem and the embeddings; i + 1: layer i of the trunk, the last one with the norm behind it; depth + 1: the
  /// heads. timm numbers a Vision Transformer so.
  int layer = 0;
};

/// Elements that a layer takes in the flat buffer.
template <class Layer>
inline constexpr std::size_t layer_extent = [] {
  std::size_t n = 0;
  for (parameter_info const& p : Layer::param_table) n += p.extent();
  return n;
}();

/// Elements from a layer's start to its parameter number Id.
template <class Layer, auto Id>
inline constexpr std::size_t parameter_offset = [] {
  std::size_t n = 0;
  for (std::size_t i = 0; i != std::size_t(Id); ++i) n += Layer::param_table[i].extent();
  return n;
}();

/// A layer's parameters (or gradients) inside a flat buffer: one pointer, everything else is a constant.
template <class Layer, class T, space S = space::host>
struct layer_view {
  T* data = nullptr;  ///< the layer's first element, layer_extent<Layer> of them

  constexpr layer_view() = default;
  /// A view of the layer that starts at `first`.
  constexpr explicit layer_view(T* first) : data{first} {}
  /// A view of T converts to a view of T const.
  template <class U>
    requires std::is_convertible_v<U (*)[], T (*)[]>
  constexpr layer_view(layer_view<Layer, U, S> other) : data{other.data} {}
};

namespace detail {
template <class Layer, auto Id, class T, space S, std::size_t... At>
constexpr auto parameter_block(T* first, std::index_sequence<At...>) {
  return block<T, S, Layer::param_table[std::size_t(Id)].shape[At]...>{first};
}
}  // namespace detail

/// Parameter number Id of a layer, with its shape in its type: `get<mixer<C>::in_proj>(p)`.
template <auto Id, class Layer, class T, space S>
constexpr auto get(layer_view<Layer, T, S> view) {
  constexpr std::size_t id = std::size_t(Id);
  static_assert(Layer::param_table[id].kind != entry_kind::counter, "dm2::get: a counter is not in the flat buffer");
  return detail::parameter_block<Layer, Id, T, S>(view.data + parameter_offset<Layer, Id>,
                                                  std::make_index_sequence<std::size_t(Layer::param_table[id].rank)>{});
}

}  // namespace dm2
