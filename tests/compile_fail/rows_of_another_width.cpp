// expect: (could not convert|no known conversion).* from .rows<float, ?192>. to .rows<const float, ?384>
#include <dm2/core/view.hpp>

void takes(dm2::rows<float const, 384>);

void gives(dm2::rows<float, 192> x) { takes(x); }
