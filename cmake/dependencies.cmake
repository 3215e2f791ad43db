# Everything dm2 stands on: the system's copy where find_package finds one, else a pinned one, else a message that
# names the package to install.
find_package(Threads REQUIRED)
include(${CMAKE_CURRENT_LIST_DIR}/fetch.cmake)

dm2_headers(Eigen3 VERSION 3.4 TARGET Eigen3::Eigen PACKAGE libeigen3-dev INCLUDE .
  URL https://gitlab.com/libeigen/eigen/-/archive/3.4.0/eigen-3.4.0.tar.gz
  SHA256 8586084f71f9bde545ee7fa6d00288b264a2b7ac3607b974e54d13e7162c1c72)
dm2_headers(nlohmann_json VERSION 3.10 TARGET nlohmann_json::nlohmann_json PACKAGE nlohmann-json3-dev INCLUDE include
  URL https://github.com/nlohmann/json/releases/download/v3.11.3/json.tar.xz
  SHA256 d6c65aca6b1ed68e7a182f4757257b107ae403032760ed6ef121c9d55e81757d)
if(DM2_TESTS)
  dm2_headers(doctest VERSION 2.4 TARGET doctest::doctest PACKAGE doctest-dev INCLUDE .
    URL https://github.com/doctest/doctest/archive/refs/tags/v2.4.11.tar.gz
    SHA256 632ed2c05a7f53fa961381497bf8069093f0d6628c5f26286161fbd32a560186)
endif()
if(DM2_EXAMPLES OR DM2_TESTS OR DM2_C)
  dm2_headers(CLI11 VERSION 2.1 TARGET CLI11::CLI11 PACKAGE libcli11-dev INCLUDE include
    URL https://github.com/CLIUtils/CLI11/archive/refs/tags/v2.5.0.tar.gz
    SHA256 17e02b4cddc2fa348e5dbdbb582c59a3486fa2b2433e70a0c3bacb871334fd55)
endif()
if(DM2_BENCH)
  dm2_benchmark()
endif()

# What may be missing. Each DM2_HAS_ is said once here and read everywhere else.
set(DM2_HAS_OPENMP OFF)
if(DM2_OPENMP)
  find_package(OpenMP QUIET COMPONENTS CXX)
  set(DM2_HAS_OPENMP ${OpenMP_CXX_FOUND})
endif()
set(DM2_HAS_JPEG OFF)
if(DM2_JPEG)
  find_package(JPEG QUIET)
  set(DM2_HAS_JPEG ${JPEG_FOUND})
endif()
set(DM2_HAS_PNG OFF)
if(DM2_PNG)
  find_package(PNG QUIET)
  set(DM2_HAS_PNG ${PNG_FOUND})
endif()
# DM2_HAS_STB: dm2 needs stb_image. It may be found without being needed, and is tested then all the same.
set(DM2_HAS_STB OFF)
find_path(DM2_STB_INCLUDE_DIR NAMES stb_image.h PATH_SUFFIXES stb)
if(NOT DM2_HAS_JPEG OR NOT DM2_HAS_PNG)
  if(NOT DM2_STB_INCLUDE_DIR)
    dm2_missing("libjpeg-turbo or libpng, and stb_image, which stands in for them," "libjpeg-dev libpng-dev")
  endif()
  set(DM2_HAS_STB ON)
endif()
message(STATUS "dm2: OpenMP ${DM2_HAS_OPENMP}, libjpeg ${DM2_HAS_JPEG}, libpng ${DM2_HAS_PNG}, stb_image ${DM2_HAS_STB}")
