# Scripts for machines with a GPU, with programs that the tests write.
if(Python3_FOUND AND CMAKE_SYSTEM_NAME STREQUAL "Linux")
  foreach(script gpu_figures compare_times)
    add_test(NAME scripts.${script} COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/${script}_test.py)
    set_tests_properties(scripts.${script} PROPERTIES COST 40 TIMEOUT 600 LABELS unit)
  endforeach()
endif()

# A Debian package's changelog: the unreleased changes under the version that was given, then the first version.
add_test(NAME scripts.debian_changelog COMMAND ${PROJECT_SOURCE_DIR}/packaging/debian/changelog.sh ${PROJECT_SOURCE_DIR}/CHANGELOG.md
                                               9.8.7 "A Name <name@example.org>" 86400)
set_tests_properties(scripts.debian_changelog PROPERTIES TIMEOUT 60 LABELS unit PASS_REGULAR_EXPRESSION
  "^dm2 \\(9\\.8\\.7\\) unstable; urgency=medium\n\n  \\* .*\n -- A Name <name@example\\.org>  Fri, 02 Jan 1970 00:00:00 \\+0000\n\ndm2 \\(0\\.1\\.0\\).* The first version: ")
