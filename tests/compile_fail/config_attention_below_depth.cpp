// expect: dm2::config: every layer number of attn_layers must be below depth
#include <dm2/model/config.hpp>

constexpr dm2::config wrong{.depth = 12, .attn_layers = dm2::layers(10, 12)};
constexpr int length = dm2::sizes<wrong>::length;
