/// @file
/// Eigen, as dm2 includes it.
#pragma once

#include <dm2/core/compiler.hpp>

#if !__has_include(<Eigen/Core>)
#error dm2 needs Eigen 3.4: Debian and Ubuntu have it in libeigen3-dev, for which -isystem /usr/include/eigen3 is added
#include <dm2/the_compilation_ends_here>  // as in core/compiler.hpp
#endif

// X11 has a macro of this name, and Eigen stops where it sees one.
#pragma push_macro("Success")
#undef Success

// Threads are ours: Eigen's own would also start where one thread is asked for. A program that wants them includes
// Eigen before dm2.
#ifndef EIGEN_DONT_PARALLELIZE
#define EIGEN_DONT_PARALLELIZE
#endif

// g++ 12's AVX-512 intrinsics read a variable of theirs before it is set, on purpose; g++ 13 says no more of it. The
// warning comes wherever Eigen's code is compiled into a program's.
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <Eigen/Core>
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 13
#pragma GCC diagnostic pop
#endif

#pragma pop_macro("Success")
