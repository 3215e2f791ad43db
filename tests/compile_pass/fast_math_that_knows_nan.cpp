// The rest of -ffast-math does no harm to checks.
// flags: -O2 -ffast-math -fno-finite-math-only
#include <dm2/core/error.hpp>
