# The tests of tests/cuda on the host, without a GPU: see README.md here. One program, one ctest entry a source file, with
# the label "emulated". DM2_EMULATED_TESTS names those that are built, or is empty for all: half an hour of compiling.
find_package(Boost REQUIRED COMPONENTS context)
set(DM2_EMULATED_TESTS "" CACHE STRING "Files of tests/cuda to emulate, without _test.cu: training_pass;ssd/backward_chunked. Empty: all")
file(GLOB_RECURSE sources CONFIGURE_DEPENDS cuda/*_test.cu)
if(DM2_EMULATED_TESTS)
  list(TRANSFORM DM2_EMULATED_TESTS REPLACE "(.+)" "${CMAKE_CURRENT_SOURCE_DIR}/cuda/\\1_test.cu" OUTPUT_VARIABLE sources)
endif()
set(rest ${sources})
# Small ones, eight a unit: what they include is most of what they take to compile.
set(small ${sources})
list(FILTER small INCLUDE REGEX "/cuda/(tile/(fragment|warp|copy_rows|ring|partial_sums|packet|own_ring|convolve_rows)|augment|\
augment/operations|decode|decode/damage|batch_decoder|device/forms|stem/(conv3_hopper|project_hopper))_test\\.cu$")
# The same trainer in each of these.
set(trainers ${sources})
list(FILTER trainers INCLUDE REGEX "/cuda/step_engine(/(processes|tuning|raw_pictures))?_test\\.cu$")
list(REMOVE_ITEM rest ${small} ${trainers} "")
list(LENGTH small small_count)
math(EXPR small_count "(${small_count} + 7) / 8")
list(LENGTH rest count)
math(EXPR count "(${count} + 2) / 3")  # five training passes together take 2.4 GB
dm2_together(small_units emulated_small ${small_count} ${small})
dm2_together(trainer_units emulated_trainers 1 ${trainers})
dm2_together(units emulated ${count} ${rest})
list(APPEND units ${small_units} ${trainer_units})
set_source_files_properties(${units} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++")
add_executable(dm2_emulated_tests main.cpp emulated/workers_test.cpp ${units})
target_link_libraries(dm2_emulated_tests PRIVATE dm2::dm2 doctest::doctest Boost::context)
target_include_directories(dm2_emulated_tests BEFORE PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/emulated/include)
target_include_directories(dm2_emulated_tests PRIVATE ${CMAKE_CURRENT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/bench)
target_compile_definitions(dm2_emulated_tests PRIVATE DM2_GOLDEN_DIR="${CMAKE_CURRENT_SOURCE_DIR}/golden")
target_compile_options(dm2_emulated_tests PRIVATE -Wall -Wextra -Wno-unknown-pragmas -Wno-maybe-uninitialized
                                                  -Wno-uninitialized $<$<CONFIG:Release>:-O1>)
# The processor's own conversions of 16-bit numbers and fused sums: without them a quarter of the time goes into libgcc's.
if(DM2_NATIVE AND DM2_HAS_MARCH_NATIVE)
  target_compile_options(dm2_emulated_tests PRIVATE -march=native)
endif()
if(DM2_WERROR)
  target_compile_options(dm2_emulated_tests PRIVATE -Werror)
endif()
# The emulation's own.
add_test(NAME emulated.workers COMMAND dm2_emulated_tests --source-file=*/emulated/workers_test.cpp)
set_tests_properties(emulated.workers PROPERTIES TIMEOUT 300 LABELS emulated FAIL_REGULAR_EXPRESSION "test cases: +0 ")
foreach(source ${sources})
  file(RELATIVE_PATH path ${CMAKE_CURRENT_SOURCE_DIR}/cuda ${source})
  string(REGEX REPLACE "_test\\.cu$" "" name ${path})
  string(REPLACE "/" "." entry ${name})
  add_test(NAME emulated.${entry} COMMAND dm2_emulated_tests --source-file=*/cuda/${path} "--test-case-exclude=*[long]*")
  set_tests_properties(emulated.${entry} PROPERTIES TIMEOUT 900 ENVIRONMENT "${dm2_test_environment}" LABELS emulated
                       FAIL_REGULAR_EXPRESSION "test cases: +0 ")
endforeach()
