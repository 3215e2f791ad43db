// expect: error: (#error )?dm2 checks that numbers are finite
// flags: -O2 -ffast-math
// errors: 1
#include <dm2/core/error.hpp>
