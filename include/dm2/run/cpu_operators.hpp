/// @file
/// The mixer's operations on the CPU behind the run-time interface.
#pragma once

#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cpu/context.hpp>
#include <dm2/cpu/mixer_core.hpp>
#include <dm2/cpu/mixer_core_backward.hpp>
#include <dm2/cpu/ssd.hpp>
#include <dm2/cpu/ssd_backward.hpp>
#include <dm2/run/operator_code.hpp>
#include <dm2/run/operator_views.hpp>

namespace dm2::run {

/// The scan of shape M in numbers of type T.
template <mixer_shape M, class T>
class cpu_ssd final : public operator_code {
 public:
  /// 0 threads: one a processor.
  explicit cpu_ssd(int threads) : context_{threads} {}

  void forward(operation_call const& call) override {
    detail::require_operands(call, 6, 1);
    cpu::ssd<M, T>(context_, detail::scan_input_of<M, T, space::host, T>(call),
                   {detail::written<T>(call, 0), call.rows});
  }
  void backward(operation_call const& call) override {
    detail::require_operands(call, 7, 6);
    cpu::ssd_backward<M, T>(context_, detail::scan_input_of<M, T, space::host, T>(call),
                            {detail::read<T>(call, 6), call.rows},
                            detail::scan_gradient_of<M, T, space::host, T>(call));
  }

 private:
  cpu::context<T> context_;
};

/// The mixer between its projections.
template <mixer_shape M, class T>
class cpu_mixer_core final : public operator_code {
 public:
  /// 0 threads: one a processor.
  explicit cpu_mixer_core(int threads) : context_{threads} {}

  void forward(operation_call const& call) override {
    detail::require_operands(call, 13, 1);
    cpu::mixer_core<M, T>(context_, {detail::read<T>(call, 0), call.rows},
                          detail::parameters_of<M, T, space::host>(call), {detail::written<T>(call, 0), call.rows},
                          call.length);
  }
  void backward(operation_call const& call) override {
    detail::require_operands(call, 14, 13);
    cpu::mixer_core_backward<M, T>(context_, {detail::read<T>(call, 0), call.rows},
                                   detail::parameters_of<M, T, space::host>(call),
                                   {detail::read<T>(call, 13), call.rows}, {detail::written<T>(call, 0), call.rows},
                                   detail::parameter_gradients_of<M, T, space::host>(call), call.length);
  }

 private:
  cpu::context<T> context_;
};

}  // namespace dm2::run
