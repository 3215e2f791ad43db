# find_package(dm2 CONFIG) after `cmake --install`.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(dm2_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/dm2)
set(dm2_targets dm2)
if(DM2_HAS_MPI)
  list(APPEND dm2_targets dm2_mpi)
endif()
if(DM2_HAS_CUDA)
  list(APPEND dm2_targets dm2_cuda)
endif()
set(dm2_independent ARCH_INDEPENDENT)
if(DM2_HAS_STB)
  list(APPEND dm2_targets dm2_stb)
  set(dm2_independent "")
  install(FILES ${DM2_STB_INCLUDE_DIR}/stb_image.h ${DM2_STB_INCLUDE_DIR}/stb_image_write.h
          DESTINATION include/dm2/third_party)
endif()
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/dm2 DESTINATION include FILES_MATCHING PATTERN "*.hpp"
                                                                                            PATTERN "*.cuh")
install(TARGETS ${dm2_targets} EXPORT dm2-targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT dm2-targets NAMESPACE dm2:: DESTINATION ${dm2_package_dir})
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/dm2-config.cmake.in ${PROJECT_BINARY_DIR}/dm2-config.cmake
                              INSTALL_DESTINATION ${dm2_package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/dm2-config-version.cmake
                                 COMPATIBILITY SameMinorVersion ${dm2_independent})
install(FILES ${PROJECT_BINARY_DIR}/dm2-config.cmake ${PROJECT_BINARY_DIR}/dm2-config-version.cmake
        DESTINATION ${dm2_package_dir})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
