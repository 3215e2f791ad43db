# dm2_built_toolchain: tells dm2's own programs how they were compiled, so that they can compile models in the same way, and
# from which headers. A program that links it has dm2::run::built_toolchain().
set(dm2_run_folder ${PROJECT_BINARY_DIR}/run)

# dm2_run_words(TEXT OUT): the words of a text as a shell has them, a line each.
function(dm2_run_words text out)
  separate_arguments(words UNIX_COMMAND "${text}")
  list(JOIN words "\n" words)
  set(${out} "${words}" PARENT_SCOPE)
endfunction()

# dm2_run_tell(LANGUAGE OWN FLAGS LIBRARIES): writes LANGUAGE_as_LANGUAGE.inc, the built_compiler of what a program is compiled with that
# links OWN: words a line each. FLAGS come before the others. Words that begin with -W are left out, save what is passed on
# (-Wl,...): models are compiled without warnings. --param is, too: users' machines may have little memory.
function(dm2_run_tell language own flags libraries)
  set(probe dm2_run_probe_${language})  # never built: its properties are asked for
  add_library(${probe} OBJECT EXCLUDE_FROM_ALL ${PROJECT_SOURCE_DIR}/cmake/run/headers_hash.cpp)
  target_link_libraries(${probe} PRIVATE dm2::dm2 ${own})
  dm2_run_words("${CMAKE_${language}_FLAGS}" words)
  string(APPEND flags "\n${words}")
  foreach(configuration ${CMAKE_CONFIGURATION_TYPES} ${CMAKE_BUILD_TYPE})
    string(TOUPPER ${configuration} upper)
    dm2_run_words("${CMAKE_${language}_FLAGS_${upper}}" words)
    string(APPEND flags "\n$<$<CONFIG:${configuration}>:${words}>")
  endforeach()
  set(all "$<TARGET_PROPERTY:${probe},COMPILE_OPTIONS>")
  set(options "$<FILTER:${all},EXCLUDE,^(--param=|(-Xcompiler=)?-W([^alp]|[alp][^$<COMMA>]))>")
  # The properties depend on the language: CMake writes a file for each that is enabled, and one of them is right.
  file(GENERATE OUTPUT ${dm2_run_folder}/$<CONFIG>/${language}_as_$<COMPILE_LANGUAGE>.inc CONTENT
"{R\"dm2(${CMAKE_${language}_COMPILER})dm2\", \"${CMAKE_${language}_COMPILER_ID} ${CMAKE_${language}_COMPILER_VERSION}\",
R\"dm2(${flags}
$<JOIN:${options},
>
-w)dm2\", R\"dm2($<JOIN:$<TARGET_PROPERTY:${probe},COMPILE_DEFINITIONS>,
>)dm2\", R\"dm2($<JOIN:$<TARGET_PROPERTY:${probe},INCLUDE_DIRECTORIES>,
>)dm2\", R\"dm2(${libraries})dm2\", 0};
")
endfunction()

set(libraries ${JPEG_LIBRARIES} ${PNG_LIBRARIES})
list(FILTER libraries INCLUDE REGEX "^(/|-l)")
list(JOIN libraries "\n" libraries)
dm2_run_tell(CXX dm2_own "${CMAKE_CXX20_STANDARD_COMPILE_OPTION}\n-fPIC" "${libraries}")
set(dm2_run_has_cuda 0)
if(DM2_HAS_CUDA)
  set(dm2_run_has_cuda 1)
  set(host ${CMAKE_CUDA_HOST_COMPILER})
  if(NOT host)
    set(host ${CMAKE_CUDA_HOST_LINK_LAUNCHER})  # what nvcc took by itself when CMake tried it
  endif()
  if(host)
    set(host "\n-ccbin=${host}")
  endif()
  dm2_run_tell(CUDA dm2_cuda_own "-forward-unknown-to-host-compiler\n-Xcompiler=-fPIC${host}"
               "$<TARGET_FILE:CUDA::cudart>\n$<TARGET_FILE:CUDA::cublasLt>")
endif()

# A hash of every header, made again when one changes.
add_executable(dm2_headers_hash EXCLUDE_FROM_ALL ${PROJECT_SOURCE_DIR}/cmake/run/headers_hash.cpp)
target_compile_features(dm2_headers_hash PRIVATE cxx_std_20)
target_include_directories(dm2_headers_hash PRIVATE ${PROJECT_SOURCE_DIR}/include)
file(GLOB_RECURSE headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/include/dm2/*.hpp ${PROJECT_SOURCE_DIR}/include/dm2/*.cuh)
add_custom_command(OUTPUT ${dm2_run_folder}/headers.inc
                   COMMAND dm2_headers_hash ${PROJECT_SOURCE_DIR}/include/dm2 ${dm2_run_folder}/headers.inc
                   DEPENDS dm2_headers_hash ${headers} COMMENT "Hashing dm2's headers" VERBATIM)

configure_file(${PROJECT_SOURCE_DIR}/cmake/run/built_toolchain.cpp.in ${dm2_run_folder}/built_toolchain.cpp @ONLY)
add_library(dm2_built_toolchain STATIC EXCLUDE_FROM_ALL ${dm2_run_folder}/built_toolchain.cpp ${dm2_run_folder}/headers.inc)
target_compile_features(dm2_built_toolchain PUBLIC cxx_std_20)
target_include_directories(dm2_built_toolchain PUBLIC ${PROJECT_SOURCE_DIR}/include
                                               PRIVATE ${dm2_run_folder} ${dm2_run_folder}/$<CONFIG>)
set_target_properties(dm2_built_toolchain PROPERTIES POSITION_INDEPENDENT_CODE ON)  # libdm2 has it, too
