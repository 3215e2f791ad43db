// expect: dm2::config: headdim and d_state must be at least 1
#include <dm2/model/config.hpp>

constexpr dm2::config wrong{.headdim = 0};
constexpr int length = dm2::sizes<wrong>::length;
