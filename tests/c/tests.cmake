# dm2 for C: its numbers and errors, what it shows of itself, and C programs, as their users compile them.
if(NOT TARGET dm2_c)
  return()
endif()
file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/*_test.cpp)
dm2_together(units c 1 ${sources})  # under the sanitizers they take 19 s to compile together, 55 s alone
add_executable(dm2_c_tests ${units})
target_link_libraries(dm2_c_tests PRIVATE dm2_test_main dm2_c dm2_models)
dm2_precompile(dm2_c_tests)
foreach(source ${sources})
  get_filename_component(name ${source} NAME)
  string(REGEX REPLACE "_test\\.cpp$" "" name ${name})
  set(cases "")
  if(DM2_SANITIZE AND name STREQUAL trainer)
    set(cases "--test-case=C errors*")  # what a training computes is compared without sanitizers, which take 20 s for it
  endif()
  add_test(NAME c.${name} COMMAND dm2_c_tests --source-file=*/c/${name}_test.cpp ${cases})
  set_tests_properties(c.${name} PROPERTIES TIMEOUT 600 LABELS unit ENVIRONMENT "${dm2_test_environment}"
                       FAIL_REGULAR_EXPRESSION "test cases: +0 ")
endforeach()

set(c_flags "")
set(c_calls 20000)
if(DM2_SANITIZE)
  set(c_calls 1000 1000000)  # each call is slow; what was freed is kept, and leaks are told otherwise
  set(c_flags ${dm2_sanitize_flags})
endif()
set(c_golden ${CMAKE_CURRENT_SOURCE_DIR}/golden)
set(c_model ${c_golden}/lightning/epoch=0-step=2-EMA.ckpt)
# dm2_c_program_test(NAME SOURCE ARGUMENT...): compiles SOURCE with -std=c99 -Wall -Wextra -pedantic -Werror, and runs it.
# Of a page (.md) the program is the first block of C. With PROGRAM, which prints a JSON, the numbers have to be the same.
function(dm2_c_program_test name source)
  cmake_parse_arguments(arg "" "PROGRAM" "" ${ARGN})
  add_test(NAME c.${name}
           COMMAND ${CMAKE_COMMAND} -DNAME=${name} -DSOURCE=${source} -DCOMPILER=${CMAKE_CXX_COMPILER} "-DFLAGS=${c_flags}"
                   -DHEADERS=$<TARGET_PROPERTY:dm2_c,INTERFACE_INCLUDE_DIRECTORIES> -DLIBRARY=$<TARGET_FILE:dm2_c>
                   -DWORK=${CMAKE_CURRENT_BINARY_DIR}/c "-DARGUMENTS=${arg_UNPARSED_ARGUMENTS}" "-DPROGRAM=${arg_PROGRAM}"
                   "-DEMULATOR=${CMAKE_CROSSCOMPILING_EMULATOR}"
                   -P ${CMAKE_CURRENT_SOURCE_DIR}/c/program.cmake)
  set_tests_properties(c.${name} PROPERTIES TIMEOUT 300 LABELS unit ENVIRONMENT "${dm2_test_environment}")
endfunction()
set(program "")
if(TARGET dm2_program)
  set(program $<TARGET_FILE:dm2_program>)
endif()
dm2_c_program_test(example ${PROJECT_SOURCE_DIR}/examples/c/classify.c ${c_model} ${c_golden}/images/photo.jpg PROGRAM ${program})
dm2_c_program_test(page ${PROJECT_SOURCE_DIR}/docs/c.md ${c_model} ${c_golden}/images/photo.jpg)
dm2_c_program_test(many_calls ${CMAKE_CURRENT_LIST_DIR}/many_calls.c ${c_model} ${c_golden}/images/photo.jpg ${c_calls})

add_test(NAME c.symbols COMMAND ${CMAKE_COMMAND} -DLIBRARY=$<TARGET_FILE:dm2_c> -DHEADER=${PROJECT_SOURCE_DIR}/bindings/c/dm2.h
         -DSONAME=libdm2.so.${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR} -DCOMPILER=${CMAKE_CXX_COMPILER}
         -P ${CMAKE_CURRENT_LIST_DIR}/symbols.cmake)
set_tests_properties(c.symbols PROPERTIES TIMEOUT 60 LABELS unit)

# A sanitizer's runtime would have to be Python's first library.
find_package(Python3 COMPONENTS Interpreter QUIET)
if(Python3_FOUND AND TARGET dm2_program AND NOT DM2_SANITIZE)
  add_test(NAME c.python COMMAND Python3::Interpreter ${CMAKE_CURRENT_LIST_DIR}/classify.py $<TARGET_FILE:dm2_c> ${c_model}
           ${c_golden}/images/photo.jpg $<TARGET_FILE:dm2_program>)
  set_tests_properties(c.python PROPERTIES TIMEOUT 120 LABELS unit ENVIRONMENT "${dm2_test_environment}")
endif()
