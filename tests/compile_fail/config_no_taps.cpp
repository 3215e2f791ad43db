// expect: dm2::config: d_conv must be at least 1
#include <dm2/model/config.hpp>

constexpr dm2::config wrong{.d_conv = 0};
constexpr int length = dm2::sizes<wrong>::length;
