# Libraries by find_package, else by FetchContent from an archive whose hash is pinned.

# Stops with the Debian package that has what is missing.
function(dm2_missing what package)
  message(FATAL_ERROR "dm2: ${what} was not found. On Debian or Ubuntu: apt-get install ${package}")
endfunction()

# Downloads and unpacks into ${name}_SOURCE_DIR. The library's own CMakeLists.txt runs only if `build` is true.
macro(dm2_fetch name package url sha256 build)
  if(NOT DM2_FETCH)
    dm2_missing("${name}" ${package})
  endif()
  message(STATUS "dm2: ${name} was not found; fetching ${url} (or: apt-get install ${package})")
  include(FetchContent)
  if(POLICY CMP0135)
    cmake_policy(SET CMP0135 NEW)
  endif()
  if(${build})
    FetchContent_Declare(dm2_${name} URL ${url} URL_HASH SHA256=${sha256})
  else()
    FetchContent_Declare(dm2_${name} URL ${url} URL_HASH SHA256=${sha256} SOURCE_SUBDIR no-build)
  endif()
  FetchContent_MakeAvailable(dm2_${name})
endmacro()

# dm2_headers(NAME VERSION v TARGET t PACKAGE debian INCLUDE folder URL u SHA256 h): a library of headers alone.
# What is fetched becomes an imported target of the same name as the system's, so that an export of dm2 names the same
# target either way and find_dependency finds it on the machine that uses the export.
function(dm2_headers name)
  cmake_parse_arguments(arg "" "VERSION;TARGET;PACKAGE;INCLUDE;URL;SHA256" "" ${ARGN})
  if(TARGET ${arg_TARGET})
    return()
  endif()
  find_package(${name} ${arg_VERSION} CONFIG QUIET)
  if(TARGET ${arg_TARGET})
    return()
  endif()
  string(TOLOWER ${name} low)
  dm2_fetch(${low} ${arg_PACKAGE} ${arg_URL} ${arg_SHA256} FALSE)
  add_library(${arg_TARGET} INTERFACE IMPORTED GLOBAL)
  target_include_directories(${arg_TARGET} SYSTEM INTERFACE ${dm2_${low}_SOURCE_DIR}/${arg_INCLUDE})
endfunction()

# Google Benchmark, the one library here that is compiled.
function(dm2_benchmark)
  find_package(benchmark CONFIG QUIET)
  if(TARGET benchmark::benchmark)
    return()
  endif()
  foreach(off ENABLE_TESTING ENABLE_GTEST_TESTS ENABLE_INSTALL ENABLE_WERROR INSTALL_DOCS)
    set(BENCHMARK_${off} OFF CACHE BOOL "" FORCE)
  endforeach()
  dm2_fetch(benchmark libbenchmark-dev https://github.com/google/benchmark/archive/refs/tags/v1.8.3.tar.gz
            6bc180a57d23d4d9515519f92b0c83d61b05b5bab188961f36ac7b06b0d9e9ce TRUE)
endfunction()
