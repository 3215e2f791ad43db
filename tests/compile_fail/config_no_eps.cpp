// expect: dm2::config: eps must be positive
#include <dm2/model/config.hpp>

constexpr dm2::config wrong{.eps = 0};
constexpr int length = dm2::sizes<wrong>::length;
