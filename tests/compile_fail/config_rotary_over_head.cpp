// expect: dm2::config: attn_rotary must not be over attn_head_dim
#include <dm2/model/config.hpp>

constexpr dm2::config wrong{.attn_rotary = 98};
constexpr int length = dm2::sizes<wrong>::length;
