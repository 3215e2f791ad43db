# ONNX files as onnx's checker, its shape inference and onnxruntime see them; and the lines of docs/onnx.md as a user runs
# them. Skipped where the packages can be neither imported nor installed from PyPI into the build folder; -V says why.
find_package(Python3 COMPONENTS Interpreter QUIET)
if(Python3_FOUND AND TARGET dm2_program)
  add_executable(dm2_onnx_cases ${CMAKE_CURRENT_LIST_DIR}/write_cases.cpp)
  target_link_libraries(dm2_onnx_cases PRIVATE dm2::dm2 dm2_models dm2_own dm2_built_toolchain ${CMAKE_DL_LIBS})
  target_include_directories(dm2_onnx_cases PRIVATE ${PROJECT_SOURCE_DIR}/bench)
  target_compile_options(dm2_onnx_cases PRIVATE $<$<CONFIG:Release>:-O1>)
  add_test(NAME onnx.runtime COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/check_cases.py
           $<TARGET_FILE:dm2_onnx_cases> ${PROJECT_BINARY_DIR}/onnx_venv)
  add_test(NAME onnx.program COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/check_program.py
           $<TARGET_FILE:dm2_program> ${PROJECT_BINARY_DIR}/onnx_venv)
  set_tests_properties(onnx.runtime onnx.program PROPERTIES TIMEOUT 900 LABELS python SKIP_RETURN_CODE 77
                       ENVIRONMENT "${dm2_test_environment}" RESOURCE_LOCK onnx_venv)
endif()
