// expect: dm2::config: stem_width must be at least 1
#include <dm2/model/config.hpp>

constexpr dm2::config wrong{.stem_width = 0};
constexpr int length = dm2::sizes<wrong>::length;
