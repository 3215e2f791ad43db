// expect: dm2::config: dim and expand must be at least 1
#include <dm2/model/config.hpp>

constexpr dm2::config wrong{.dim = 0};
constexpr int length = dm2::sizes<wrong>::length;
