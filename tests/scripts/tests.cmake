# Scripts for machines with a GPU, with programs that the tests write.
if(Python3_FOUND AND CMAKE_SYSTEM_NAME STREQUAL "Linux")
  foreach(script gpu_figures compare_times)
    add_test(NAME scripts.${script} COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/${script}_test.py)
    set_tests_properties(scripts.${script} PROPERTIES COST 40 TIMEOUT 600 LABELS unit)
  endforeach()
endif()
