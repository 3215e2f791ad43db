/// @file
/// Moves BatchNorm's running statistics by micro-batch, in a fixed order.
#pragma once

#include <dm2/core/parameters.hpp>
#include <dm2/model/parameter_table.hpp>

#include <cstddef>
#include <span>
#include <vector>

namespace dm2 {

/// Numbers of all running statistics of a configuration.
template <config C>
inline constexpr std::size_t statistic_count = [] {
  std::size_t n = 0;
  for (parameter_entry const& e : parameter_table<C>) n += e.kind == entry_kind::statistic ? e.size : 0;
  return n;
}();

/// Lets a forward of a training pass tell what it would move the statistics by.
///
/// A forward moves them by running <- running + 0.1 (batch - running). From zeros that leaves 0.1 batch, which depends
/// on the micro-batch alone: so the statistics are zero while a forward runs, and
///     running <- 0.9 running + 0.1 batch
/// is done afterwards, for each micro-batch in order. T is the type of the state.
template <config C, class T>
class running_statistics {
 public:
  /// Keeps the state's statistics and zeroes them: a forward comes. `state` [state_extent].
  void begin(std::span<T> state) {
    kept_.clear();
    for_each(state, [&](T& x) {
      kept_.push_back(x);
      x = 0;
    });
  }
  /// Writes what the forward left to moved [statistic_count], and puts back what was kept.
  void end(std::span<T> state, std::span<double> moved) const {
    std::size_t i = 0;
    for_each(state, [&](T& x) {
      moved[i] = double(x);
      x = kept_[i++];
    });
  }
  /// Moves the state's statistics by a micro-batch's `moved`.
  static void move(std::span<T> state, std::span<double const> moved) {
    std::size_t i = 0;
    for_each(state, [&](T& x) { x = T(0.9 * double(x) + moved[i++]); });
  }

 private:
  template <class F>
  static void for_each(std::span<T> state, F const& f) {
    for (parameter_entry const& e : parameter_table<C>)
      if (e.kind == entry_kind::statistic)
        for (T& x : state.subspan(e.offset, e.size)) f(x);
  }

  std::vector<T> kept_;
};

}  // namespace dm2
