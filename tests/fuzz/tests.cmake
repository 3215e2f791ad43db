# The readers that are fuzzed. Every compiler runs their corpus (fuzz.corpus); clang builds dm2_fuzz for scripts/fuzz.
set(dm2_fuzz_readers tensors texts pictures resume large pack configurations)
list(TRANSFORM dm2_fuzz_readers REPLACE "(.+)" "${CMAKE_CURRENT_LIST_DIR}/\\1.cpp")
dm2_together(dm2_fuzz_units fuzz 2 ${dm2_fuzz_readers})

if(NOT DM2_FUZZ)
  add_executable(dm2_fuzz_tests ${CMAKE_CURRENT_LIST_DIR}/corpus_test.cpp ${dm2_fuzz_units})
  target_link_libraries(dm2_fuzz_tests PRIVATE dm2_test_main CLI11::CLI11)
  target_compile_definitions(dm2_fuzz_tests PRIVATE DM2_FUZZ_CORPUS="${CMAKE_CURRENT_LIST_DIR}/corpus")
  add_test(NAME fuzz.corpus COMMAND dm2_fuzz_tests)
  set_tests_properties(fuzz.corpus PROPERTIES TIMEOUT 900 ENVIRONMENT "${dm2_test_environment}" LABELS unit
                       FAIL_REGULAR_EXPRESSION "test cases: +0 ")
else()
  # stb_image is one of the readers, and is instrumented like them.
  set(dm2_fuzz_flags -O2 -g1 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
                     -D_GLIBCXX_ASSERTIONS)
  add_executable(dm2_fuzz ${CMAKE_CURRENT_LIST_DIR}/libfuzzer.cpp ${dm2_fuzz_units} ${PROJECT_SOURCE_DIR}/cmake/stb_image.cpp)
  target_link_libraries(dm2_fuzz PRIVATE dm2::dm2 CLI11::CLI11)
  target_include_directories(dm2_fuzz PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_include_directories(dm2_fuzz SYSTEM PRIVATE ${DM2_STB_INCLUDE_DIR})
  target_compile_definitions(dm2_fuzz PRIVATE DM2_WITH_STB=1)
  target_compile_options(dm2_fuzz PRIVATE ${dm2_fuzz_flags})
  target_link_options(dm2_fuzz PRIVATE -fsanitize=fuzzer,address,undefined)
  # Without sanitizers, about twice as fast: what it keeps, dm2_fuzz reads again. Comparisons are still told to libFuzzer.
  add_executable(dm2_fuzz_fast EXCLUDE_FROM_ALL ${CMAKE_CURRENT_LIST_DIR}/libfuzzer.cpp ${dm2_fuzz_units} ${PROJECT_SOURCE_DIR}/cmake/stb_image.cpp)
  target_link_libraries(dm2_fuzz_fast PRIVATE dm2::dm2 CLI11::CLI11)
  target_include_directories(dm2_fuzz_fast PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_include_directories(dm2_fuzz_fast SYSTEM PRIVATE ${DM2_STB_INCLUDE_DIR})
  target_compile_definitions(dm2_fuzz_fast PRIVATE DM2_WITH_STB=1)
  target_compile_options(dm2_fuzz_fast PRIVATE -O2 -g1 -fsanitize=fuzzer-no-link -D_GLIBCXX_ASSERTIONS)
  target_link_options(dm2_fuzz_fast PRIVATE -fsanitize=fuzzer)
  # For valgrind, which wants no sanitizer, knows no AVX-512, and reads (3.19) not all that DWARF 5 has. Most of its time is in
  # the libraries and in starting.
  add_executable(dm2_fuzz_inputs EXCLUDE_FROM_ALL ${CMAKE_CURRENT_LIST_DIR}/inputs.cpp ${dm2_fuzz_units} ${PROJECT_SOURCE_DIR}/cmake/stb_image.cpp)
  target_link_libraries(dm2_fuzz_inputs PRIVATE dm2::dm2 CLI11::CLI11)
  target_include_directories(dm2_fuzz_inputs PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_include_directories(dm2_fuzz_inputs SYSTEM PRIVATE ${DM2_STB_INCLUDE_DIR})
  target_compile_definitions(dm2_fuzz_inputs PRIVATE DM2_WITH_STB=1)
  target_compile_options(dm2_fuzz_inputs PRIVATE -O0 -g1 -gdwarf-4)
endif()

# stb_image and the walks before it under the memory sanitizer. The other readers use parts of libstdc++ that are compiled
# into the library (trees, hash tables), which would have to be instrumented too.
if(DM2_FUZZ)
  add_executable(dm2_fuzz_memory EXCLUDE_FROM_ALL ${CMAKE_CURRENT_LIST_DIR}/libfuzzer.cpp ${CMAKE_CURRENT_LIST_DIR}/pictures.cpp
                 ${PROJECT_SOURCE_DIR}/cmake/stb_image.cpp)
  target_compile_features(dm2_fuzz_memory PRIVATE cxx_std_20)
  target_include_directories(dm2_fuzz_memory PRIVATE ${CMAKE_CURRENT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/include)
  target_include_directories(dm2_fuzz_memory SYSTEM PRIVATE ${DM2_STB_INCLUDE_DIR})
  target_compile_definitions(dm2_fuzz_memory PRIVATE DM2_WITH_STB=1 DM2_FUZZ_PICTURES=1 _GLIBCXX_EXTERN_TEMPLATE=0)
  target_compile_options(dm2_fuzz_memory PRIVATE -O1 -g1 -fsanitize=fuzzer-no-link,memory -fno-sanitize-recover=all
                         -fno-omit-frame-pointer -fsanitize-ignorelist=${CMAKE_CURRENT_LIST_DIR}/memory_ignore.txt)
  target_link_options(dm2_fuzz_memory PRIVATE -fsanitize=fuzzer,memory)
endif()
