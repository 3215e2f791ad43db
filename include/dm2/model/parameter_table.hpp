/// @file
/// The parameter table of a whole network, computed at compile time: every entry of the published state dict, in its
/// order.
#pragma once

#include <dm2/core/parameters.hpp>
#include <dm2/model/config.hpp>
#include <dm2/model/layers.hpp>

#include <array>
#include <cstddef>
#include <span>
#include <stdexcept>
#include <string_view>
#include <type_traits>

namespace dm2 {
namespace detail {

/// Calls visit.template operator()<Layer>(number) for each layer in the state dict's order; number is -1 outside the
/// trunk.
template <config C, class Visit>
constexpr void for_each_layer(Visit visit) {
  visit.template operator()<token_layer<C>>(-1);
  visit.template operator()<stem_layer<C>>(-1);
  visit.template operator()<head_layer<C>>(-1);
  for (int i = 0; i < C.depth; ++i) {
    if (C.attn_layers.contains(i))
      visit.template operator()<attention_layer<C>>(i);
    else
      visit.template operator()<mixer_layer<C>>(i);
    if constexpr (C.mlp_dim != 0) visit.template operator()<mlp_layer<C>>(i);
  }
  visit.template operator()<final_layer<C>>(-1);
}

struct name_buffer {
  std::array<char, 48> text{};
  std::size_t length = 0;

  constexpr void append(std::string_view s) {
    for (char c : s) text[length++] = c;
  }
  [[nodiscard]] constexpr std::string_view view() const { return {text.data(), length}; }
};

/// A row's name in the whole network: "layers.3.norm.weight" of layer 3, as it is where the number is -1.
constexpr name_buffer entry_name(int number, std::string_view row) {
  name_buffer name;
  if (number >= 0) {
    name.append("layers.");
    char const digits[2] = {char('0' + number / 10), char('0' + number % 10)};
    name.append(number < 10 ? std::string_view{digits + 1, 1} : std::string_view{digits, 2});
    name.append(".");
  }
  name.append(row);
  return name;
}

/// Gives each row its place in the flat buffer or among the counters, one after the other.
class entry_placer {
 public:
  constexpr parameter_entry operator()(std::string_view name, parameter_info const& p, int layer) {
    bool const counter = p.kind == entry_kind::counter;
    std::size_t const place = counter ? counters_++ : offset_;
    parameter_entry const entry{name, p.shape, p.rank, place, p.size(), p.kind, p.role, layer};
    offset_ += p.extent();
    return entry;
  }
  /// Elements that the rows so far take.
  [[nodiscard]] constexpr std::size_t extent() const { return offset_; }

 private:
  std::size_t offset_ = 0, counters_ = 0;
};

/// Numbers that the published code counts as parameters: trained ones, and `D_b` where nothing reads it.
constexpr std::size_t count_parameters(std::span<parameter_entry const> table) {
  std::size_t n = 0;
  for (parameter_entry const& e : table)
    n += e.kind == entry_kind::parameter || e.kind == entry_kind::unused ? e.size : 0;
  return n;
}
constexpr std::size_t count_counters(std::span<parameter_entry const> table) {
  std::size_t n = 0;
  for (parameter_entry const& e : table) n += e.kind == entry_kind::counter ? 1 : 0;
  return n;
}

// The tables are made by functions and not by lambdas in their initialisers, which stop nvcc 13 with an internal error.

template <config C>
constexpr std::size_t count_entries() {
  std::size_t n = 0;
  for_each_layer<C>([&]<class Layer>(int) { n += Layer::param_table.size(); });
  return n;
}
template <config C>
inline constexpr std::size_t entry_count = count_entries<C>();

template <config C>
constexpr auto make_entry_names() {
  std::array<name_buffer, entry_count<C>> names{};
  std::size_t k = 0;
  for_each_layer<C>([&]<class Layer>(int number) {
    for (parameter_info const& p : Layer::param_table) names[k++] = entry_name(number, p.name);
  });
  return names;
}
template <config C>
inline constexpr auto entry_names = make_entry_names<C>();

/// parameter_entry::layer of a layer that for_each_layer visits with that number.
template <config C, class Layer>
constexpr int layer_of(int number) {
  if (std::is_same_v<Layer, head_layer<C>>) return C.depth + 1;
  if (std::is_same_v<Layer, final_layer<C>>) return C.depth;
  return number + 1;
}

template <config C>
constexpr auto make_parameter_table() {
  std::array<parameter_entry, entry_count<C>> table{};
  entry_placer place;
  std::size_t k = 0;
  for_each_layer<C>([&]<class Layer>(int number) {
    int const layer = layer_of<C, Layer>(number);
    for (parameter_info const& p : Layer::param_table) {
      table[k] = place(entry_names<C>[k].view(), p, layer);
      ++k;
    }
  });
  return table;
}

template <config C>
constexpr std::size_t count_state_elements() {
  std::size_t n = 0;
  for_each_layer<C>([&]<class Layer>(int) { n += layer_extent<Layer>; });
  return n;
}

}  // namespace detail

/// Name, shape and place of every entry of the state.
template <config C>
inline constexpr auto parameter_table = detail::make_parameter_table<C>();

/// Elements of a flat buffer for the state (or its gradient, momentum, average), padding included.
template <config C>
inline constexpr std::size_t state_extent = detail::count_state_elements<C>();

/// Numbers that the published code counts as parameters: trained ones, and `D_b` where nothing reads it.
template <config C>
inline constexpr std::size_t parameter_count = detail::count_parameters(parameter_table<C>);

/// Entries of kind counter.
template <config C>
inline constexpr std::size_t counter_count = detail::count_counters(parameter_table<C>);

/// The views of every layer over one flat buffer of state_extent<C> elements.
template <config C, class T, space S = space::host>
class network_view {
 public:
  constexpr network_view() = default;
  /// Over the buffer that starts at `state`.
  constexpr explicit network_view(T* state) : state_{state} {}
  /// A view of T converts to a view of T const.
  template <class U>
    requires std::is_convertible_v<U (*)[], T (*)[]>
  constexpr network_view(network_view<C, U, S> other) : state_{other.data()} {}

  /// The buffer's first element.
  [[nodiscard]] constexpr T* data() const { return state_; }
  /// Class token and position embedding.
  [[nodiscard]] constexpr auto tokens() const { return at<token_layer<C>>(-1); }
  /// The stem, BatchNorm's statistics included.
  [[nodiscard]] constexpr auto stem() const { return at<stem_layer<C>>(-1); }
  /// Both classifiers.
  [[nodiscard]] constexpr auto head() const { return at<head_layer<C>>(-1); }
  /// The norm after the last layer.
  [[nodiscard]] constexpr auto final() const { return at<final_layer<C>>(-1); }
  /// Layer i's mixer. Throws std::out_of_range where i is in attn_layers or not below the depth.
  [[nodiscard]] constexpr auto mixer(int i) const { return at<mixer_layer<C>>(i); }
  /// Layer i's attention. Throws std::out_of_range where i is not in attn_layers.
  [[nodiscard]] constexpr auto attention(int i) const { return at<attention_layer<C>>(i); }
  /// Layer i's gated MLP. Throws std::out_of_range where it has none.
  [[nodiscard]] constexpr auto mlp(int i) const { return at<mlp_layer<C>>(i); }

 private:
  template <class Layer>
  [[nodiscard]] constexpr layer_view<Layer, T, S> at(int number) const {
    std::size_t offset = 0;
    bool found = false;
    detail::for_each_layer<C>([&]<class Other>(int n) {
      if constexpr (std::is_same_v<Layer, Other>) found = found || n == number;
      if (!found) offset += layer_extent<Other>;
    });
    if (!found) throw std::out_of_range{"dm2::network_view: this layer is of another kind, or there is none"};
    return layer_view<Layer, T, S>{state_ + offset};
  }

  T* state_ = nullptr;
};

static_assert(parameter_count<tiny> == 9'514'032);
static_assert(parameter_count<published_small> == 32'746'032);

}  // namespace dm2
