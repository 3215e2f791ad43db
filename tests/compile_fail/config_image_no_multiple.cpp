// expect: dm2::config: image.height and image.width must be multiples of patch
#include <dm2/model/config.hpp>

constexpr dm2::config wrong{.image = {224, 230}};
constexpr int length = dm2::sizes<wrong>::length;
