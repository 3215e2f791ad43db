// expect: dm2::config: expand \* dim must be a multiple of headdim
#include <dm2/model/config.hpp>

constexpr dm2::config wrong{.headdim = 50};
constexpr int length = dm2::sizes<wrong>::length;
