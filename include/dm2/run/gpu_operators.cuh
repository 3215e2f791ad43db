/// @file
/// The mixer's operations on the GPU behind the run-time interface.
#pragma once

#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/context.cuh>
#include <dm2/cuda/element.cuh>
#include <dm2/cuda/mixer_core.cuh>
#include <dm2/cuda/mixer_core_backward.cuh>
#include <dm2/cuda/ssd.cuh>
#include <dm2/cuda/ssd_backward.cuh>
#include <dm2/run/operator_code.hpp>
#include <dm2/run/operator_views.hpp>

namespace dm2::run {

/// The scan of shape M, x, B and C in precision P.
template <mixer_shape M, cuda::precision P>
class gpu_ssd final : public operator_code {
 public:
  /// On the current device. Threads are the CPU's.
  explicit gpu_ssd(int threads) { static_cast<void>(threads); }

  void forward(operation_call const& call) override {
    detail::require_operands(call, 6, 1);
    context_.set_stream(static_cast<cudaStream_t>(call.stream));
    cuda::ssd<M, T, P>(context_, input(call), {detail::written<T>(call, 0), call.rows});
  }
  void backward(operation_call const& call) override {
    detail::require_operands(call, 7, 6);
    context_.set_stream(static_cast<cudaStream_t>(call.stream));
    cuda::ssd_backward<M, T, P>(context_, input(call), {detail::read<T>(call, 6), call.rows},
                                detail::scan_gradient_of<M, T, space::device, float>(call));
  }

 private:
  using T = cuda::element<P>;
  static auto input(operation_call const& call) { return detail::scan_input_of<M, T, space::device, float>(call); }

  cuda::context<P> context_;
};

/// The mixer between its projections in precision P. forward may write a second thing, which backward then reads behind
/// g: the factors of the norms, [rows, 2, groups] of float, which spare backward a scan in bfloat16.
template <mixer_shape M, cuda::precision P>
class gpu_mixer_core final : public operator_code {
 public:
  /// On the current device. Threads are the CPU's.
  explicit gpu_mixer_core(int threads) { static_cast<void>(threads); }

  void forward(operation_call const& call) override {
    bool const factors = call.writes.size() == 2;
    detail::require_operands(call, 13, factors ? 2 : 1);
    context_.set_stream(static_cast<cudaStream_t>(call.stream));
    cuda::mixer_core<M, P>(
        context_, {detail::read<T>(call, 0), call.rows}, detail::parameters_of<M, float, space::device>(call),
        {detail::written<T>(call, 0), call.rows}, call.length, factors ? detail::written<float>(call, 1) : nullptr);
  }
  void backward(operation_call const& call) override {
    bool const kept = call.reads.size() == 16;
    detail::require_operands(call, kept ? 16 : 14, 13);
    context_.set_stream(static_cast<cudaStream_t>(call.stream));
    cuda::mixer_left<M, P> left{};
    if (kept) left = {{detail::read<T>(call, 14), call.rows}, detail::read<float>(call, 15)};
    cuda::mixer_core_backward<M, P>(context_, {detail::read<T>(call, 0), call.rows},
                                    detail::parameters_of<M, float, space::device>(call),
                                    {detail::read<T>(call, 13), call.rows}, {detail::written<T>(call, 0), call.rows},
                                    detail::parameter_gradients_of<M, float, space::device>(call), call.length, left);
  }

 private:
  using T = cuda::element<P>;
  cuda::context<P> context_;
};

}  // namespace dm2::run
