# Event files as TensorBoard's own reader sees them. Skipped where the package can be neither imported nor installed
# from PyPI into the build folder; -V says why.
find_package(Python3 COMPONENTS Interpreter QUIET)
if(Python3_FOUND)
  add_executable(dm2_write_tensorboard ${CMAKE_CURRENT_LIST_DIR}/write_tensorboard.cpp)
  target_link_libraries(dm2_write_tensorboard PRIVATE dm2::dm2 dm2_own)
  if(TARGET dm2_stb)
    target_link_libraries(dm2_write_tensorboard PRIVATE dm2_stb)
  endif()
  add_test(NAME train.tensorboard_reader
           COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/tensorboard_check.py
                   $<TARGET_FILE:dm2_write_tensorboard> ${PROJECT_BINARY_DIR}/tensorboard_venv)
  set_tests_properties(train.tensorboard_reader PROPERTIES TIMEOUT 700 LABELS python SKIP_RETURN_CODE 77)
endif()
