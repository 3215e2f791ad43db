/// @file
/// Macros that other people's headers define, before any header of dm2.
#pragma once

#include <termios.h>  // B0, ECHO, NL0 ...

// Windows
#define min(a, b) (((a) < (b)) ? (a) : (b))
#define max(a, b) (((a) > (b)) ? (a) : (b))
#define small char
#define hyper __int64
#define near
#define far
#define interface struct
#define IN
#define OUT
#define OPTIONAL
#define CONST const
#define ERROR 0
#define DELETE (0x00010000L)
#define DIFFERENCE 11
#define RGB(r, g, b) ((r) | (g) << 8 | (b) << 16)
#define TRUE 1
#define FALSE 0

// X11
#define Success 0
#define None 0L
#define Always 2
#define Bool int
#define Status int
#define True 1
#define False 0
#define Complex 0
#define Convex 2
#define Above 0
#define Below 1
#define Unsorted 0

// complex.h, math.h, sys/sysmacros.h
#define I _Complex_I
#define DOMAIN 1
#define OVERFLOW 3
#define UNDERFLOW 4
#define major(dev) (dev)
#define minor(dev) (dev)

// Logging, testing, numerics
#define CHECK(x) static_cast<void>(x)
#define REQUIRE(x) static_cast<void>(x)
#define LOG(x) static_cast<void>(x)
#define DEBUG 1
#define INFO 1
#define WARNING 2
#define VERSION "1"
#define PI 3.14159
#define EPS 1e-6
#define EPSILON 1e-6
#define SQR(x) ((x) * (x))
