// expect: dm2::config: depth must be 1..64
#include <dm2/model/config.hpp>

constexpr dm2::config wrong{.depth = 0, .attn_layers = {}};
constexpr int length = dm2::sizes<wrong>::length;
