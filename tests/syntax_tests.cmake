# Tests that only compile: every header alone (header_chains.cmake), all of them behind macros that other people's headers
# define, the programs of compile_pass/, and those of compile_fail/, which must be refused.
set(dm2_flags_file ${CMAKE_CURRENT_BINARY_DIR}/syntax_flags.txt)
set(flags -std=c++20 ${DM2_WARNINGS} ${DM2_COLLECT})
if(DM2_HAS_OPENMP)
  separate_arguments(openmp UNIX_COMMAND "${OpenMP_CXX_FLAGS}")
  list(APPEND flags ${openmp})
endif()
if(DM2_HAS_MPI)
  list(TRANSFORM MPI_CXX_INCLUDE_DIRS PREPEND "-isystem" OUTPUT_VARIABLE mpi_includes)
  list(APPEND flags ${mpi_includes} -DOMPI_SKIP_MPICXX)
endif()
list(JOIN flags "\n" flags)
file(GENERATE OUTPUT ${dm2_flags_file} CONTENT "${flags}
-I$<JOIN:$<REMOVE_DUPLICATES:$<TARGET_PROPERTY:dm2_test_main,INCLUDE_DIRECTORIES>>,\n-I>
-D$<JOIN:$<TARGET_PROPERTY:dm2_test_main,COMPILE_DEFINITIONS>,\n-D>
")

function(dm2_syntax_test name source)
  add_test(NAME ${name}
           COMMAND ${CMAKE_COMMAND} -DCOMPILER=${CMAKE_CXX_COMPILER} -DFLAGS=${dm2_flags_file} -DROOT=${PROJECT_SOURCE_DIR}
                   -DSOURCE=${source} ${ARGN} -P ${PROJECT_SOURCE_DIR}/cmake/syntax_check.cmake)
  set_tests_properties(${name} PROPERTIES TIMEOUT 300 LABELS syntax)
endfunction()

# Included twice, so that a missing #pragma once shows too.
file(GLOB_RECURSE headers CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/include/*.hpp)
if(NOT DM2_STB_INCLUDE_DIR)
  list(FILTER headers EXCLUDE REGEX "decode/stb\\.hpp$")
endif()
if(NOT DM2_HAS_MPI)
  list(FILTER headers EXCLUDE REGEX "comm/mpi\\.hpp$")
endif()
# A chain is named after its last header. 251 headers are 96 chains, which take 165 s of a processor; one by one they took 365 s.
include(header_chains.cmake)
dm2_header_chains(chains ${headers})
foreach(chain IN LISTS chains)
  string(REGEX REPLACE "^.*dm2/([^ ]*)\\.hpp$" "\\1" name "${chain}")
  string(REPLACE "/" "." name ${name})
  set(unit ${CMAKE_CURRENT_BINARY_DIR}/headers/${name}.cpp)
  string(REGEX REPLACE "([^ ]+) *" "#include <\\1>\n#include <\\1>\n" includes "${chain}")
  file(CONFIGURE OUTPUT ${unit} CONTENT "${includes}")
  dm2_syntax_test(header.${name} ${unit})
endforeach()

list(FILTER headers EXCLUDE REGEX "comm/mpi\\.hpp$")  # MPI's own header does not stand them
list(TRANSFORM headers REPLACE "(.+)" "#include <\\1>" OUTPUT_VARIABLE includes)
list(JOIN includes "\n" includes)
set(unit ${CMAKE_CURRENT_BINARY_DIR}/headers/behind_macros.cpp)
set(macros ${CMAKE_CURRENT_LIST_DIR}/support/other_macros)
file(CONFIGURE OUTPUT ${unit} CONTENT "#include \"${macros}.hpp\"\n${includes}\n#include \"${macros}_left.hpp\"\n")
dm2_syntax_test(header.behind_macros ${unit})

file(GLOB sources CONFIGURE_DEPENDS compile_pass/*.cpp)
foreach(source ${sources})
  get_filename_component(name ${source} NAME_WE)
  dm2_syntax_test(compile_pass.${name} ${source})
endforeach()
file(GLOB sources CONFIGURE_DEPENDS compile_fail/*.cpp)
foreach(source ${sources})
  get_filename_component(name ${source} NAME_WE)
  dm2_syntax_test(compile_fail.${name} ${source} -DEXPECT=fail)
endforeach()

# What a header may include: floors, rooms, assembly.
add_test(NAME include_rules COMMAND ${PROJECT_SOURCE_DIR}/scripts/include_rules)
set_tests_properties(include_rules PROPERTIES TIMEOUT 60 LABELS unit)

# Links between documents lead to files and headings that are there.
add_test(NAME links COMMAND ${PROJECT_SOURCE_DIR}/scripts/links)
set_tests_properties(links PROPERTIES TIMEOUT 60 LABELS unit)
