// expect: (could not convert|no known conversion).* from .rows<const float.* to .rows<float
#include <dm2/core/view.hpp>

void writes(dm2::rows<float, 8>);

void gives(dm2::rows<float const, 8> read_only) { writes(read_only); }
