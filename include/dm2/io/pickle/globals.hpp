/// @file
/// The only global names of a pickle that the reader knows.
#pragma once

#include <dm2/io/tensor.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace dm2 {

/// The value that the reader makes of a known global.
enum class pickle_global : std::uint8_t {
  mapping,             ///< a class that is a dict and nothing more
  namespace_class,     ///< argparse.Namespace: an object that is its dict
  rebuild_tensor,      ///< (storage, offset, size, stride, ...)
  rebuild_parameter,   ///< (tensor, ...): stands for its first argument
  rebuild_attributed,  ///< (rebuild function, type, its arguments, attributes): stands for the inner call
  storage_class,       ///< torch.FloatStorage and its like: an element type
  torch_dtype,         ///< torch.float32 and its like
  device               ///< ("cuda", 0)
};

namespace detail {

struct pickle_global_row {
  std::string_view module, name;
  pickle_global meaning;
  dtype type = dtype::u8;  // of a storage class
};

inline constexpr std::array pickle_global_table{
    pickle_global_row{"collections", "OrderedDict", pickle_global::mapping},
    pickle_global_row{"collections", "defaultdict", pickle_global::mapping},
    pickle_global_row{"lightning.fabric.utilities.data", "AttributeDict", pickle_global::mapping},
    pickle_global_row{"lightning_fabric.utilities.data", "AttributeDict", pickle_global::mapping},
    pickle_global_row{"lightning.pytorch.utilities.parsing", "AttributeDict", pickle_global::mapping},
    pickle_global_row{"pytorch_lightning.utilities.parsing", "AttributeDict", pickle_global::mapping},
    pickle_global_row{"argparse", "Namespace", pickle_global::namespace_class},
    pickle_global_row{"torch._utils", "_rebuild_tensor", pickle_global::rebuild_tensor},
    pickle_global_row{"torch._utils", "_rebuild_tensor_v2", pickle_global::rebuild_tensor},
    pickle_global_row{"torch._utils", "_rebuild_parameter", pickle_global::rebuild_parameter},
    pickle_global_row{"torch._utils", "_rebuild_parameter_with_state", pickle_global::rebuild_parameter},
    pickle_global_row{"torch._tensor", "_rebuild_from_type_v2", pickle_global::rebuild_attributed},
    pickle_global_row{"torch", "DoubleStorage", pickle_global::storage_class, dtype::f64},
    pickle_global_row{"torch", "FloatStorage", pickle_global::storage_class, dtype::f32},
    pickle_global_row{"torch", "HalfStorage", pickle_global::storage_class, dtype::f16},
    pickle_global_row{"torch", "BFloat16Storage", pickle_global::storage_class, dtype::bf16},
    pickle_global_row{"torch", "LongStorage", pickle_global::storage_class, dtype::i64},
    pickle_global_row{"torch", "IntStorage", pickle_global::storage_class, dtype::i32},
    pickle_global_row{"torch", "ShortStorage", pickle_global::storage_class, dtype::i16},
    pickle_global_row{"torch", "CharStorage", pickle_global::storage_class, dtype::i8},
    pickle_global_row{"torch", "ByteStorage", pickle_global::storage_class, dtype::u8},
    pickle_global_row{"torch", "BoolStorage", pickle_global::storage_class, dtype::boolean},
    pickle_global_row{"torch", "float64", pickle_global::torch_dtype},
    pickle_global_row{"torch", "float32", pickle_global::torch_dtype},
    pickle_global_row{"torch", "float16", pickle_global::torch_dtype},
    pickle_global_row{"torch", "bfloat16", pickle_global::torch_dtype},
    pickle_global_row{"torch", "int64", pickle_global::torch_dtype},
    pickle_global_row{"torch", "int32", pickle_global::torch_dtype},
    pickle_global_row{"torch", "int16", pickle_global::torch_dtype},
    pickle_global_row{"torch", "int8", pickle_global::torch_dtype},
    pickle_global_row{"torch", "uint8", pickle_global::torch_dtype},
    pickle_global_row{"torch", "bool", pickle_global::torch_dtype},
    pickle_global_row{"torch", "device", pickle_global::device},
};

/// The table's row of that name, or nothing.
[[nodiscard]] constexpr std::optional<std::uint32_t> find_pickle_global(std::string_view module,
                                                                        std::string_view name) noexcept {
  for (std::size_t i = 0; i < pickle_global_table.size(); ++i)
    if (pickle_global_table[i].name == name && pickle_global_table[i].module == module)
      return static_cast<std::uint32_t>(i);
  return std::nullopt;
}

}  // namespace detail
}  // namespace dm2
