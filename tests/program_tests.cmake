# Tests that build or run whole programs: a stranger's project, the examples, the benchmarks, the documentation.

# A stranger's program of two files, built both ways. See consumer/check.cmake.
foreach(way find_package fetch_content)
  add_test(NAME consumer.${way}
           COMMAND ${CMAKE_COMMAND} -DWAY=${way} -DSOURCE=${PROJECT_SOURCE_DIR} -DBINARY=${PROJECT_BINARY_DIR}
                   -DGENERATOR=${CMAKE_GENERATOR} -DCOMPILER=${CMAKE_CXX_COMPILER} -DOPENMP=${DM2_OPENMP} -DJPEG=${DM2_JPEG}
                   -DPNG=${DM2_PNG} -P ${CMAKE_CURRENT_SOURCE_DIR}/consumer/check.cmake)
  set_tests_properties(consumer.${way} PROPERTIES TIMEOUT 600 LABELS consumer ENVIRONMENT "${dm2_test_environment}")
endforeach()

# What ./demo runs, and what a user mistypes.
set(dm2_weights "${CMAKE_CURRENT_SOURCE_DIR}/golden/lightning/epoch=0-step=2-EMA.ckpt")
set(dm2_photo ${CMAKE_CURRENT_SOURCE_DIR}/golden/images/photo.jpg)
file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/examples/*.cpp)
foreach(source ${sources})
  get_filename_component(name ${source} NAME_WE)
  if(TARGET ${name})
    add_test(NAME example.${name}.help COMMAND ${name} --help)
    add_test(NAME example.${name}.unknown_option COMMAND ${name} --no-such-option)
    set_tests_properties(example.${name}.unknown_option PROPERTIES WILL_FAIL ON)
    set_tests_properties(example.${name}.help example.${name}.unknown_option PROPERTIES TIMEOUT 60 LABELS example)
  endif()
endforeach()
if(TARGET classify)
  add_test(NAME example.classify COMMAND classify --model micro --weights ${dm2_weights} ${dm2_photo})
  add_test(NAME example.classify.no_such_file COMMAND classify --model micro --weights ${dm2_weights} no_such_file.jpg)
  set_tests_properties(example.classify.no_such_file PROPERTIES WILL_FAIL ON)
  set_tests_properties(example.classify example.classify.no_such_file PROPERTIES TIMEOUT 120 LABELS example
                       ENVIRONMENT "${dm2_test_environment}")
endif()

# How long `#include <dm2/demansia.hpp>` takes a user: `ctest -L timing -V` prints it.
file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/include_time.cpp CONTENT "#include <dm2/demansia.hpp>\nint main() {}\n")
add_test(NAME timing.include COMMAND ${CMAKE_COMMAND} -DCOMPILER=${CMAKE_CXX_COMPILER} -DFLAGS=${dm2_flags_file}
         -DROOT=${PROJECT_SOURCE_DIR} -DSOURCE=${CMAKE_CURRENT_BINARY_DIR}/include_time.cpp -DEXPECT=time
         -P ${PROJECT_SOURCE_DIR}/cmake/syntax_check.cmake)
set_tests_properties(timing.include PROPERTIES TIMEOUT 300 LABELS timing)

# Each benchmark checks its results before it times them; a short run is a test of that.
file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/bench/*_bench.cpp)
foreach(source ${sources})
  get_filename_component(name ${source} NAME_WE)
  if(TARGET dm2_${name})
    add_test(NAME bench.${name} COMMAND dm2_${name} --benchmark_min_time=0.001)
    set_tests_properties(bench.${name} PROPERTIES TIMEOUT 600 LABELS bench ENVIRONMENT "${dm2_test_environment}"
                         FAIL_REGULAR_EXPRESSION "ERROR OCCURRED")
  endif()
endforeach()

# Undocumented public names are errors. Doxygen before 1.9 has no such switch.
find_package(Doxygen 1.9 QUIET)
if(DOXYGEN_FOUND AND EXISTS ${PROJECT_SOURCE_DIR}/docs/Doxyfile.in)
  configure_file(${PROJECT_SOURCE_DIR}/docs/Doxyfile.in ${PROJECT_BINARY_DIR}/Doxyfile @ONLY)
  add_custom_target(docs COMMAND ${DOXYGEN_EXECUTABLE} ${PROJECT_BINARY_DIR}/Doxyfile VERBATIM)
  add_test(NAME docs COMMAND ${DOXYGEN_EXECUTABLE} ${PROJECT_BINARY_DIR}/Doxyfile)
  set_tests_properties(docs PROPERTIES TIMEOUT 300 LABELS docs)
endif()
