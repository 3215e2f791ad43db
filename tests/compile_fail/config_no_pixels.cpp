// expect: dm2::config: image.height, image.width and channels must be at least 1
#include <dm2/model/config.hpp>

constexpr dm2::config wrong{.image = {0, 224}};
constexpr int length = dm2::sizes<wrong>::length;
