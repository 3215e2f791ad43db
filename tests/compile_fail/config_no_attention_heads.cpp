// expect: dm2::config: attn_heads and attn_head_dim must be at least 1
#include <dm2/model/config.hpp>

constexpr dm2::config wrong{.attn_heads = 0};
constexpr int length = dm2::sizes<wrong>::length;
