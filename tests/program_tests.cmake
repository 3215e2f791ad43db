# Tests that build or run whole programs: a stranger's project, the examples, the benchmarks, the documentation. COST, in seconds,
# has ctest begin with those that take longest, so that no processor waits for one at the end.

# A stranger's program of two files, built both ways. See consumer/check.cmake.
foreach(way find_package fetch_content)
  add_test(NAME consumer.${way}
           COMMAND ${CMAKE_COMMAND} -DWAY=${way} -DSOURCE=${PROJECT_SOURCE_DIR} -DBINARY=${PROJECT_BINARY_DIR}
                   -DGENERATOR=${CMAKE_GENERATOR} -DCOMPILER=${CMAKE_CXX_COMPILER} -DOPENMP=${DM2_OPENMP} -DJPEG=${DM2_JPEG}
                   -DPNG=${DM2_PNG} -P ${CMAKE_CURRENT_SOURCE_DIR}/consumer/check.cmake)
  set_tests_properties(consumer.${way} PROPERTIES COST 60 TIMEOUT 600 LABELS consumer ENVIRONMENT "${dm2_test_environment}")
endforeach()
add_test(NAME consumer.installs_together
         COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/consumer/installs_together.sh ${CMAKE_COMMAND} ${PROJECT_BINARY_DIR})
set_tests_properties(consumer.installs_together PROPERTIES TIMEOUT 300 LABELS consumer)
# README's programs with every compiler that is here: g++ at -O3 for a processor with AVX-512, where version 12 warns of its
# own intrinsics; clang, whose warnings do not depend on the optimizer, for this processor without it.
foreach(compiler g++-12 g++-13 g++-14 clang++-14 clang++-15 clang++-16)
  find_program(DM2_${compiler} ${compiler})
  mark_as_advanced(DM2_${compiler})
  if(NOT DM2_${compiler} OR NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    continue()
  endif()
  set(processor native)
  set(optimise -O0)
  if(compiler MATCHES "^g")
    set(processor x86-64-v4)
    set(optimise -O3)
  endif()
  add_test(NAME consumer.warnings.${compiler}
           COMMAND ${CMAKE_COMMAND} -DWAY=find_package -DSOURCE=${PROJECT_SOURCE_DIR} -DBINARY=${PROJECT_BINARY_DIR}
                   -DGENERATOR=${CMAKE_GENERATOR} -DCOMPILER=${DM2_${compiler}} -DWARNINGS=${processor} -DOPTIMISE=${optimise}
                   -P ${CMAKE_CURRENT_SOURCE_DIR}/consumer/check.cmake)
  set_tests_properties(consumer.warnings.${compiler} PROPERTIES COST 100 TIMEOUT 900 LABELS consumer)
endforeach()
if(DM2_HAS_CUDA)
  list(GET CMAKE_CUDA_ARCHITECTURES 0 architecture)
  add_test(NAME consumer.cuda
           COMMAND ${CMAKE_COMMAND} -DWAY=find_package -DSOURCE=${PROJECT_SOURCE_DIR} -DBINARY=${PROJECT_BINARY_DIR}
                   -DGENERATOR=${CMAKE_GENERATOR} -DCOMPILER=${CMAKE_CXX_COMPILER} -DCUDA=${CMAKE_CUDA_COMPILER}
                   -DARCHITECTURES=${architecture} -P ${CMAKE_CURRENT_SOURCE_DIR}/consumer/check.cmake)
  set_tests_properties(consumer.cuda PROPERTIES TIMEOUT 600 LABELS consumer)
endif()

# What ./demo runs.
if(TARGET classify)
  add_test(NAME demo COMMAND classify --model micro
           --weights "${CMAKE_CURRENT_SOURCE_DIR}/golden/lightning/epoch=0-step=2-EMA.ckpt"
           ${CMAKE_CURRENT_SOURCE_DIR}/golden/images/photo.jpg)
  set_tests_properties(demo PROPERTIES TIMEOUT 120 LABELS example ENVIRONMENT "${dm2_test_environment}")
endif()
include(examples/tests.cmake)

# How long `#include <dm2/demansia.hpp>` takes a user: `ctest -L timing -V` prints it.
file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/include_time.cpp CONTENT "#include <dm2/demansia.hpp>\nint main() {}\n")
add_test(NAME timing.include COMMAND ${CMAKE_COMMAND} -DCOMPILER=${CMAKE_CXX_COMPILER} -DFLAGS=${dm2_flags_file}
         -DROOT=${PROJECT_SOURCE_DIR} -DSOURCE=${CMAKE_CURRENT_BINARY_DIR}/include_time.cpp -DEXPECT=time
         -P ${PROJECT_SOURCE_DIR}/cmake/syntax_check.cmake)
set_tests_properties(timing.include PROPERTIES TIMEOUT 300 LABELS timing)

# Each benchmark checks its results before it times them; a run of one iteration is a test of that, but for what takes longest.
set(dm2_bench_left_out_cpu length:3137)
set(dm2_bench_left_out_model "small|batch:8/threads:1|run_time")  # run_time compiles a model
set(dm2_bench_left_out_data none)
foreach(folder cpu model data)
  if(TARGET dm2_${folder}_bench)
    add_test(NAME bench.${folder}
             COMMAND dm2_${folder}_bench --benchmark_min_time=1e-9 "--benchmark_filter=-${dm2_bench_left_out_${folder}}")
    set_tests_properties(bench.${folder} PROPERTIES TIMEOUT 900 LABELS bench
                         ENVIRONMENT "${dm2_test_environment}")
  endif()
endforeach()
if(TARGET dm2_result_hashes)
  add_test(NAME bench.result_hashes COMMAND dm2_result_hashes)
  set_tests_properties(bench.result_hashes PROPERTIES TIMEOUT 300 LABELS bench ENVIRONMENT "${dm2_test_environment}")
endif()

# Undocumented public names are errors. Doxygen before 1.9 has no such switch.
find_package(Doxygen 1.9 QUIET)
if(DOXYGEN_FOUND AND EXISTS ${PROJECT_SOURCE_DIR}/docs/Doxyfile.in)
  configure_file(${PROJECT_SOURCE_DIR}/docs/Doxyfile.in ${PROJECT_BINARY_DIR}/Doxyfile @ONLY)
  add_custom_target(docs COMMAND ${DOXYGEN_EXECUTABLE} ${PROJECT_BINARY_DIR}/Doxyfile VERBATIM)
  add_test(NAME docs COMMAND ${DOXYGEN_EXECUTABLE} ${PROJECT_BINARY_DIR}/Doxyfile)
  set_tests_properties(docs PROPERTIES TIMEOUT 300 LABELS docs)
endif()
