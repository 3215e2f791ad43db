/// @file
/// Compiled code of a mixer's operation, its sizes told at run time.
#pragma once

#include <dm2/core/shapes.hpp>

#include <cstddef>
#include <span>
#include <string_view>

namespace dm2::run {

/// The operations that stand by themselves: the scan alone, or the whole mixer between its projections.
enum class operation : unsigned char { ssd, mixer_core };

/// The numbers and the device of an operation.
enum class operation_numbers : unsigned char { cpu_float, cpu_double, cuda_bf16, cuda_fp16, cuda_fp32 };

/// Whether it computes on a GPU.
[[nodiscard]] constexpr bool on_gpu(operation_numbers n) { return n >= operation_numbers::cuda_bf16; }

/// The operands of one call: where they begin, in the memory of the operation's device.
///
/// Reads of ssd: x, dt, A, B, C, D, and backward dy; it writes y, or dx, d dt, dA, dB, dC, dD. Reads of mixer_core:
/// zxbcdt, then conv, conv_bias, dt_bias, A_log, D and norm of each direction, and backward dg; it writes g, or dzxbcdt
/// and the twelve gradients. Shapes are those of dm2::cpu::ssd and dm2::cpu::mixer_core. On a GPU parameters, their
/// gradients, dt and d dt are float.
struct operation_call {
  std::span<void const* const> reads;  ///< in the order above
  std::span<void* const> writes;       ///< in the order above; gradients of parameters are added to
  std::size_t rows;                    ///< tokens of all sequences
  int length;                          ///< tokens a sequence
  void* stream;                        ///< cudaStream_t of a GPU's; the call returns before it is done
};

/// An operation of one shape and one kind of numbers, with its scratch. One thread at a time uses it, on a GPU for one
/// stream.
class operator_code {
 public:
  virtual ~operator_code() = default;  ///< by what deletes it through this type
  /// Throws shape_error where rows and length disagree, std::invalid_argument for another number of operands.
  virtual void forward(operation_call const& call) = 0;
  /// As forward.
  virtual void backward(operation_call const& call) = 0;
};

/// Makes one; threads are a CPU's, 0: one a processor. What a compiled operator gives under operator_entry_name.
using operator_maker = operator_code* (*)(int threads);

/// The function of C's linkage, of type operator_maker, in a compiled operator; its caller owns the result.
inline constexpr char const* operator_entry_name = "dm2_make_operator";

}  // namespace dm2::run
