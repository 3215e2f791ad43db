/// @file
/// Requirements on the compiler: C++20, and numbers that are not finite.
#pragma once

#if __cplusplus < 202002L
#error dm2 needs C++20: compile with -std=c++20 or newer
// g++ and clang go on after #error, to a thousand more; a file that is not there ends the compilation.
#include <dm2/the_compilation_ends_here>
#endif

// -ffast-math, -Ofast and -ffinite-math-only let a compiler leave out every check for infinity and NaN: a label map
// with NaN in it would be taken, a diverged training would go on.
#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error dm2 checks that numbers are finite, which -ffast-math, -Ofast and -ffinite-math-only leave out: \
add -fno-finite-math-only behind them
#endif
