# A sample of what scripts/reliability does for hours: failing calls, full disks, losses of power, kills.
find_package(Python3 COMPONENTS Interpreter QUIET)
if(Python3_FOUND AND TARGET train AND TARGET evaluate AND TARGET convert AND TARGET plot AND TARGET pack AND CMAKE_SYSTEM_NAME STREQUAL "Linux")
  add_library(dm2_faults MODULE ${CMAKE_CURRENT_LIST_DIR}/shim.cpp)
  target_compile_features(dm2_faults PRIVATE cxx_std_20)
  target_compile_options(dm2_faults PRIVATE -Wall -Wextra -Werror)
  target_link_libraries(dm2_faults PRIVATE ${CMAKE_DL_LIBS})
  foreach(campaign calls disks power kills packs)
    add_test(NAME faults.${campaign}
             COMMAND ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/scripts/reliability --quick ${campaign}
                     --programs $<TARGET_FILE_DIR:train> --shim $<TARGET_FILE:dm2_faults>)
    set_tests_properties(faults.${campaign} PROPERTIES COST 60 TIMEOUT 900 LABELS example)
  endforeach()
endif()

# The verdicts of scripts/sanitize_kernels, from reports in compute-sanitizer's words.
if(Python3_FOUND)
  add_test(NAME faults.sanitize_kernels COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/sanitize_kernels_test.py)
  set_tests_properties(faults.sanitize_kernels PROPERTIES TIMEOUT 300 LABELS unit)
endif()
