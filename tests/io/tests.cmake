# A file that dm2 wrote, as Python's safetensors package reads it. Skipped where the package can be neither imported nor
# installed from PyPI into the build folder; -V says why.
find_package(Python3 COMPONENTS Interpreter QUIET)
if(Python3_FOUND)
  add_executable(dm2_write_roundtrip ${CMAKE_CURRENT_LIST_DIR}/write_roundtrip.cpp)
  target_link_libraries(dm2_write_roundtrip PRIVATE dm2::dm2 dm2_own)
  add_test(NAME io.python_roundtrip
           COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/python_roundtrip.py
                   $<TARGET_FILE:dm2_write_roundtrip> ${PROJECT_BINARY_DIR}/safetensors_venv)
  set_tests_properties(io.python_roundtrip PROPERTIES TIMEOUT 700 LABELS python SKIP_RETURN_CODE 77)
endif()
