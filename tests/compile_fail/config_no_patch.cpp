// expect: dm2::config: patch must be even and at least 2
#include <dm2/model/config.hpp>

constexpr dm2::config wrong{.patch = 0};
constexpr int length = dm2::sizes<wrong>::length;
