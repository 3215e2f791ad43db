# dm2::cuda: the CUDA backend, headers as well. It is made where DM2_CUDA is on, and needs the CUDA toolkit, 12.4 or newer.
#
# A program that links dm2::cuda compiles dm2's .cuh headers with nvcc, for the architectures that it names itself. dm2's
# own programs take CMAKE_CUDA_ARCHITECTURES, or else DM2_CUDA_ARCHITECTURES.
set(DM2_HAS_CUDA OFF)
if(NOT DM2_CUDA)
  return()
endif()
set(DM2_CUDA_ARCHITECTURES "80-real;86-real;89-real;90a-real;90-virtual" CACHE STRING
    "What dm2's own CUDA programs are compiled for: A100, RTX 30, RTX 40 and L4, H100, and PTX for later ones")
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES ${DM2_CUDA_ARCHITECTURES})
endif()
enable_language(CUDA)
find_package(CUDAToolkit 12.4 REQUIRED)
set(DM2_HAS_CUDA ON)

add_library(dm2_cuda INTERFACE)
add_library(dm2::cuda ALIAS dm2_cuda)
set_target_properties(dm2_cuda PROPERTIES EXPORT_NAME cuda)
target_link_libraries(dm2_cuda INTERFACE dm2 CUDA::cudart CUDA::cublasLt)
# CMake before 3.26 does not know C++20 of nvcc 12 and later. Eigen is for the host alone.
target_compile_options(dm2_cuda INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>)
target_compile_definitions(dm2_cuda INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:EIGEN_NO_CUDA>)

# dm2_cuda_own: how dm2's own CUDA programs are compiled.
add_library(dm2_cuda_own INTERFACE)
target_link_libraries(dm2_cuda_own INTERFACE dm2::cuda)
# 177: nvcc 13 takes a template's member in an unnamed namespace for unused where other templates alone use it.
target_compile_options(dm2_cuda_own INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-diag-suppress=177>)
# -Wno-parentheses: nvcc writes pointers to members with parentheses that its host compiler then warns of.
target_compile_options(dm2_cuda_own INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Wno-parentheses>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(dm2_cuda_own INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wno-restrict>)  # as in own_flags.cmake
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 13)
  # A false alarm of g++ 13 behind nvcc: an index of -2^31 where a trunk's blocks are gone through, which start at 0.
  target_compile_options(dm2_cuda_own INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wno-array-bounds>)
endif()
if(DM2_WERROR)
  target_compile_options(dm2_cuda_own INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings -Xcompiler=-Werror>)
endif()

# dm2::nccl: what dm2::cuda::nccl_communicator needs beside dm2::cuda, where NCCL is found.
set(DM2_HAS_NCCL OFF)
find_path(DM2_NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
find_library(DM2_NCCL_LIBRARY nccl HINTS ${CUDAToolkit_LIBRARY_DIR} ${CUDAToolkit_LIBRARY_ROOT}/lib)
mark_as_advanced(DM2_NCCL_INCLUDE_DIR DM2_NCCL_LIBRARY)
if(DM2_NCCL_INCLUDE_DIR AND DM2_NCCL_LIBRARY)
  set(DM2_HAS_NCCL ON)
  add_library(dm2_nccl INTERFACE)
  add_library(dm2::nccl ALIAS dm2_nccl)
  target_include_directories(dm2_nccl SYSTEM INTERFACE ${DM2_NCCL_INCLUDE_DIR})
  target_link_libraries(dm2_nccl INTERFACE dm2_cuda ${DM2_NCCL_LIBRARY})
  target_compile_definitions(dm2_nccl INTERFACE DM2_WITH_NCCL=1)
endif()
