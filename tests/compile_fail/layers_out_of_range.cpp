// expect: dm2::layers: a layer number must be 0..63
#include <dm2/model/config.hpp>

constexpr dm2::layer_set wrong = dm2::layers(10, 64);
