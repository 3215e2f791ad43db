# One program, one ctest entry a source file, as in the other folders. They need a GPU to run and none to compile.
file(GLOB_RECURSE sources CONFIGURE_DEPENDS cuda/*_test.cu)
add_executable(dm2_cuda_tests main.cpp ${sources})
target_link_libraries(dm2_cuda_tests PRIVATE dm2_cuda_own doctest::doctest)
target_include_directories(dm2_cuda_tests PRIVATE ${CMAKE_CURRENT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/bench)
target_compile_definitions(dm2_cuda_tests PRIVATE DM2_GOLDEN_DIR="${CMAKE_CURRENT_SOURCE_DIR}/golden")
foreach(source ${sources})
  file(RELATIVE_PATH path ${CMAKE_CURRENT_SOURCE_DIR}/cuda ${source})
  string(REGEX REPLACE "_test\\.cu$" "" name ${path})
  string(REPLACE "/" "." entry ${name})
  add_test(NAME cuda.${entry} COMMAND dm2_cuda_tests --source-file=*/cuda/${path})
  set_tests_properties(cuda.${entry} PROPERTIES TIMEOUT 900 ENVIRONMENT "${dm2_test_environment}" LABELS cuda
                       FAIL_REGULAR_EXPRESSION "test cases: +0 ")
endforeach()
