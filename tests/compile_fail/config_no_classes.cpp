// expect: dm2::config: classes must be at least 1
#include <dm2/model/config.hpp>

constexpr dm2::config wrong{.classes = 0};
constexpr int length = dm2::sizes<wrong>::length;
