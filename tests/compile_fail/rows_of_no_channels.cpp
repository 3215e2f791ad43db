// expect: dm2::rows<T, C>: C \(channels\) must be at least 1
#include <dm2/core/view.hpp>

dm2::rows<float, 0> none;
