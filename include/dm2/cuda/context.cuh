/// @file
/// What every CUDA operation runs with.
///
/// A precision, a device, a stream, scratch memory, the library's handle.
#pragma once

#include <dm2/core/arena.hpp>
#include <dm2/core/shapes.hpp>
#include <dm2/core/view.hpp>
#include <dm2/cuda/check.cuh>
#include <dm2/cuda/device/memory.cuh>
#include <dm2/cuda/device/product_plans.cuh>
#include <dm2/cuda/device/properties.cuh>
#include <dm2/cuda/element.cuh>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <stdexcept>
#include <type_traits>
#include <utility>

namespace dm2::cuda {

template <stem_shape S, class T>
struct stem_saved;  // in stem_train.cuh

namespace detail {
struct blas_release {
  void operator()(cublasLtHandle_t h) const { static_cast<void>(cublasLtDestroy(h)); }
};
}  // namespace detail

/// The CUDA backend's context, the first argument of every operation in dm2::cuda.
///
/// Operations are asynchronous on stream() and allocate nothing once their scratch is there, so that they can be
/// captured in a graph. The same input and device give the same bits. One context must not be used by two threads at a
/// time; contexts do not disturb each other.
template <precision P = precision::bf16>
class context {
 public:
  using scalar = float;                           ///< the type of parameters, of the residual stream and of logits
  using element = cuda::element<P>;               ///< the type of the other activations
  using buffer = device_memory;                   ///< what owns memory of this backend
  static constexpr space memory = space::device;  ///< where views of this backend point
  /// What the stem's training forward leaves for its backward.
  template <stem_shape S>
  using stem_saved = cuda::stem_saved<S, element>;
  /// Whether the loss takes the patches' logits as the mixed tokens left them, so that they need not be mixed back.
  static constexpr bool loss_takes_mixed = true;
  /// Whether a mixer's backward reads the factors of its norms, which the forward then leaves.
  static constexpr bool keeps_mixer_factors = P == precision::bf16;

  /// On the current device; `stream` is the caller's and outlives the context, null is the default stream.
  ///
  /// Throws error where there is no device or no driver, or where this program has no code for the device.
  explicit context(cudaStream_t stream = nullptr) : stream_{stream}, properties_{current_device()} {
    require_code(properties_);
    can_start_early_ = has_early_starts(properties_);
    cublasLtHandle_t handle = nullptr;
    check(cublasLtCreate(&handle), "cuBLASLt");
    blas_.reset(handle);
  }

  /// Where operations are enqueued.
  [[nodiscard]] cudaStream_t stream() const { return stream_; }
  /// Later operations go to `stream`. They use the same scratch: earlier ones must have been done, or be waited for.
  void set_stream(cudaStream_t stream) { stream_ = stream; }
  /// What the device is.
  [[nodiscard]] device_properties const& device() const { return properties_; }
  /// cuBLASLt's handle.
  [[nodiscard]] cublasLtHandle_t blas() const { return blas_.get(); }
  /// How products run that have run before, and their workspace.
  [[nodiscard]] detail::product_plans& products() { return products_; }

  /// From now on products read copies[i] in the place of parameters[i]. Both are the caller's, on the device.
  void set_copies(float const* parameters, element const* copies) {
    parameters_ = parameters;
    copies_ = copies;
  }
  /// What a product reads in the place of p, a parameter of those that set_copies named; in float p itself.
  [[nodiscard]] element const* copy_of(float const* p) const {
    if constexpr (std::is_same_v<element, float>)
      return p;
    else
      return p == nullptr ? nullptr : copies_ + (p - parameters_);
  }

  /// From now on operations may let their kernels start before the ones ahead in the stream have ended, and read
  /// parameters before. Allow it only where nothing writes parameters without being waited for by the host. Has no
  /// effect below compute capability 9.0.
  void allow_early_starts() { early_ = can_start_early_; }
  /// launch_shape::early of kernels that wait_for_previous().
  [[nodiscard]] bool early() const { return early_; }

  /// Grows the scratch memory to `bytes` for an operation. An operation calls this first, and returns at once where the
  /// answer is false: then only its memory is asked for.
  [[nodiscard]] bool reserve(std::size_t bytes) {
    if (shared().used() == 0) from_lent_ = lent_.capacity() != 0 && bytes <= lent_.capacity();
    if (bytes > shared().capacity()) {
      if (shared().used() != 0) throw std::logic_error{"dm2::cuda::context: scratch grown while in use"};
      check(cudaStreamSynchronize(stream_), "scratch: wait for its last use");
      shared_ = {};
      memory_ = {};
      memory_ = device_memory{bytes};
      shared_ = arena{memory_.data(), bytes};
    }
    return !planning_;
  }

  /// Runs `operations` without computing anything, so that they find their scratch when they run in earnest and
  /// allocate nothing. Their operands may be null.
  template <class F>
  void plan(F const& operations) {
    struct guard {
      bool& flag;
      ~guard() { flag = false; }
    } const reset{planning_};
    planning_ = true;
    operations();
  }

  /// Runs `operations`; those whose scratch fits into [memory, memory + bytes) take it there. The memory starts at a
  /// multiple of 64 bytes, and nothing else uses it until their work is done.
  template <class F>
  void lend(std::byte* memory, std::size_t bytes, F const& operations) {
    struct guard {
      context& of;
      ~guard() { of.lent_ = {}, of.from_lent_ = false; }
    } const reset{*this};
    if (memory != nullptr && bytes != 0) lent_ = arena{memory, bytes};
    operations();
  }

  /// Scratch of the operation that runs now. Take inside an arena_scope.
  [[nodiscard]] arena& shared() { return from_lent_ ? lent_ : shared_; }
  /// Bytes of scratch held, the products' workspace included, lent ones not.
  [[nodiscard]] std::size_t scratch_bytes() const { return memory_.size() + products_.bytes(); }

 private:
  cudaStream_t stream_;
  device_properties properties_;
  std::unique_ptr<std::remove_pointer_t<cublasLtHandle_t>, detail::blas_release> blas_;
  detail::product_plans products_;
  bool planning_ = false, can_start_early_ = false, early_ = false;
  float const* parameters_ = nullptr;
  element const* copies_ = nullptr;
  device_memory memory_;
  arena shared_, lent_;
  bool from_lent_ = false;  ///< whether the operation that runs now takes from lent_
};

}  // namespace dm2::cuda
