/// @file
/// What dm2's headers must have left of other_macros.hpp, and how dm2::small is written then.
#pragma once

#if !defined(small) || !defined(near) || !defined(far) || !defined(interface) || !defined(ERROR) || !defined(CHECK)
#error a macro of Windows or of a test library is gone
#endif
#if !defined(Success) || !defined(None) || !defined(Status) || !defined(Bool) || !defined(I) || !defined(B0)
#error a macro of X11, complex.h or termios.h is gone
#endif

static_assert(dm2::sizes<dm2::published_small>::d_inner == 768);
#undef small
static_assert(std::is_same_v<dm2::model<dm2::small>, dm2::model<dm2::published_small>>);
