/// @file
/// bfloat16 on the host: rounded to nearest even, NaN stays.
#pragma once

#include "../cuda_types.hpp"

struct __nv_bfloat16 {
  std::uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float(unsigned{x.bits} << 16); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  unsigned const u = __float_as_uint(x);
  if (std::isnan(x)) return {0x7fff};
  return {std::uint16_t((u + 0x7fffu + (u >> 16 & 1u)) >> 16)};
}
