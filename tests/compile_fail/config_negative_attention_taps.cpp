// expect: dm2::config: attn_d_conv must be 0 \(no convolution\) or more
#include <dm2/model/config.hpp>

constexpr dm2::config wrong{.attn_d_conv = -1};
constexpr int length = dm2::sizes<wrong>::length;
