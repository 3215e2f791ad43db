# dm2_own: how dm2's own programs are compiled. It is linked privately and never exported, so that none of it reaches
# a program that uses dm2.
add_library(dm2_own INTERFACE)
set(DM2_WARNINGS -Wall -Wextra -Wpedantic -Wconversion -Wshadow)
if(DM2_WERROR)
  list(APPEND DM2_WARNINGS -Werror)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # False alarms of g++ 12 at -O3: its AVX-512 intrinsics read a variable of theirs before it is set, which it reports
  # in Eigen's code, and it takes a std::string's short buffer for overlapping memory.
  list(APPEND DM2_WARNINGS -Wno-uninitialized -Wno-maybe-uninitialized -Wno-restrict)
endif()
target_compile_options(dm2_own INTERFACE ${DM2_WARNINGS})
# g++ looks for memory to free from 512 MB on, and not from 128 MB: a sixth of the time to compile a model (26 s for 31 s), and
# 1.1 GB for 0.8 GB. What it makes is the same.
set(DM2_COLLECT "")
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  set(DM2_COLLECT --param=ggc-min-heapsize=524288)
  target_compile_options(dm2_own INTERFACE $<$<COMPILE_LANGUAGE:CXX>:${DM2_COLLECT}>)
endif()
if(DM2_NATIVE)
  include(CheckCXXCompilerFlag)
  check_cxx_compiler_flag(-march=native DM2_HAS_MARCH_NATIVE)
  if(DM2_HAS_MARCH_NATIVE)
    target_compile_options(dm2_own INTERFACE -march=native)
  endif()
endif()
if(DM2_SANITIZE)
  set(dm2_sanitize_flags -fsanitize=${DM2_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_compile_options(dm2_own INTERFACE ${dm2_sanitize_flags})
  target_link_options(dm2_own INTERFACE ${dm2_sanitize_flags})
  target_compile_definitions(dm2_own INTERFACE _GLIBCXX_ASSERTIONS)
endif()
