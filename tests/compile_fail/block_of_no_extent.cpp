// expect: dm2::block: every extent must be at least 1
#include <dm2/core/view.hpp>

dm2::block<float, dm2::space::host, 3, 0> none;
