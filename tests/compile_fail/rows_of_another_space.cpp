// expect: (could not convert|no known conversion).* from .rows<.*space::host.* to .rows<.*space::device
#include <dm2/core/view.hpp>

void takes(dm2::rows<float, 8, dm2::space::device>);

void gives(dm2::rows<float, 8> host) { takes(host); }
