// expect: dm2::config: the heads, expand \* dim / headdim, must be a multiple of groups
#include <dm2/model/config.hpp>

constexpr dm2::config wrong{.groups = 3};
constexpr int length = dm2::sizes<wrong>::length;
