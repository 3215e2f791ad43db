# The example programs as a user runs them, and the parts they share. One ctest entry a source file.
if(TARGET minimal_train AND TARGET classify AND TARGET convert AND TARGET train AND TARGET evaluate AND TARGET make_shapes AND
   TARGET plot AND TARGET pack)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/*_test.cpp)
  dm2_together(units examples 2 ${sources})
  add_executable(dm2_examples_tests ${units})
  target_link_libraries(dm2_examples_tests PRIVATE dm2_test_main CLI11::CLI11)
  target_compile_definitions(dm2_examples_tests PRIVATE DM2_CLASSIFY="$<TARGET_FILE:classify>" DM2_DM2="$<TARGET_FILE:dm2_program>"
                             DM2_CONVERT="$<TARGET_FILE:convert>" DM2_TRAIN="$<TARGET_FILE:train>"
                             DM2_EVALUATE="$<TARGET_FILE:evaluate>" DM2_MINIMAL="$<TARGET_FILE_DIR:minimal_train>/minimal_"
                             DM2_QUICK_WEIGHTS="${PROJECT_SOURCE_DIR}/examples/weights/quick.safetensors"
                             DM2_MAKE_SHAPES="$<TARGET_FILE:make_shapes>" DM2_PLOT="$<TARGET_FILE:plot>" DM2_PACK="$<TARGET_FILE:pack>"
                             DM2_PROJECT_VERSION="${PROJECT_VERSION}" $<$<BOOL:${DM2_HAS_CUDA}>:DM2_EXAMPLES_CUDA=1>)
  add_dependencies(dm2_examples_tests dm2_program classify convert train evaluate make_shapes plot pack
                   minimal_classify minimal_custom_loop minimal_train)
  foreach(source ${sources})
    get_filename_component(name ${source} NAME)
    string(REGEX REPLACE "_test\\.cpp$" "" name ${name})
    add_test(NAME examples.${name} COMMAND dm2_examples_tests --source-file=*/examples/${name}_test.cpp)
    set_tests_properties(examples.${name} PROPERTIES COST 20 TIMEOUT 600 LABELS example ENVIRONMENT "${dm2_test_environment}"
                         FAIL_REGULAR_EXPRESSION "test cases: +0 ")
  endforeach()
endif()
