# cmake -DCOMPILER=c++ -DFLAGS=file -DROOT=folder -DSOURCE=x.cpp [-DEXPECT=fail|time] -P syntax_check.cmake
#
# Runs the compiler on one file with -fsyntax-only, outside the build tree, so that ctest -j runs many at once. FLAGS
# holds one argument a line; include folders outside ROOT are other people's, and warn of nothing. With EXPECT=fail the
# file must be refused, and with a message that matches the regular expression of its first line, `// expect: REGEX`.
# With EXPECT=time the file is compiled in full, with -O3, and the time is printed.
file(STRINGS ${FLAGS} lines)
set(flags "")
foreach(line IN LISTS lines)
  if(line MATCHES "^-I(.*)$")
    set(folder "${CMAKE_MATCH_1}")
    string(FIND "${folder}/" "${ROOT}/" at)
    if(at EQUAL 0)
      list(APPEND flags ${line})
    elseif(NOT folder MATCHES "^(/usr/include)?$")  # already searched, and last, as the standard library needs it
      list(APPEND flags -isystem ${folder})
    endif()
  elseif(NOT line MATCHES "^(-D)?$")
    list(APPEND flags ${line})
  endif()
endforeach()
set(ENV{LC_ALL} C)  # plain quotation marks in messages
if(EXPECT STREQUAL "time")
  set(command ${CMAKE_COMMAND} -E time ${COMPILER} ${flags} -O3 -c -o /dev/null ${SOURCE})
else()
  set(command ${COMPILER} ${flags} -fsyntax-only ${SOURCE})
endif()
execute_process(COMMAND ${command}
                RESULT_VARIABLE status OUTPUT_VARIABLE text ERROR_VARIABLE text)
if(NOT EXPECT STREQUAL "fail")
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "${SOURCE} does not compile:\n${text}")
  endif()
  message(STATUS "${text}")
  return()
endif()
file(STRINGS ${SOURCE} first LIMIT_COUNT 1)
if(NOT first MATCHES "^// expect: (.+)$")
  message(FATAL_ERROR "${SOURCE}: the first line must be `// expect: REGEX`, and is `${first}`")
endif()
set(regex "${CMAKE_MATCH_1}")
if(status EQUAL 0)
  message(FATAL_ERROR "${SOURCE} compiles, and must not. It was to be refused with: ${regex}")
endif()
if(NOT text MATCHES "${regex}")
  message(FATAL_ERROR "${SOURCE} is refused, but no message matches: ${regex}\n${text}")
endif()
