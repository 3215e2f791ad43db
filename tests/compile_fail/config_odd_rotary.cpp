// expect: dm2::config: attn_rotary must be even, or 0 for none
#include <dm2/model/config.hpp>

constexpr dm2::config wrong{.attn_rotary = 47};
constexpr int length = dm2::sizes<wrong>::length;
