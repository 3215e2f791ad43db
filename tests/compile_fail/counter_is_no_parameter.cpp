// expect: dm2::get: a counter is not in the flat buffer
#include <dm2/model/layers.hpp>

auto gives(dm2::layer_view<dm2::stem_layer<dm2::tiny>, float> stem) {
  return dm2::get<dm2::stem_layer<dm2::tiny>::bn1_count>(stem);
}
