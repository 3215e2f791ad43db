// expect: dm2::config: mlp_dim must be 0 \(no MLP\) or more
#include <dm2/model/config.hpp>

constexpr dm2::config wrong{.mlp_dim = -1};
constexpr int length = dm2::sizes<wrong>::length;
