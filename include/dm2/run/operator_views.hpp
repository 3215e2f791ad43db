/// @file
/// A call's operands as the views that dm2's operations take.
#pragma once

#include <dm2/core/operands.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/run/operator_code.hpp>

#include <cstddef>
#include <stdexcept>
#include <string>

namespace dm2::run::detail {

/// Throws std::invalid_argument unless a call has so many operands.
inline void require_operands(operation_call const& call, std::size_t reads, std::size_t writes) {
  if (call.reads.size() == reads && call.writes.size() == writes) return;
  throw std::invalid_argument{"dm2::run::operator_code: got " + std::to_string(call.reads.size()) + " and " +
                              std::to_string(call.writes.size()) + " operands, expected " + std::to_string(reads) +
                              " and " + std::to_string(writes)};
}

template <class T>
T const* read(operation_call const& call, std::size_t i) {
  return static_cast<T const*>(call.reads[i]);
}
template <class T>
T* written(operation_call const& call, std::size_t i) {
  return static_cast<T*>(call.writes[i]);
}

/// T are the numbers of x, B and C, F those of the others.
template <mixer_shape M, class T, space S, class F>
ssd_input<M, T, S, F> scan_input_of(operation_call const& call) {
  std::size_t const n = call.rows;
  return {.x = {read<T>(call, 0), n},
          .dt = {read<F>(call, 1), n},
          .a = block<F const, S, M.heads>{read<F>(call, 2)},
          .b = {read<T>(call, 3), n},
          .c = {read<T>(call, 4), n},
          .d = block<F const, S, M.heads>{read<F>(call, 5)},
          .length = call.length};
}
template <mixer_shape M, class T, space S, class F>
ssd_gradient<M, T, S, F> scan_gradient_of(operation_call const& call) {
  std::size_t const n = call.rows;
  return {.x = {written<T>(call, 0), n},
          .dt = {written<F>(call, 1), n},
          .a = block<F, S, M.heads>{written<F>(call, 2)},
          .b = {written<T>(call, 3), n},
          .c = {written<T>(call, 4), n},
          .d = block<F, S, M.heads>{written<F>(call, 5)}};
}

/// One direction from six places on; `at(i)` is the i-th. In the published variant both directions read and move the
/// first one's skip term, which the caller gives twice.
template <mixer_shape M, class F, space S, class At>
mixer_direction<M, F, S> direction_of(At const& at, std::size_t first) {
  mixer_direction<M, F, S> out{};
  out.conv.data = at(first);
  out.conv_bias.data = at(first + 1);
  out.dt_bias.data = at(first + 2);
  out.a_log.data = at(first + 3);
  out.d.data = at(first + 4);
  out.norm.data = at(first + 5);
  return out;
}
template <mixer_shape M, class F, space S>
mixer_parameters<M, F const, S> parameters_of(operation_call const& call) {
  auto const at = [&](std::size_t i) { return read<F>(call, i); };
  return {direction_of<M, F const, S>(at, 1), direction_of<M, F const, S>(at, 7)};
}
template <mixer_shape M, class F, space S>
mixer_parameters<M, F, S> parameter_gradients_of(operation_call const& call) {
  auto const at = [&](std::size_t i) { return written<F>(call, i); };
  return {direction_of<M, F, S>(at, 1), direction_of<M, F, S>(at, 7)};
}

}  // namespace dm2::run::detail
